"""A server process on a loopback port, and a client for it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.engine.tiny_models import ENGINES

ENGINE = ENGINES[-1]
ASK = {"question": "where was it?", "context": "It was in Paris in Spring."}
# With windows of 16 tokens about 3,000 of them: a second or so of work in one request.
SLOW = {"question": "where?", "context": "the cat sat on a mat " * 3_000}
SHORT_WINDOWS = {"engine_type": ENGINE, "sequence_length": 16}
_PROGRAM = "import sys; from engine.server import read_config, serve; sys.exit(serve(read_config(sys.argv[1])))"


class Server:
    """A server process, and a client for it."""

    def __init__(self, config: Path, program: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(config)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.said: list[str] = []
        self.url = self._wait_for(r"listening on (http://\S+)/ ")
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def _wait_for(self, pattern: str) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(pattern, line):
                return found.group(1)
        raise AssertionError(f"the server ended: {self.said}")

    def wait_until_ready(self) -> Server:
        self._wait_for(r"(ready: .*)")
        # Keeps the pipe from filling up.
        threading.Thread(target=lambda: self.said.extend(self.process.stderr or []), daemon=True).start()
        return self


@contextmanager
def running(path: Path, endpoints: list[dict[str, Any]], program: str = _PROGRAM, **values: Any) -> Iterator[Server]:
    config = path / "server.yaml"
    config.write_text(json.dumps({"port": 0, "drain_delay_s": 0.3, "endpoints": endpoints, **values}))
    server = Server(config, program)
    try:
        yield server
    finally:
        server.client.close()
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait(10)
        for pipe in (server.process.stdout, server.process.stderr):
            assert pipe is not None


def endpoint(folder: Path, **values: Any) -> dict[str, Any]:
    return {"task": "question-answering", "model": str(folder), "kwargs": {"engine_type": ENGINE}, **values}


def assert_error(response: httpx.Response, *statuses: int) -> dict[str, Any]:
    assert response.status_code in statuses, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error["status"] == response.status_code
    assert error["message"]
    return error
