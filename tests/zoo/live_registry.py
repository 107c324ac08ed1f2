"""A real registry on the loopback, for tests of the library."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from registry.app import create_app
from registry.server import listen
from registry.settings import Settings


@contextmanager
def serving(storage: Path, **given: object) -> Iterator[str]:
    """Serves an own registry from the folder while the block runs; gives its address."""
    settings = Settings.load(storage=storage, port=0, **given)
    listener = listen(settings)
    config = uvicorn.Config(
        create_app(settings), log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the registry didn't start"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
