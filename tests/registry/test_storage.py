"""One suite for every blob store: in a folder, in a real S3 server's bucket, in memory. Rows: the list of faults."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from registry.errors import InvalidDigestError, StartError, UnavailableError, UnknownBlobError
from registry.settings import Settings
from registry.storage import BlobStore, open_store
from registry.storage.folder import FolderBlobStore
from registry.storage.incoming import BLOCK_BYTES
from registry.storage.objects import PART_BYTES, READ_BYTES, ObjectBlobStore, connect
from tests.registry.builders import digest_of, small
from tests.registry.conftest import open_site
from tests.registry.s3_server import BUCKET, Proxy

DATA = bytes(range(256)) * 40
KINDS = ("folder", "s3", "memory")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    """An empty store of each kind."""
    if request.param == "folder":
        return FolderBlobStore(tmp_path)
    if request.param == "memory":
        return ObjectBlobStore(MemoryStore(), tmp_path / "incoming")
    settings = Settings(storage=tmp_path, blob_store=request.getfixturevalue("s3")(uuid.uuid4().hex))
    return open_store(settings)


def put(store: BlobStore, data: bytes) -> str:
    file = store.receive()
    for start in range(0, len(data), BLOCK_BYTES):
        file.write(data[start : start + BLOCK_BYTES])
    file.verify(digest_of(data))
    store.keep(file, digest_of(data))
    file.discard()
    return digest_of(data)


def get(store: BlobStore, digest: str, start: int = 0, stop: int | None = None) -> bytes:
    size = store.size(digest)
    assert size is not None
    return b"".join(store.read(digest, start, size if stop is None else stop))


EDGES = sorted({0, 1, *(n + d for n in (BLOCK_BYTES, READ_BYTES, PART_BYTES, 2 * PART_BYTES) for d in (-1, 0, 1))})


@pytest.mark.parametrize("size", EDGES)
def test_row_47_blobs_of_every_edge_size_come_back(store: BlobStore, size: int) -> None:
    data = os.urandom(size)
    digest = put(store, data)
    assert store.size(digest) == size
    assert get(store, digest) == data
    assert [(blob.digest, blob.size_bytes) for blob in store.blobs()] == [(digest, size)]
    assert abs(next(iter(store.blobs())).stored_at - time.time()) < 60


def test_row_47_a_large_blob_has_as_few_parts_as_s3_allows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """5 GiB and more, without writing them: what is asked of the store is looked at."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr("registry.storage.objects.obstore.put", lambda *_, **more: asked.update(more))
    store = ObjectBlobStore(MemoryStore(), tmp_path)
    for size in (5 << 30, (5 << 30) + 1, 1 << 40):
        file = store.receive()
        file.size_bytes = size
        with pytest.raises(UnavailableError):  # nothing was put, which the look afterwards finds
            store.keep(file, digest_of(b""))
        assert -(-size // asked["chunk_size"]) <= 10_000
        assert asked["chunk_size"] <= 5 << 30


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (5, 5), (100, 200), (len(DATA) - 1, len(DATA))])
def test_a_span_is_read(store: BlobStore, start: int, stop: int) -> None:
    assert get(store, put(store, DATA), start, stop) == DATA[start:stop]


def test_what_is_not_here(store: BlobStore) -> None:
    absent = digest_of(b"absent")
    assert store.size(absent) is None
    with pytest.raises(UnknownBlobError):
        store.read(absent, 0, 1)
    with pytest.raises(UnknownBlobError):
        store.read_staged(uuid.uuid4().hex)
    store.delete(absent)
    store.unstage(uuid.uuid4().hex)
    assert list(store.blobs()) == list(store.staged()) == []


def test_a_blob_is_deleted(store: BlobStore) -> None:
    digest = put(store, DATA)
    store.delete(digest)
    assert store.size(digest) is None
    assert list(store.blobs()) == []


def test_row_48_two_writers_of_one_digest_leave_one_blob(store: BlobStore) -> None:
    first, second = store.receive(), store.receive()
    for file in (first, second):
        file.write(DATA[:100])
    for file in (first, second):
        file.write(DATA[100:])
        file.verify(digest_of(DATA))
        store.keep(file, digest_of(DATA))
        file.discard()
    assert [blob.digest for blob in store.blobs()] == [digest_of(DATA)]
    assert get(store, digest_of(DATA)) == DATA


def test_row_48_a_writer_that_dies_leaves_nothing_visible_and_is_swept(store: BlobStore) -> None:
    file = store.receive()
    file.write(DATA)
    assert list(store.blobs()) == []
    assert store.sweep_incoming(3_600) == 0
    file.finish()
    os.utime(file.path, (1, 1))
    assert store.sweep_incoming(3_600) == 1
    assert not file.path.exists()


def test_wrong_bytes_are_never_stored(store: BlobStore) -> None:
    file = store.receive()
    file.write(DATA)
    with pytest.raises(InvalidDigestError, match=digest_of(DATA)):
        file.verify(digest_of(b"other"))
    file.discard()
    assert list(store.blobs()) == []
    assert not file.path.exists()


def test_chunks_are_staged_read_and_unstaged(store: BlobStore) -> None:
    keys = [uuid.uuid4().hex for _ in range(3)]
    for number, key in enumerate(keys):
        file = store.receive()
        file.write(bytes([number]) * (number * 1_000 + 1))
        store.stage(file, key)
        file.discard()
    assert {key for key, _ in store.staged()} == set(keys)
    assert b"".join(store.read_staged(keys[2])) == b"\2" * 2_001
    store.unstage(keys[0])
    assert {key for key, _ in store.staged()} == set(keys[1:])
    assert list(store.blobs()) == []


def test_a_store_says_whose_it_is(store: BlobStore) -> None:
    assert store.registry_id() is None
    for registry_id in ("0" * 32, "f" * 32):
        store.set_registry_id(registry_id)
        assert store.registry_id() == registry_id
    assert list(store.blobs()) == list(store.staged()) == []


def test_row_52_names_are_digests_alone(store: BlobStore) -> None:
    """No text of a client becomes a key, so none can collide or lead elsewhere; near twins stay apart."""
    twins = [put(store, data) for data in (b"a/b", b"a\\b", b".a", b"a", b"", b"\0")]
    assert len({blob.digest for blob in store.blobs()}) == len(twins)
    for digest, data in zip(twins, (b"a/b", b"a\\b", b".a", b"a", b"", b"\0"), strict=True):
        assert get(store, digest) == data


# --- S3 alone


@pytest.fixture
def proxy(s3_port: int) -> Proxy:
    return Proxy(s3_port)


@pytest.fixture
def proxied(proxy: Proxy, tmp_path: Path, s3: Callable[..., str]) -> Iterator[BlobStore]:
    with proxy.running() as port:
        yield open_store(Settings(storage=tmp_path, blob_store=s3(uuid.uuid4().hex, port)))


def times(count: int, deal: Callable[[Any], None], method: str = "", mark: str = "") -> Callable[[Any], bool]:
    """A fault that deals with the first `count` requests of a method whose URL has the mark."""
    left = [count]

    def fault(handler: Any) -> bool:
        if left[0] and method in ("", handler.command) and mark in handler.path:
            left[0] -= 1
            deal(handler)
            return True
        return False

    return fault


BIG = os.urandom(2 * PART_BYTES + 5)
HICCUPS = {
    "500": lambda handler: handler.answer(500, b"<Error><Code>InternalError</Code></Error>"),
    "503": lambda handler: handler.answer(503, b"<Error><Code>SlowDown</Code></Error>"),
    "cut": lambda handler: handler.cut(),
}


@pytest.mark.parametrize("hiccup", HICCUPS)
@pytest.mark.parametrize(
    ("method", "mark"), [("PUT", "partNumber"), ("POST", "uploads"), ("POST", "uploadId"), ("HEAD", ""), ("GET", "")]
)
def test_row_49_a_passing_fault_of_each_call_is_retried(
    proxy: Proxy, proxied: BlobStore, hiccup: str, method: str, mark: str
) -> None:
    proxy.faults.append(times(2, HICCUPS[hiccup], method, mark))
    assert get(proxied, put(proxied, BIG)) == BIG


@pytest.mark.parametrize(("method", "mark"), [("PUT", "partNumber"), ("POST", "uploads"), ("POST", "uploadId")])
def test_row_49_a_lasting_fault_fails_whole(proxy: Proxy, proxied: BlobStore, method: str, mark: str) -> None:
    proxy.faults.append(times(1_000, HICCUPS["503"], method, mark))
    with pytest.raises(UnavailableError, match="bucket"):
        put(proxied, BIG)
    proxy.faults.clear()
    assert proxied.size(digest_of(BIG)) is None
    assert get(proxied, put(proxied, BIG)) == BIG


def test_row_49_an_error_in_an_answer_of_success_is_no_success(proxy: Proxy, proxied: BlobStore) -> None:
    lie = b'<?xml version="1.0"?><Error><Code>InternalError</Code><Message>We failed.</Message></Error>'
    proxy.faults.append(times(1_000, lambda handler: handler.answer(200, lie), "POST", "uploadId"))
    with pytest.raises(UnavailableError):
        put(proxied, BIG)
    proxy.faults.clear()
    assert proxied.size(digest_of(BIG)) is None


def test_row_49_a_put_that_stored_nothing_is_no_success(proxy: Proxy, proxied: BlobStore) -> None:
    proxy.faults.append(times(1, lambda handler: handler.answer(200, b"", None, {"ETag": '"0"'}), "PUT"))
    with pytest.raises(UnavailableError, match="0 bytes of 10240"):
        put(proxied, DATA)


@pytest.mark.parametrize(
    "code", ["RequestTimeTooSkewed", "ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"]
)
def test_row_49_a_skewed_clock_or_an_expired_key_fails_at_once_and_says_so(
    proxy: Proxy, proxied: BlobStore, code: str
) -> None:
    body = f"<Error><Code>{code}</Code><Message>zoo-secret</Message></Error>".encode()
    before = len(proxy.seen)
    proxy.faults.append(times(1_000, lambda handler: handler.answer(403, body)))
    with pytest.raises(UnavailableError, match=r"refuses.*key") as failed:
        put(proxied, DATA)
    assert len(proxy.seen) - before == 1
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize(
    ("fault", "said", "logged"),
    [
        (lambda handler: handler.cut(), "now; try again", "error sending request"),
        (
            lambda handler: handler.answer(403, b"<Error><Code>RequestTimeTooSkewed</Code><X>zoo-secret</X></Error>"),
            "must look at the key and the clock",
            "403 Forbidden: RequestTimeTooSkewed",
        ),
    ],
    ids=["down", "refused"],
)
def test_row_49_a_failing_bucket_is_503_and_the_log_says_what_and_why(
    proxy: Proxy, s3: Callable[..., str], tmp_path: Path, caplog: Any, fault: Any, said: str, logged: str
) -> None:
    with proxy.running() as port, open_site(Settings(storage=tmp_path, blob_store=s3(uuid.uuid4().hex, port))) as site:
        small().publish(site.client)
        path = f"/api/v1/blobs/{digest_of(b'weights')}"
        assert site.client.get(path).content == b"weights"
        proxy.faults.append(times(1_000, fault, "GET"))
        answer = site.client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
        assert said in answer.json()["detail"]
        (told,) = [record.getMessage() for record in caplog.records if record.name == "registry.storage.objects"]
        assert told.startswith("the registry can't read its bucket: ")
        assert digest_of(b"weights")[7:] in told
        assert logged in told
        assert "secret" not in caplog.text


def test_row_49_a_read_that_is_cut_is_asked_again(proxy: Proxy, proxied: BlobStore) -> None:
    digest = put(proxied, BIG)

    def half(handler: Any) -> None:
        handler.send_response(206)
        handler.send_header("Content-Length", str(READ_BYTES))
        handler.send_header("Content-Range", f"bytes 0-{READ_BYTES - 1}/{len(BIG)}")
        handler.send_header("Last-Modified", "Tue, 24 Nov 2026 10:00:00 GMT")
        handler.send_header("ETag", '"x"')
        handler.end_headers()
        handler.wfile.write(BIG[:1_000])
        handler.cut()

    proxy.faults.append(times(1, half, "GET"))
    try:
        assert get(proxied, digest) == BIG
    except UnavailableError:  # failed whole is right too: no wrong byte was given out
        assert get(proxied, digest) == BIG


def test_row_50_conditional_writes_are_never_needed(proxy: Proxy, proxied: BlobStore) -> None:
    """A server that refuses If-None-Match serves as well, since a blob's name says what its bytes are."""
    for _ in range(2):
        assert get(proxied, put(proxied, DATA)) == DATA
    assert not any("if-none-match" in headers or "if-match" in headers for headers in proxy.headers)


def test_a_bucket_that_cannot_be_used_is_told_at_the_start(s3: Callable[..., str], monkeypatch: Any) -> None:
    with pytest.raises(StartError, match="no such bucket"):
        connect(s3("x").replace(f"//{BUCKET}/", "//nobody/"))
    with pytest.raises(StartError, match="can't be reached"):
        connect(s3("x", 1))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(StartError, match="AWS_ACCESS_KEY_ID"):
        connect(s3("x"))


@pytest.mark.parametrize(
    "url",
    [
        "s3://", "s3://UPPER", "s3://a", "s3://bucket/a\\b", "s3://bucket/../x?", "s3://bucket?endpoint=ftp://h",
        "s3://key:secret@bucket", "s3://bucket?aws_secret_access_key=x", "gs://bucket", "/a/folder", "s3://bucket//x",
    ],
)  # fmt: skip
def test_a_setting_that_is_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(StartError, match=r"ZOO_REGISTRY_BLOB_STORE\) is wrong: it is s3://BUCKET"):
        Settings.load(blob_store=url)
