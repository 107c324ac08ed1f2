"""Row 46: where a hub's redirects may lead."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from zoo.addresses import is_public
from zoo.importing.addresses import CheckedTransport, UnsafeAddressError, public_address

ROOT = Path(__file__).parents[3]


@contextmanager
def _server(answer: str | bytes) -> Iterator[tuple[str, list[str]]]:
    """Redirects everything to a URL, or answers with bytes; gives its address and the requests that came."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(f"{self.headers['host']} {self.path}")
            self.send_response(302 if isinstance(answer, str) else 200)
            if isinstance(answer, str):
                self.send_header("Location", answer)
            self.send_header("Content-Length", "0" if isinstance(answer, str) else str(len(answer)))
            self.end_headers()
            self.wfile.write(b"" if isinstance(answer, str) else answer)

        do_HEAD = do_GET  # noqa: N815  # the server's name for it

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()


def _get(endpoint: str, url: str) -> httpx2.Response:
    with httpx2.Client(transport=CheckedTransport(endpoint), follow_redirects=True, timeout=5) as client:
        return client.get(url)


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/secret",
        "http://localhost:{port}/secret",
        "http://2130706433:{port}/secret",
        "http://0x7f.1:{port}/secret",
        "http://0.0.0.0:{port}/secret",
        "http://[::1]:{port}/secret",
        "http://[::ffff:127.0.0.1]:{port}/secret",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://224.0.0.1/",
    ],
)
def test_row_46_a_redirect_into_the_own_network_is_refused_before_it_connects(target: str) -> None:
    with _server(b"secret") as (inner, seen), _server(target.format(port=inner.rpartition(":")[2])) as (hub, _):
        with pytest.raises(UnsafeAddressError, match="network"):
            _get(hub, f"{hub}/file")
        assert seen == []


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.org/x", "gopher://127.0.0.1/"])
def test_row_46_other_schemes_are_refused(target: str) -> None:
    with _server(target) as (hub, _), pytest.raises((UnsafeAddressError, httpx2.HTTPError)):
        _get(hub, f"{hub}/file")


def test_row_46_an_encrypted_hub_can_t_lead_away_from_encryption() -> None:
    transport = CheckedTransport("https://hub.example")
    with pytest.raises(UnsafeAddressError, match="encrypted"):
        transport.handle_request(httpx2.Request("GET", "http://cdn.example/file"))


def test_the_hub_itself_may_be_anywhere_the_user_says() -> None:
    with _server(b"fine") as (hub, seen):
        assert _get(hub, f"{hub}/file").content == b"fine"
        assert len(seen) == 1


def _resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
    left = list(answers)

    def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_row_46_every_address_of_a_name_must_be_public(monkeypatch: pytest.MonkeyPatch) -> None:
    _resolving(monkeypatch, ["93.184.216.34", "10.0.0.8"])
    with pytest.raises(UnsafeAddressError, match=r"10\.0\.0\.8"):
        public_address("cdn.example", 443)


def test_row_46_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that answers with another address the second time isn't asked a second time."""
    sent: list[httpx2.Request] = []

    def record(_: object, request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(200)

    _resolving(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", record)
    with CheckedTransport("https://hub.example") as transport:
        transport.handle_request(httpx2.Request("GET", "https://cdn.example/file"))
    (request,) = sent
    assert request.url.host == "93.184.216.34"
    assert (request.headers["host"], request.extensions["sni_hostname"]) == ("cdn.example", "cdn.example")


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


def test_row_46_the_command_refuses_it_too(tmp_path: Path) -> None:
    with _server(b"secret") as (inner, seen), _server(f"{inner}/secret") as (hub, _):
        env = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path)}
        command = [sys.executable, "-m", "cli", "import", "hf:a/b", "--out", str(tmp_path / "out")]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
        assert (done.returncode, seen) == (5, []), done.stderr
        assert "own network" in done.stderr
