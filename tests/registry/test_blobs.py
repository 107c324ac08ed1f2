"""Blobs over HTTP: stored only with their own digest, served whole or in ranges."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from registry import admin
from registry.errors import UnavailableError
from registry.settings import Settings
from registry.storage import BLOCK_BYTES, IncomingFile
from registry.storage.folder import FolderBlobStore
from tests.registry.builders import digest_of
from tests.registry.conftest import Site, open_site

DATA = bytes(range(256)) * 40
URL = f"/api/v1/blobs/{digest_of(DATA)}"


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 7])
def test_a_blob_comes_back_as_it_was_sent(sqlite_site: Site, size: int) -> None:
    data = os.urandom(size)
    url = f"/api/v1/blobs/{digest_of(data)}"
    assert sqlite_site.client.put(url, content=data).status_code == 201
    answer = sqlite_site.client.get(url)
    assert answer.content == data
    assert answer.headers["content-length"] == str(size)


def test_a_blob_is_created_once(client: TestClient) -> None:
    assert client.get(URL).json()["code"] == "BLOB_UNKNOWN"
    first, second = client.put(URL, content=DATA), client.put(URL, content=DATA)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json() == {"digest": digest_of(DATA), "size_bytes": len(DATA)}


def test_headers_let_a_client_cache_verify_and_resume(sqlite_site: Site) -> None:
    client = sqlite_site.client
    client.put(URL, content=DATA)
    head = client.head(URL)
    assert head.content == b""
    assert head.headers["content-length"] == str(len(DATA))
    assert head.headers["accept-ranges"] == "bytes"
    assert head.headers["etag"] == f'"{digest_of(DATA)}"'
    assert head.headers["x-checksum-sha256"] == hashlib.sha256(DATA).hexdigest()
    assert "immutable" in head.headers["cache-control"]
    assert head.headers["content-type"] == "application/octet-stream"
    assert client.get(URL, headers={"If-None-Match": head.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-", 5, len(DATA)),
        ("bytes=100-199", 100, 200),
        ("bytes=-1", len(DATA) - 1, len(DATA)),
        ("bytes=-999999999", 0, len(DATA)),
        (f"bytes={len(DATA) - 1}-999999999999", len(DATA) - 1, len(DATA)),
    ],
)
def test_a_range_is_served(sqlite_site: Site, asked: str, start: int, stop: int) -> None:
    sqlite_site.client.put(URL, content=DATA)
    answer = sqlite_site.client.get(URL, headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == DATA[start:stop]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(DATA)}"


@pytest.mark.parametrize("asked", [f"bytes={len(DATA)}-", "bytes=-0", f"bytes={10**18}-"])
def test_a_range_outside_is_416(sqlite_site: Site, asked: str) -> None:
    sqlite_site.client.put(URL, content=DATA)
    answer = sqlite_site.client.get(URL, headers={"Range": asked})
    assert (answer.status_code, answer.json()["code"]) == (416, "RANGE_INVALID")
    assert answer.headers["content-range"] == f"bytes */{len(DATA)}"


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,3-4", "bytes=5-2", "bytes=-", "lines=1-2", "bytes=a-b", "bytes=" + "9" * 50]
)
def test_what_is_no_single_range_gets_the_whole_blob(sqlite_site: Site, asked: str) -> None:
    sqlite_site.client.put(URL, content=DATA)
    answer = sqlite_site.client.get(URL, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, DATA)


@pytest.mark.parametrize("asked", ["bytes=1-2", "bytes=99999999-"])
def test_a_range_is_for_get_alone(sqlite_site: Site, asked: str) -> None:
    sqlite_site.client.put(URL, content=DATA)
    head = sqlite_site.client.head(URL, headers={"Range": asked})
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(DATA)))


def test_if_range_with_another_etag_gets_the_whole_blob(sqlite_site: Site) -> None:
    sqlite_site.client.put(URL, content=DATA)
    for etag, status in ((f'"{digest_of(DATA)}"', 206), (f'"{digest_of(b"")}"', 200)):
        assert sqlite_site.client.get(URL, headers={"Range": "bytes=1-2", "If-Range": etag}).status_code == status


def test_wrong_bytes_are_refused_and_leave_nothing(client: TestClient, site: Site) -> None:
    answer = client.put(URL, content=DATA[:-1] + b"x")
    assert (answer.status_code, answer.json()["code"]) == (400, "DIGEST_INVALID")
    assert answer.json()["actual"] == digest_of(DATA[:-1] + b"x")
    assert client.get(URL).status_code == 404
    assert list((site.settings.storage / "incoming").iterdir()) == []
    assert client.put(URL, content=DATA).status_code == 201


@pytest.mark.parametrize(
    "digest",
    [
        "sha256:../../../../etc/passwd",
        "sha256:..%2f..%2fetc",
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "g" * 64,
        "sha512:" + "a" * 128,
        "md5:" + "a" * 32,
        "a" * 64,
        "sha256:" + "a" * 63 + "%00",
        "sha256:" + "a" * 64 + "%0a",
        "sha256:" + "\u0661" * 64,
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_row_32_a_malformed_digest_never_reaches_the_storage(sqlite_site: Site, method: str, digest: str) -> None:
    answer = sqlite_site.client.request(method, f"/api/v1/blobs/{digest}", content=b"x" if method == "PUT" else None)
    assert answer.status_code in (400, 404, 422)
    files = (path.name for path in sqlite_site.settings.storage.rglob("*") if path.is_file())
    assert [name for name in files if not name.startswith("registry")] == []


def test_a_body_over_the_limit_is_413_with_and_without_a_length(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield DATA
        yield DATA

    with open_site(Settings(storage=tmp_path, max_blob_bytes=len(DATA))) as site:
        assert site.client.put(URL, content=DATA).status_code == 201
        for body in (DATA * 2, chunks()):
            answer = site.client.put(f"/api/v1/blobs/{digest_of(DATA * 2)}", content=body)
            assert (answer.status_code, answer.json()["code"]) == (413, "TOO_LARGE")
        assert list((tmp_path / "incoming").iterdir()) == []


def test_a_compressed_body_is_refused(sqlite_site: Site) -> None:
    answer = sqlite_site.client.put(URL, content=DATA, headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["code"]) == (400, "REQUEST_INVALID")


def test_missing_lists_what_must_be_sent_once_each(client: TestClient) -> None:
    client.put(URL, content=DATA)
    other = digest_of(b"other")
    answer = client.post("/api/v1/blobs/missing", json={"digests": [digest_of(DATA), other, other]})
    assert answer.json() == {"missing": [other]}
    assert client.post("/api/v1/blobs/missing", json={"digests": []}).json() == {"missing": []}


def test_missing_takes_ten_thousand_digests_and_no_more(client: TestClient) -> None:
    digests = [f"sha256:{number:064x}" for number in range(10_001)]
    answer = client.post("/api/v1/blobs/missing", json={"digests": digests[:10_000]})
    assert len(answer.json()["missing"]) == 10_000
    assert client.post("/api/v1/blobs/missing", json={"digests": digests}).status_code == 422


def test_a_blob_whose_bytes_were_lost_is_missing_and_can_be_sent_again(client: TestClient, site: Site) -> None:
    client.put(URL, content=DATA)
    (path,) = (site.settings.storage / "blobs").rglob("*" * 1 + digest_of(DATA)[-8:])
    path.unlink()
    assert client.get(URL).json()["code"] == "BLOB_DAMAGED"
    assert client.post("/api/v1/blobs/missing", json={"digests": [digest_of(DATA)]}).json()["missing"] == [
        digest_of(DATA)
    ]
    assert client.put(URL, content=DATA).status_code in (200, 201)
    assert client.get(URL).content == DATA


def test_a_full_disk_is_503_and_stores_nothing(sqlite_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("registry.storage.incoming.os.fsync", full)
        answer = sqlite_site.client.put(URL, content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
    assert "full" in answer.json()["detail"]
    assert sqlite_site.client.get(URL).status_code == 404
    assert list((sqlite_site.settings.storage / "incoming").iterdir()) == []


def test_a_disk_that_fills_up_before_the_last_bytes_keeps_no_half_file(sqlite_site: Site) -> None:
    """The bytes that are still in memory are refused when they are flushed, and once more when the file is closed."""
    store = FolderBlobStore(sqlite_site.settings.storage)
    file = store.receive()
    file._file.close()
    with Path("/dev/full").open("wb") as file._file:
        file.write(b"x")
        with pytest.raises(UnavailableError, match="full"):
            file.finish()
        file.discard()
    assert list((sqlite_site.settings.storage / "incoming").iterdir()) == []


def test_a_bad_sector_is_a_damaged_blob_and_a_scrub_goes_on(
    client: TestClient, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = sorted([b"one", b"two"], key=digest_of)
    for data in (bad, good):
        client.put(f"/api/v1/blobs/{digest_of(data)}", content=data)
    real = Path.open

    def broken(path: Path, *args: Any, **kwargs: Any) -> Any:
        file = real(path, *args, **kwargs)
        if path.name != digest_of(bad)[7:]:
            return file
        file.close()
        return real(Path("/proc/self/mem"), "rb", buffering=0)  # its first bytes can't be read: EIO

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", broken)
        report = admin.scrub(site.settings)
    assert (report.checked, list(report.damaged), report.missing) == (2, [digest_of(bad)], {})
    url = f"/api/v1/blobs/{digest_of(bad)}"
    assert (client.get(url).status_code, client.get(url).json()["code"]) == (502, "BLOB_DAMAGED")
    assert client.post("/api/v1/blobs/missing", json={"digests": [digest_of(bad)]}).json()["missing"] == [
        digest_of(bad)
    ]
    client.put(url, content=bad)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", broken)
        assert client.get(url).status_code == 502
    assert client.post("/api/v1/blobs/missing", json={"digests": [digest_of(bad)]}).json()["missing"] == [
        digest_of(bad)
    ]


@pytest.mark.parametrize("work", ["delete", "unstage", "staged", "blobs", "sweep"])
def test_every_refusal_of_the_disk_has_its_name(sqlite_site: Site, monkeypatch: pytest.MonkeyPatch, work: str) -> None:
    store, key = FolderBlobStore(sqlite_site.settings.storage), "0" * 32
    (sqlite_site.settings.storage / "staged" / key).write_bytes(b"")
    (sqlite_site.settings.storage / "incoming" / key).write_bytes(b"")
    sqlite_site.client.put(URL, content=DATA)
    calls: dict[str, Callable[[], object]] = {
        "delete": lambda: store.delete(digest_of(DATA)),
        "unstage": lambda: store.unstage(key),
        "staged": lambda: list(store.staged()),
        "blobs": lambda: list(store.blobs()),
        "sweep": lambda: store.sweep_incoming(0),
    }

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        for name in ("unlink", "iterdir", "glob"):
            patched.setattr(Path, name, refuse)
        with pytest.raises(UnavailableError, match="Input/output error"):
            calls[work]()


def test_an_upload_that_a_sweep_took_the_bytes_of_is_refused(client: TestClient, site: Site) -> None:
    """A sweep that holds the old row goes between the storing of the bytes and of the new row."""
    client.put(URL, content=DATA)
    store = client.app.state.registry.blobs.store  # type: ignore[attr-defined]  # the app's own
    real = store.keep

    def keep(file: IncomingFile, digest: str) -> None:
        real(file, digest)
        admin.gc(site.settings, timedelta(microseconds=1))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store, "keep", keep)
        answer = client.put(URL, content=DATA)
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
    assert client.get(URL).status_code == 404
    assert client.put(URL, content=DATA).status_code == 201
    assert client.get(URL).content == DATA
