"""Serves the registry over HTTP."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from registry.app import create_app
from registry.db import Database
from registry.errors import StartError
from registry.identity import prepare
from registry.settings import Settings
from registry.storage import open_store

GRACE_S = 20


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then lets running requests end; raises `RegistryError` if it can't start.

    The URL is printed on stderr when the registry answers. A second signal ends at once.
    """
    _log_to_stderr()
    database = Database(settings.database)
    try:
        # here, because an error within the app's own start would end the process by force
        prepare(settings, database, open_store(settings))
    finally:
        database.close()
    listener = listen(settings)
    config = uvicorn.Config(
        create_app(settings.model_copy(update={"port": listener.getsockname()[1]})),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=GRACE_S,
        lifespan="on",
    )
    try:
        _Server(config).run(sockets=[listener])
    finally:
        listener.close()


def listen(settings: Settings) -> socket.socket:
    """A listening socket; raises `StartError` if the address is in use or isn't this machine's."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY if TCP is named
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(512)
    except (OSError, UnicodeError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise StartError(f"can't listen on {settings.host} port {settings.port}: {reason}; choose another") from error
    return listener


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print(f"registry at http://{shown}:{port}", file=sys.stderr, flush=True)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stops on a signal without raising it again afterwards, so that a stopped registry exits with 0."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _log_to_stderr() -> None:
    log = logging.getLogger("registry")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
