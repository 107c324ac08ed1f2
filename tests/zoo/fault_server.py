"""An HTTP server on the loopback whose answers misbehave when a test asks for it.

It serves blobs of its own, or passes requests on to a real registry. Each request takes the next fault from `faults`,
a list of functions of an `Exchange`; without one it is answered well. `requests` records what came.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import re
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

BLOB_PATH = re.compile(r".*/blobs/(sha256:[0-9a-f]{64})\Z")


def noise(seed: object, count: int) -> bytes:
    """Bytes that don't compress, the same for the same seed."""
    return hashlib.shake_128(str(seed).encode()).digest(count)


@dataclass
class Exchange:
    """One request and the connection that waits for its answer."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: socket.socket
    server: FaultServer

    @property
    def blob(self) -> bytes:
        match = BLOB_PATH.match(self.path)
        return self.server.blobs[match[1]] if match else b""

    @property
    def start(self) -> int:
        match = re.match(r"bytes=(\d+)-\Z", self.headers.get("range", ""))
        return int(match[1]) if match else 0

    def good(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the right answer."""
        if self.server.upstream:
            return self._forward()
        match = BLOB_PATH.match(self.path)
        if not match or match[1] not in self.server.blobs:
            return (
                404,
                {"Content-Type": "application/problem+json"},
                b'{"code": "BLOB_UNKNOWN", "detail": "no such blob"}',
            )
        blob, etag = self.blob, f'"{match[1]}"'
        headers = {"ETag": etag, "Content-Type": "application/octet-stream"}
        if not self.start or self.headers.get("if-range", etag) != etag:
            return 200, headers, blob
        if self.start >= len(blob):
            return 416, {"Content-Range": f"bytes */{len(blob)}"}, b""
        headers["Content-Range"] = f"bytes {self.start}-{len(blob) - 1}/{len(blob)}"
        return 206, headers, blob[self.start :]

    def _forward(self) -> tuple[int, dict[str, str], bytes]:
        target = urlsplit(self.server.upstream)
        connection = http.client.HTTPConnection(str(target.hostname), target.port, timeout=30)
        headers = {k: v for k, v in self.headers.items() if k not in ("host", "connection")}
        connection.request(self.method, self.path, self.body, headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        dropped = ("content-length", "transfer-encoding", "connection")
        return answer.status, {k: v for k, v in answer.getheaders() if k.lower() not in dropped}, body

    def head(self, status: int, headers: dict[str, str], length: int | None) -> bytes:
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
        if length is not None:
            lines.append(f"Content-Length: {length}")
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")

    def answer(self, status: int, headers: dict[str, str], body: bytes, length: int | None = -1) -> None:
        """Sends an answer; `length` is what Content-Length says (-1: the truth, None: nothing)."""
        self.send(self.head(status, headers, len(body) if length == -1 else length) + body)

    def send(self, data: bytes) -> None:
        with suppress(OSError):
            self.connection.sendall(data)

    def reset(self) -> None:
        """Ends the connection with RST, as a dying peer does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Fault = Callable[[Exchange], None]


@dataclass
class FaultServer:
    """See the module's text."""

    upstream: str | None = None
    blobs: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    always: Fault | None = None
    requests: list[Exchange] = field(default_factory=list)
    url: str = ""

    def add(self, data: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs[digest] = data
        return digest

    def handle(self, exchange: Exchange) -> None:
        self.requests.append(exchange)
        fault = self.faults.pop(0) if self.faults else self.always or well
        fault(exchange)

    @contextmanager
    def running(self) -> Iterator[FaultServer]:
        owner = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with suppress(OSError, ValueError):
                    exchange = self.read()
                    if exchange:
                        owner.handle(exchange)

            def read(self) -> Exchange | None:
                first = self.rfile.readline().decode("latin-1").split()
                if len(first) != 3:
                    return None
                headers = {}
                while (line := self.rfile.readline().decode("latin-1").strip()) != "":
                    name, _, value = line.partition(":")
                    headers[name.lower()] = value.strip()
                body = self.rfile.read(int(headers.get("content-length", 0)))
                return Exchange(first[0], first[1], headers, body, self.connection, owner)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64
            block_on_close = False

        with Server(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


def well(exchange: Exchange) -> None:
    exchange.answer(*exchange.good())


def cut_in_headers(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Le")


def cut_after(count: int, *, reset: bool = False) -> Fault:
    """Promises everything and ends after `count` bytes of the body."""

    def fault(exchange: Exchange) -> None:
        status, headers, body = exchange.good()
        exchange.send(exchange.head(status, headers, len(body)) + body[:count])
        if reset:
            exchange.reset()

    return fault


def cut_chunked(count: int) -> Fault:
    def fault(exchange: Exchange) -> None:
        status, headers, body = exchange.good()
        head = exchange.head(status, {**headers, "Transfer-Encoding": "chunked"}, None)
        exchange.send(head + f"{len(body):x}\r\n".encode() + body[:count])

    return fault


def without_length(exchange: Exchange) -> None:
    status, headers, body = exchange.good()
    exchange.answer(status, headers, body, None)


def without_length_cut_after(count: int) -> Fault:
    def fault(exchange: Exchange) -> None:
        status, headers, body = exchange.good()
        exchange.answer(status, headers, body[:count], None)

    return fault


def with_length(length: int) -> Fault:
    def fault(exchange: Exchange) -> None:
        status, headers, body = exchange.good()
        exchange.answer(status, headers, body, length)

    return fault


def longer(extra: bytes, *, honest: bool) -> Fault:
    """Sends more bytes than the blob has; `honest` says so in Content-Length, otherwise none is sent."""

    def fault(exchange: Exchange) -> None:
        status, headers, body = exchange.good()
        exchange.answer(status, headers, body + extra, -1 if honest else None)

    return fault


def flipped(exchange: Exchange) -> None:
    status, headers, body = exchange.good()
    exchange.answer(status, headers, bytes([body[0] ^ 1]) + body[1:])


def range_ignored(exchange: Exchange) -> None:
    exchange.headers.pop("range", None)
    well(exchange)


def content_range(text: str) -> Fault:
    def fault(exchange: Exchange) -> None:
        status, headers, body = exchange.good()
        exchange.answer(status, {**headers, "Content-Range": text}, body)

    return fault


def other_etag(text: str) -> Fault:
    def fault(exchange: Exchange) -> None:
        status, headers, body = exchange.good()
        exchange.answer(status, {**headers, "ETag": text}, body)

    return fault


def page(text: bytes, status: int = 200, media_type: str = "text/html; charset=utf-8") -> Fault:
    return lambda exchange: exchange.answer(status, {"Content-Type": media_type}, text)


def gzipped(exchange: Exchange) -> None:
    status, headers, body = exchange.good()
    exchange.answer(status, {**headers, "Content-Encoding": "gzip"}, gzip.compress(body))


def redirected(location: str, status: int = 307) -> Fault:
    return lambda exchange: exchange.answer(status, {"Location": location}, b"")


def refused(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> Fault:
    return lambda exchange: exchange.answer(status, headers or {}, body)


def trickled(interval_s: float, *, headers_too: bool = False) -> Fault:
    """One byte at a time."""

    def fault(exchange: Exchange) -> None:
        status, headers, body = exchange.good()
        head = exchange.head(status, headers, len(body))
        if not headers_too:
            exchange.send(head)
        for byte in (head if headers_too else b"") + body:
            try:
                exchange.connection.sendall(bytes([byte]))
            except OSError:
                return
            time.sleep(interval_s)

    return fault
