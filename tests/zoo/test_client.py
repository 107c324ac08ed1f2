"""Downloads and requests against a server that misbehaves. Rows are those of the list of faults."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from tests.zoo import fault_server as faulty
from tests.zoo.fault_server import FaultServer, noise
from zoo.cache import Cache
from zoo.client import RegistryClient
from zoo.download import fetch_file
from zoo.errors import (
    AccessError,
    CacheError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    UnavailableError,
    ZooError,
)
from zoo.manifest import FileEntry, Manifest, Role
from zoo.partial import Partial
from zoo.progress import ZooWarning
from zoo.retry import TransientError, parse_retry_after, repeat, wait_before
from zoo.settings import Patience, Settings, SettingsError
from zoo.stub import Stub

QUICK = Patience(
    connect_s=1, read_s=1, request_s=1, total_s=2, attempts=4, first_wait_s=0.01, longest_wait_s=0.05, slow_window_s=0.4
)
BLOB = noise(7, 200_001)
DIGEST = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"
ENTRY = FileEntry(path="training/model.safetensors", sha256=DIGEST, size_bytes=len(BLOB), role=Role.TRAINING)
MANIFEST = Manifest(name="zoo:a", files=(ENTRY,))


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        running.add(BLOB)
        yield running


@pytest.fixture
def settings(server: FaultServer, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", cache=tmp_path / "cache", endpoint=server.url, patience=QUICK)


@pytest.fixture
def cache(settings: Settings) -> Cache:
    return Cache.open(settings.cache)


def fetch(settings: Settings, cache: Cache, manifest: Manifest = MANIFEST) -> list[int]:
    seen: list[int] = []
    with RegistryClient(settings) as client:
        fetch_file(lambda: client.blobs, cache, manifest, manifest.files[0], settings.patience, seen.append)
    return seen


def placed(cache: Cache) -> Path:
    return cache.model_folder(MANIFEST) / ENTRY.path


def assert_whole(cache: Cache) -> None:
    assert placed(cache).read_bytes() == BLOB
    assert list((cache.root / "partial").iterdir()) == []


def assert_absent(cache: Cache) -> None:
    assert not placed(cache).exists()
    assert list((cache.root / "partial").glob("*.owner")) == []


@pytest.mark.parametrize(
    "fault",
    [
        faulty.cut_in_headers,
        faulty.cut_after(0),
        faulty.cut_after(1),
        faulty.cut_after(100_000),
        faulty.cut_after(100_000, reset=True),
        faulty.cut_after(len(BLOB) - 1),
        faulty.cut_chunked(100_000),
    ],
    ids=["headers", "before first", "first", "middle", "middle reset", "last", "chunked"],
)
def test_row_10_cut_connection_is_resumed(
    server: FaultServer, settings: Settings, cache: Cache, fault: faulty.Fault
) -> None:
    server.faults = [fault]
    fetch(settings, cache)
    assert_whole(cache)
    assert len(server.requests) == 2


def test_row_10_resumes_with_range_and_if_range(server: FaultServer, settings: Settings, cache: Cache) -> None:
    server.faults = [faulty.cut_after(100_000)]
    fetch(settings, cache)
    start = int(server.requests[1].headers["range"].removeprefix("bytes=").rstrip("-"))
    assert 0 < start <= 100_000
    assert server.requests[1].headers["if-range"] == f'"{DIGEST}"'


def test_row_10_cut_for_good_leaves_no_file_but_a_partial_to_continue(
    server: FaultServer, settings: Settings, cache: Cache
) -> None:
    server.faults = [faulty.cut_after(150_000), *[faulty.cut_in_headers] * 3]
    with pytest.raises(UnavailableError):
        fetch(settings, cache)
    assert_absent(cache)
    seen = fetch(settings, cache)
    assert_whole(cache)
    assert seen[0] > 100_000


def test_row_11_body_shorter_than_its_length(server: FaultServer, settings: Settings, cache: Cache) -> None:
    server.faults = [faulty.with_length(len(BLOB) + 1)]
    with pytest.warns(ZooWarning, match="expected 200001"):
        fetch(settings, cache)
    assert_whole(cache)


@pytest.mark.parametrize("honest", [True, False])
def test_row_11_longer_body_is_refused(server: FaultServer, settings: Settings, cache: Cache, honest: bool) -> None:
    server.always = faulty.longer(b"x", honest=honest)
    with pytest.warns(ZooWarning), pytest.raises(IntegrityError, match="expected"):
        fetch(settings, cache)
    assert_absent(cache)
    assert len(server.requests) == 2


def test_row_11_no_length_is_fine_and_a_silent_cut_is_found(
    server: FaultServer, settings: Settings, cache: Cache
) -> None:
    server.faults = [faulty.without_length_cut_after(1000), faulty.without_length]
    fetch(settings, cache)
    assert_whole(cache)
    assert len(server.requests) == 2


def test_row_12_right_size_wrong_bytes_are_fetched_once_more(
    server: FaultServer, settings: Settings, cache: Cache
) -> None:
    server.faults = [faulty.flipped]
    with pytest.warns(ZooWarning, match="fetching it once more"):
        fetch(settings, cache)
    assert_whole(cache)
    assert (cache.root / "quarantine" / DIGEST.removeprefix("sha256:")).stat().st_size == len(BLOB)


def test_row_12_wrong_bytes_twice_name_both_digests(server: FaultServer, settings: Settings, cache: Cache) -> None:
    server.always = faulty.flipped
    actual = hashlib.sha256(bytes([BLOB[0] ^ 1]) + BLOB[1:]).hexdigest()
    with pytest.warns(ZooWarning), pytest.raises(IntegrityError) as caught:
        fetch(settings, cache)
    assert DIGEST in str(caught.value)
    assert actual in str(caught.value)
    assert_absent(cache)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "fault",
    [
        faulty.range_ignored,
        faulty.content_range(f"bytes 0-{len(BLOB) - 1}/{len(BLOB)}"),
        faulty.content_range(f"bytes 5-{len(BLOB) - 1}/{len(BLOB)}"),
        faulty.content_range("bytes nonsense"),
        faulty.content_range("bytes 9-5/3"),
        faulty.refused(416, {"Content-Range": f"bytes */{len(BLOB)}"}),
        faulty.refused(204),
    ],
)
def test_row_13_wrong_range_starts_again(
    server: FaultServer, settings: Settings, cache: Cache, fault: faulty.Fault
) -> None:
    server.faults = [faulty.cut_after(150_000), fault]
    fetch(settings, cache)
    assert_whole(cache)


def test_row_13_ranges_wrong_for_ever_end(server: FaultServer, settings: Settings, cache: Cache) -> None:
    server.always = faulty.refused(416)
    with pytest.raises(UnavailableError, match="can't be continued"):
        fetch(settings, cache)
    assert len(server.requests) == QUICK.attempts


def test_row_14_changed_etag_starts_again(server: FaultServer, settings: Settings, cache: Cache) -> None:
    server.faults = [faulty.cut_after(150_000), faulty.other_etag('"another"')]
    fetch(settings, cache)
    assert_whole(cache)
    assert "range" not in server.requests[2].headers


def test_row_14_changed_object_is_never_mixed(server: FaultServer, settings: Settings, cache: Cache) -> None:
    """The first half comes from other bytes with another ETag; If-Range makes the server send all of the new ones."""

    def other_object(exchange: faulty.Exchange) -> None:
        head = exchange.head(200, {"ETag": '"old"'}, len(BLOB))
        exchange.send(head + bytes(100_000))

    server.faults = [other_object]
    fetch(settings, cache)
    assert_whole(cache)
    assert server.requests[1].headers["if-range"] == '"old"'


@pytest.mark.parametrize("status", [200, 403, 511])
def test_row_15_html_page_is_no_file(server: FaultServer, settings: Settings, cache: Cache, status: int) -> None:
    server.always = faulty.page(b"\n<!DOCTYPE html><title>Log in to the Wi-Fi</title>\n" + b"x" * 300_000, status)
    with pytest.raises((UnavailableError, AccessError, ZooError), match="Log in to the Wi-Fi"):
        fetch(settings, cache)
    assert_absent(cache)


def test_row_15_html_page_under_a_wrong_media_type(server: FaultServer, settings: Settings, cache: Cache) -> None:
    server.always = faulty.page(b"<html>sorry</html>", 200, "application/octet-stream")
    with pytest.warns(ZooWarning), pytest.raises(IntegrityError, match="18 bytes, expected 200001"):
        fetch(settings, cache)
    assert_absent(cache)


def test_row_15_html_instead_of_json(server: FaultServer, settings: Settings) -> None:
    server.always = faulty.page(b"<html>Log in</html>")
    with RegistryClient(settings) as client, pytest.raises(UnavailableError, match="Log in"):
        client.resolve(Stub.parse("zoo:a"))


def test_row_16_identity_is_requested_and_gzip_of_a_proxy_is_undone(
    server: FaultServer, settings: Settings, cache: Cache
) -> None:
    server.faults = [faulty.gzipped]
    fetch(settings, cache)
    assert_whole(cache)
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_row_16_gzip_bomb_stops_at_the_size(server: FaultServer, settings: Settings, cache: Cache) -> None:
    server.blobs[DIGEST] = bytes(40 << 20)
    server.always = faulty.gzipped
    with pytest.warns(ZooWarning), pytest.raises(IntegrityError, match="longer than the expected"):
        fetch(settings, cache)
    assert_absent(cache)


def test_row_16_gzip_bomb_of_a_document(server: FaultServer, settings: Settings) -> None:
    server.blobs[DIGEST] = bytes(40 << 20)

    def bomb(exchange: faulty.Exchange) -> None:
        exchange.path = f"/blobs/{DIGEST}"
        faulty.gzipped(exchange)

    server.always = bomb
    with RegistryClient(settings) as client, pytest.raises(UnavailableError, match="more than 33554432 bytes"):
        client.resolve(Stub.parse("zoo:a"))


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


def start_fetching(settings: Settings, count: int) -> subprocess.Popen[str]:
    """A process that downloads, in as many forks; let go when everything is loaded."""
    arguments = [str(settings.cache), settings.endpoint, MANIFEST.to_json().decode(), str(count)]
    command = [sys.executable, str(Path(__file__).with_name("fetch_once.py")), *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, text=True, env=environment, **pipes)
    assert process.stdin
    process.stdin.write("go\n")
    process.stdin.flush()
    return process


def test_row_19_ten_processes_at_once_fetch_once(server: FaultServer, settings: Settings, cache: Cache) -> None:
    process = start_fetching(settings, 10)
    assert (process.communicate(timeout=60)[1], process.returncode) == ("", 0)
    assert_whole(cache)
    assert len(server.requests) == 1


def test_row_19_without_exclusive_claims_still_one_correct_blob(
    server: FaultServer, settings: Settings, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every process believes that it is the owner: double traffic, and nothing else."""
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr(Partial, "_create_claim", lambda self: True)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(fetch, settings, cache) for _ in range(4)]:
            done.result()
    assert placed(cache).read_bytes() == BLOB


def test_row_20_partial_of_a_killed_owner_is_continued(server: FaultServer, settings: Settings, cache: Cache) -> None:
    server.faults = [lambda x: (x.send(x.head(*x.good()[:2], len(BLOB)) + BLOB[:150_000]), time.sleep(5))[0]]
    process = start_fetching(settings, 1)
    partial = cache.root / "partial"
    wait_for(lambda: any(p.stat().st_size > 100_000 for p in partial.glob("*.part")))
    process.kill()
    process.communicate()
    assert len(list(partial.glob("*.owner"))) == 1
    seen = fetch(settings, cache)
    assert seen[0] > 100_000
    assert_whole(cache)


def test_row_20_live_owner_that_fell_silent_is_taken_over_by_copy(
    server: FaultServer, settings: Settings, cache: Cache
) -> None:
    other = Partial(cache, DIGEST)
    assert other.acquire()
    other.path.write_bytes(BLOB[:100_000])
    (claim,) = (cache.root / "partial").glob("*.owner")
    assert not Partial(cache, DIGEST).acquire()
    os.utime(claim, (1, 1))
    seen = fetch(settings, cache)
    assert seen[0] == 100_000
    assert other.path.read_bytes() == BLOB[:100_000]
    assert placed(cache).read_bytes() == BLOB


@pytest.mark.parametrize("text", ["", "{", '{"nonce": "../../x", "pid": 1, "started": "", "machine": ""}', "[]"])
def test_row_20_unreadable_claim_is_replaced_after_a_moment(
    server: FaultServer, settings: Settings, cache: Cache, text: str
) -> None:
    claim = cache.partial_folder() / f"{DIGEST.removeprefix('sha256:')}.owner"
    claim.write_text(text)
    assert not Partial(cache, DIGEST).acquire()
    os.utime(claim, (1, 1))
    fetch(settings, cache)
    assert_whole(cache)


def test_row_20_partial_longer_than_the_blob_is_discarded(
    server: FaultServer, settings: Settings, cache: Cache
) -> None:
    (cache.partial_folder() / f"{DIGEST.removeprefix('sha256:')}.part").write_bytes(BLOB + b"more")
    fetch(settings, cache)
    assert_whole(cache)
    assert "range" not in server.requests[0].headers


def test_row_20_partial_with_other_bytes_is_found_and_fetched_anew(
    server: FaultServer, settings: Settings, cache: Cache
) -> None:
    (cache.partial_folder() / f"{DIGEST.removeprefix('sha256:')}.part").write_bytes(bytes(1000))
    with pytest.warns(ZooWarning, match="has the digest"):
        fetch(settings, cache)
    assert_whole(cache)


def test_row_20_complete_partial_needs_no_request(server: FaultServer, settings: Settings, cache: Cache) -> None:
    (cache.partial_folder() / f"{DIGEST.removeprefix('sha256:')}.part").write_bytes(BLOB)
    fetch(settings, cache)
    assert_whole(cache)
    assert server.requests == []


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_row_20_partial_that_is_no_file_is_an_error(
    server: FaultServer, settings: Settings, cache: Cache, tmp_path: Path, kind: str
) -> None:
    left = cache.partial_folder() / f"{DIGEST.removeprefix('sha256:')}.part"
    victim = tmp_path / "victim"
    victim.write_text("precious")
    left.mkdir() if kind == "folder" else left.symlink_to(victim)
    with pytest.raises(CacheError, match="no regular file"):
        fetch(settings, cache)
    assert victim.read_text() == "precious"
    assert_absent(cache)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE])
def test_row_23_disk_faults_are_cache_errors_with_figures(
    server: FaultServer, settings: Settings, cache: Cache, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    wanted = "bytes are free" if number in (errno.ENOSPC, errno.EDQUOT) else os.strerror(number)
    with pytest.raises(CacheError, match=wanted):
        fetch(settings, cache)
    assert_absent(cache)


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


def test_empty_blob_needs_no_request(server: FaultServer, settings: Settings, cache: Cache) -> None:
    empty = FileEntry(path="a", sha256=f"sha256:{hashlib.sha256().hexdigest()}", size_bytes=0, role=Role.TRAINING)
    manifest = Manifest(name="zoo:a", files=(empty,))
    fetch(settings, cache, manifest)
    assert cache.not_in_place(manifest, [empty]) == []
    assert server.requests == []


def wait_for(condition: object, timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]  # a lambda
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
