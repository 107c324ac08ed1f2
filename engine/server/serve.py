"""Running the server: the socket, the signals, and the order in which it goes down."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from types import FrameType
from typing import Any

import uvicorn

from engine.server.app import Service, create_app
from engine.server.settings import ServerSettings, SettingsError

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def serve(settings: ServerSettings) -> int:
    """Serve until SIGTERM or Ctrl-C; return the process's exit code. Says on stderr where it can be reached.

    On the first signal readiness turns to 503, requests are still answered for `drain_delay_s`, then no new
    ones are accepted, and those under way and the model that is loading get `drain_limit_s` to end: code 0 after
    SIGTERM, 130 after Ctrl-C. A second signal ends the process at once. Code 1 when no model could be loaded.

    Raises PipelineError when an endpoint's task, options or folder are wrong, SettingsError when the address
    can't be used.
    """
    app = create_app(settings)
    with _bound(settings.host, settings.port) as listener:
        config = uvicorn.Config(
            app,
            log_config=_log_config(settings.log_level.upper()),
            access_log=settings.log_level == "debug",
            server_header=False,
            timeout_graceful_shutdown=max(1, round(settings.drain_limit_s)),
        )
        server = _Server(config, app.state.service, listener)
        server.run(sockets=[listener])
    return server.exit_code


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # asyncio sets TCP_NODELAY on accepted connections only where the listener names TCP itself.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(f"can't listen on {host} port {port}: {reason}; choose another with --port") from error
    return listener


def _log_config(level: str) -> dict[str, Any]:
    """Everything to stderr: stdout stays free for whoever started the process."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
        "loggers": {
            name: {"handlers": ["stderr"], "level": max_level, "propagate": False}
            for name, max_level in (("uvicorn", "WARNING" if level == "INFO" else level), ("sparrow", level))
        },
    }


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service, listener: socket.socket) -> None:
        super().__init__(config)
        self.exit_code = 0
        self._service = service
        self._address = listener.getsockname()
        self._drain: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        settings = self._service.settings
        for key in settings.unused():
            self._say(f"{key} is read and has no effect")
        if settings.host not in _LOOPBACK:
            self._say(f"{settings.host} is reachable from other machines, and nobody is asked for a password")
        self._say(f"listening on {self._url()} and loading {len(self._service.endpoints)} model(s)")
        self._announced = asyncio.create_task(self._announce())

    async def _announce(self) -> None:
        await self._service.loaded.wait()
        failed = [endpoint for endpoint in self._service.endpoints.values() if endpoint.problem]
        for endpoint in failed:
            self._say(f"model {endpoint.name} can't be served: {endpoint.problem}")
        if len(failed) == len(self._service.endpoints):
            self.exit_code, self.should_exit = 1, True
            return
        names = ", ".join(name for name, endpoint in self._service.endpoints.items() if not endpoint.problem)
        self._say(f"ready: {names} at {self._url()} (POST {self._url()}predict/NAME, routes at {self._url()}docs)")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends the process. Replaces uvicorn's, which would end by the
        signal itself after a clean drain.
        """
        del frame
        if self._service.draining:
            os._exit(128 + sig)
        self._service.drain()
        self.exit_code = 130 if sig == signal.SIGINT else self.exit_code
        self._loop.call_soon_threadsafe(self._start_drain)

    def _start_drain(self) -> None:
        self._say("stopping: no longer ready, finishing what is under way; a second signal ends at once")
        self._drain = asyncio.create_task(self._stop_later())

    async def _stop_later(self) -> None:
        await asyncio.sleep(self._service.settings.drain_delay_s)
        self.should_exit = True

    def _url(self) -> str:
        host, port = self._address[:2]
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    def _say(self, text: str) -> None:
        print(f"sparrow: {text}", file=sys.stderr, flush=True)
