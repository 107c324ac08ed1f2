"""Requests: redirects, tokens, retries, certificates, and answers as errors. Rows are those of the list of faults."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from tests.zoo import fault_server as faulty
from tests.zoo.fault_server import FaultServer
from tests.zoo.transfer.one_blob import BLOB, DIGEST, QUICK, assert_absent, assert_whole, fetch
from zoo.cache import Cache
from zoo.client import RegistryClient
from zoo.errors import AccessError, ConflictError, NotFoundError, UnavailableError, ZooError
from zoo.progress import ZooWarning
from zoo.retry import TransientError, parse_retry_after, repeat, wait_before
from zoo.settings import Patience, Settings, SettingsError
from zoo.stub import Stub


def test_row_17_token_stays_with_its_host(server: FaultServer, settings: Settings, cache: Cache) -> None:
    with FaultServer().running() as other:
        other.add(BLOB)
        server.always = faulty.redirected(f"{other.url}/blobs/{DIGEST}")
        fetch(replace(settings, token="secret"), cache)
        assert_whole(cache)
        assert server.requests[0].headers["authorization"] == "Bearer secret"
        assert "authorization" not in other.requests[0].headers
        assert "secret" not in str(other.requests[0].headers)


def test_row_17_cookies_are_never_kept(server: FaultServer, settings: Settings, cache: Cache) -> None:
    server.faults = [faulty.redirected(f"/api/v1/blobs/{DIGEST}?again")]
    server.faults[0] = lambda x: x.answer(307, {"Location": f"/api/v1/blobs/{DIGEST}", "Set-Cookie": "a=b"}, b"")
    fetch(settings, cache)
    assert "cookie" not in server.requests[1].headers


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://example.org/x", "gopher://x", "http://", "http://[::1", "data:,x"]
)
def test_row_17_other_schemes_are_not_followed(
    server: FaultServer, settings: Settings, cache: Cache, location: str
) -> None:
    server.always = faulty.redirected(location)
    with pytest.raises(UnavailableError):
        fetch(settings, cache)
    assert_absent(cache)


def test_row_17_loop_ends_after_five_hops(server: FaultServer, settings: Settings, cache: Cache) -> None:
    server.always = faulty.redirected(f"/api/v1/blobs/{DIGEST}")
    with pytest.raises(UnavailableError, match="more than 5 times"):
        fetch(settings, cache)
    assert len(server.requests) == 6


def test_row_17_writes_are_not_redirected(server: FaultServer, settings: Settings) -> None:
    server.always = faulty.redirected("http://127.0.0.1:1/")
    with RegistryClient(settings) as client, pytest.raises(UnavailableError, match="writes aren't redirected"):
        client.blobs.missing([DIGEST])


def test_row_30_retry_after_forms() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert parse_retry_after("7") == 7
    assert parse_retry_after(format_datetime(now + timedelta(seconds=9), usegmt=True), now) == 9
    for text in (
        None,
        "-5",
        "",
        "soon",
        "1e3",
        format_datetime(now - timedelta(days=1), usegmt=True),
        "9" * 5000 + "x",
    ):
        assert parse_retry_after(text, now) is None
    huge = parse_retry_after("9" * 5000)
    assert huge is not None
    assert wait_before(0, TransientError("x", huge), QUICK) == QUICK.longest_wait_s


def test_row_30_waits_have_jitter_and_a_bound() -> None:
    waits = [wait_before(3, TransientError("x"), Patience()) for _ in range(50)]
    assert len(set(waits)) > 40
    assert all(2 <= wait <= 4 for wait in waits)
    assert wait_before(10_000, TransientError("x"), Patience()) <= 20


def test_row_30_total_time_is_bounded() -> None:
    waits: list[float] = []

    def fail() -> None:
        raise TransientError("x", 15)

    with pytest.raises(TransientError):
        repeat(fail, replace(Patience(), total_s=10), waits.append)
    assert waits == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("after", [None, "0", "-1", "99999999999", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_row_30_passing_refusals_are_repeated(
    server: FaultServer, settings: Settings, cache: Cache, status: int, after: str | None
) -> None:
    server.faults = [faulty.refused(status, {"Retry-After": after} if after else {})]
    fetch(settings, cache)
    assert_whole(cache)


def test_row_30_lasting_refusal_ends(server: FaultServer, settings: Settings, cache: Cache) -> None:
    server.always = faulty.refused(503, {}, b'{"detail": "down for repair"}')
    with pytest.raises(UnavailableError, match="down for repair"):
        fetch(settings, cache)
    assert len(server.requests) == QUICK.attempts


def test_row_30_nobody_listens_and_no_such_host(settings: Settings, cache: Cache) -> None:
    for endpoint in ("http://127.0.0.1:9", "http://no-such-host.invalid"):
        began = time.monotonic()
        with pytest.raises(UnavailableError, match=r"can't be reached.*zoo registry serve"):
            fetch(replace(settings, endpoint=endpoint), cache)
        assert time.monotonic() - began < 10


def test_row_30_expired_certificate_is_named_and_not_repeated(
    settings: Settings, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, request, certificate = (str(tmp_path / name) for name in ("key.pem", "request.pem", "certificate.pem"))
    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run(["openssl", *new, "-keyout", key, "-out", request], check=True, capture_output=True)
    sign = ["x509", "-req", "-in", request, "-signkey", key, "-days", "-1", "-out", certificate]
    subprocess.run(["openssl", *sign], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    attempts = 0
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            nonlocal attempts
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    attempts += 1
                    with suppress(OSError), context.wrap_socket(connection, server_side=True):
                        pass

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(UnavailableError, match=r"certificate of .* isn't trusted: .*SSL_CERT_FILE"):
            fetch(replace(settings, endpoint=f"https://localhost:{listener.getsockname()[1]}"), cache)
    assert attempts == 1


def test_row_22_wrong_certificate_file_or_proxy_is_named(
    settings: Settings, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in (("SSL_CERT_FILE", str(tmp_path / "absent")), ("HTTPS_PROXY", "nonsense://x")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            with pytest.raises(SettingsError, match=variable):
                fetch(settings, cache)


def test_loopback_needs_no_proxy(
    server: FaultServer, settings: Settings, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    fetch(settings, cache)
    assert_whole(cache)


def test_row_35_token_over_plain_http_to_another_machine_is_warned_of(settings: Settings) -> None:
    with (
        pytest.warns(ZooWarning, match="unencrypted"),
        RegistryClient(replace(settings, endpoint="http://example.invalid", token="secret")),
    ):
        pass


@pytest.mark.parametrize("headers_too", [True, False])
def test_row_30_one_byte_at_a_time_ends(
    server: FaultServer, settings: Settings, cache: Cache, headers_too: bool
) -> None:
    server.always = faulty.trickled(0.05, headers_too=headers_too)
    began = time.monotonic()
    with pytest.raises(UnavailableError, match=r"bytes a second|took longer"):
        fetch(replace(settings, patience=replace(QUICK, attempts=2)), cache)
    assert time.monotonic() - began < 8


def test_row_30_document_one_byte_at_a_time_ends(server: FaultServer, settings: Settings) -> None:
    def slowly(exchange: faulty.Exchange) -> None:
        exchange.send(exchange.head(200, {"Content-Type": "application/json"}, 1000))
        for _ in range(100):
            exchange.send(b" ")
            time.sleep(0.05)

    server.always = slowly
    with RegistryClient(settings) as client, pytest.raises(UnavailableError, match="took longer than 1 s"):
        client.resolve(Stub.parse("zoo:a"))


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (401, b"{}", AccessError, "zoo auth login"),
        (403, b'{"detail": "not yours"}', AccessError, "not yours"),
        (
            404,
            b'{"code": "MODEL_UNKNOWN", "detail": "no model", "nearest": ["zoo:b"]}',
            NotFoundError,
            "nearest: zoo:b",
        ),
        (409, b'{"code": "VERSION_EXISTS", "detail": "v3 is taken"}', ConflictError, "v3 is taken"),
        (400, b"[" * 100_000, ZooError, "HTTP 400"),
        (418, b"\xff\x00", ZooError, "HTTP 418"),
        (200, b"[]", UnavailableError, "no JSON object"),
        (200, b"[" * 100_000, UnavailableError, "doesn't answer as a registry"),
        (200, b'{"manifest": {}}', ZooError, "manifest"),
    ],
)
def test_answers_are_mapped_to_errors(
    server: FaultServer, settings: Settings, status: int, body: bytes, kind: type[ZooError], text: str
) -> None:
    server.always = faulty.page(body, status, "application/problem+json")
    with RegistryClient(settings) as client, pytest.raises(kind, match=text):
        client.resolve(Stub.parse("zoo:a"))


def test_row_06_not_found_says_where_it_looked(server: FaultServer, settings: Settings) -> None:
    server.always = faulty.page(b'{"detail": "no model zoo:a"}', 404, "application/problem+json")
    with RegistryClient(settings) as client, pytest.raises(NotFoundError) as caught:
        client.resolve(Stub.parse("zoo:a"))
    assert server.url in str(caught.value)
    assert caught.value.exit_code == 3
