"""Large blobs that come in chunks, on both databases, in a folder and in a bucket. Rows: the list of faults."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from registry import admin
from registry.settings import Settings
from tests.registry.builders import digest_of
from tests.registry.conftest import Site, open_site

CHUNK = 1 << 16
DATA = os.urandom(3 * CHUNK + 11)
DIGEST = digest_of(DATA)
NOW = timedelta(microseconds=1)


@pytest.fixture(
    params=[("sqlite", "folder"), ("postgresql", "folder"), ("sqlite", "s3"), ("postgresql", "s3")], ids="+".join
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """An empty registry on each database and each store."""
    database, store = request.param
    url = request.getfixturevalue("new_postgres")() if database == "postgresql" else ""
    bucket = request.getfixturevalue("s3")(uuid.uuid4().hex) if store == "s3" else ""
    with open_site(Settings(storage=tmp_path, database_url=url, blob_store=bucket)) as site:
        yield site


def begin(client: TestClient, data: bytes = DATA) -> Any:
    return client.post("/api/v1/uploads", json={"digest": digest_of(data), "size_bytes": len(data)})


def send(client: TestClient, upload: str, start: int, stop: int, data: bytes = DATA) -> Any:
    return client.patch(f"/api/v1/uploads/{upload}", content=data[start:stop], headers={"Upload-Offset": str(start)})


def send_all(client: TestClient, data: bytes = DATA, start: int = 0) -> str:
    upload = str(begin(client, data).json()["id"])
    for at in range(start, len(data), CHUNK):
        answer = send(client, upload, at, at + CHUNK, data)
        assert answer.status_code == 200, answer.text
    return upload


def staged(site: Site) -> int:
    return sum(1 for _ in (site.settings.storage / "staged").iterdir())


def test_a_blob_comes_in_chunks_and_is_visible_when_it_is_finished(place: Site) -> None:
    client = place.client
    first = begin(client)
    upload = first.json()["id"]
    assert (first.status_code, first.headers["location"]) == (201, f"/api/v1/uploads/{upload}")
    assert first.json()["offset_bytes"] == 0
    assert send_all(client) == upload
    assert client.get(f"/api/v1/blobs/{DIGEST}").status_code == 404
    assert client.get(f"/api/v1/uploads/{upload}").json()["offset_bytes"] == len(DATA)
    done = client.post(f"/api/v1/uploads/{upload}/finish")
    assert (done.status_code, done.json()) == (201, {"digest": DIGEST, "size_bytes": len(DATA)})
    assert client.get(f"/api/v1/blobs/{DIGEST}").content == DATA
    assert client.get(f"/api/v1/uploads/{upload}").json()["code"] == "UPLOAD_UNKNOWN"
    assert admin.gc(place.settings, NOW).uploads_removed == 0
    assert admin.scrub(place.settings).checked == 0  # nothing names the blob, so the sweep took it


def test_an_upload_goes_on_after_a_cut(place: Site) -> None:
    upload = begin(place.client).json()["id"]
    send(place.client, upload, 0, CHUNK)
    again = begin(place.client)
    assert (again.status_code, again.json()["id"], again.json()["offset_bytes"]) == (200, upload, CHUNK)
    send_all(place.client, start=CHUNK)
    assert place.client.post(f"/api/v1/uploads/{upload}/finish").status_code == 201


@pytest.mark.parametrize("start", [0, CHUNK - 1, CHUNK + 1, 2 * CHUNK])
def test_row_48_a_chunk_out_of_order_is_416_and_says_where_to_go_on(client: TestClient, start: int) -> None:
    upload = begin(client).json()["id"]
    send(client, upload, 0, CHUNK)
    answer = send(client, upload, start, start + CHUNK)
    assert (answer.status_code, answer.json()["code"]) == (416, "UPLOAD_OFFSET_INVALID")
    assert answer.json()["offset_bytes"] == CHUNK
    assert "content-range" not in answer.headers


def test_row_48_of_two_senders_at_one_place_one_wins_and_both_end_with_the_blob(program: Any, tmp_path: Path) -> None:
    results: list[int] = []

    def sender() -> None:
        with program.client() as client:
            view = begin(client).json()
            while view["offset_bytes"] < len(DATA):
                answer = send(client, view["id"], view["offset_bytes"], view["offset_bytes"] + CHUNK)
                results.append(answer.status_code)
                if answer.status_code == 404:  # the other one finished it
                    return
                view |= {"offset_bytes": answer.json()["offset_bytes"]}
            answer = client.post(f"/api/v1/uploads/{view['id']}/finish")
            assert answer.status_code in (200, 201, 404), answer.text

    threads = [threading.Thread(target=sender) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(results) <= {200, 404, 409, 416}
    assert results.count(200) == -(-len(DATA) // CHUNK)
    with program.client() as client:
        assert client.get(f"/api/v1/blobs/{DIGEST}").content == DATA


def test_row_48_other_bytes_than_announced_end_the_upload(site: Site, client: TestClient) -> None:
    upload = begin(client).json()["id"]
    wrong = bytes(len(DATA))
    for at in range(0, len(DATA), CHUNK):
        send(client, upload, at, at + CHUNK, wrong)
    answer = client.post(f"/api/v1/uploads/{upload}/finish")
    assert (answer.status_code, answer.json()["code"]) == (400, "DIGEST_INVALID")
    assert client.get(f"/api/v1/uploads/{upload}").status_code == 404
    assert client.get(f"/api/v1/blobs/{DIGEST}").status_code == 404
    assert staged(site) == 0


def test_an_incomplete_upload_is_not_finished(client: TestClient) -> None:
    upload = begin(client).json()["id"]
    send(client, upload, 0, CHUNK)
    answer = client.post(f"/api/v1/uploads/{upload}/finish")
    assert (answer.status_code, answer.json()["code"]) == (409, "UPLOAD_INCOMPLETE")
    assert answer.json()["offset_bytes"] == CHUNK


@pytest.mark.parametrize(("start", "stop"), [(0, CHUNK - 1), (0, 0)])
def test_a_chunk_that_is_too_small_is_refused(client: TestClient, start: int, stop: int) -> None:
    assert send(client, begin(client).json()["id"], start, stop).json()["code"] == "REQUEST_INVALID"


def test_a_chunk_may_not_pass_the_announced_end(client: TestClient) -> None:
    upload = begin(client).json()["id"]
    answer = client.patch(f"/api/v1/uploads/{upload}", content=DATA + b"x", headers={"Upload-Offset": "0"})
    assert (answer.status_code, answer.json()["code"]) == (400, "REQUEST_INVALID")


def test_sizes_are_bounded(tmp_path: Path) -> None:
    with open_site(Settings(storage=tmp_path, max_blob_bytes=len(DATA), max_chunk_bytes=CHUNK)) as site:
        body = {"digest": DIGEST, "size_bytes": len(DATA) + 1}
        assert site.client.post("/api/v1/uploads", json=body).status_code == 413
        upload = begin(site.client).json()["id"]
        answer = send(site.client, upload, 0, CHUNK + 1)
        assert (answer.status_code, answer.json()["code"]) == (413, "TOO_LARGE")
        assert list((tmp_path / "incoming").iterdir()) == []


def test_an_upload_is_cancelled(site: Site, client: TestClient) -> None:
    upload = send_all(client)
    assert client.delete(f"/api/v1/uploads/{upload}").status_code == 204
    assert client.get(f"/api/v1/uploads/{upload}").status_code == 404
    assert staged(site) == 0


def test_row_36_an_upload_belongs_to_its_caller(site: Site, client: TestClient) -> None:
    tokens = [{"Authorization": f"Bearer {site.token(name)}"} for name in ("one", "two")]
    body = {"digest": DIGEST, "size_bytes": len(DATA)}
    one, two = (client.post("/api/v1/uploads", json=body, headers=token).json()["id"] for token in tokens)
    assert one != two
    assert client.get(f"/api/v1/uploads/{one}", headers=tokens[0]).status_code == 200
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/finish")):
        assert client.request(method, f"/api/v1/uploads/{one}{path}", headers=tokens[1]).status_code == 404
    assert client.get(f"/api/v1/uploads/{one}").status_code == 401


def test_row_45_an_upload_expires_and_its_chunks_are_swept(tmp_path: Path) -> None:
    with open_site(Settings(storage=tmp_path, upload_expires_s=0.3)) as site:
        upload = begin(site.client).json()["id"]
        send(site.client, upload, 0, CHUNK)
        threading.Event().wait(0.4)
        assert site.client.get(f"/api/v1/uploads/{upload}").json()["code"] == "UPLOAD_UNKNOWN"
        assert staged(site) == 1
        assert admin.gc(site.settings).uploads_removed == 1
        assert staged(site) == 0
        assert begin(site.client).status_code == 201


def test_an_expired_upload_is_begun_anew(tmp_path: Path) -> None:
    with open_site(Settings(storage=tmp_path, upload_expires_s=0.3)) as site:
        upload = begin(site.client).json()["id"]
        send(site.client, upload, 0, CHUNK)
        threading.Event().wait(0.4)
        again = begin(site.client)
        assert again.json()["id"] != upload
        assert again.json()["offset_bytes"] == staged(site) == 0


def test_row_39_a_chunk_without_a_row_is_swept_after_the_grace_period(site: Site, client: TestClient) -> None:
    """What a crash leaves between the chunk's bytes and its row."""
    send(client, begin(client).json()["id"], 0, CHUNK)
    leftover = site.settings.storage / "staged" / uuid.uuid4().hex
    leftover.write_bytes(b"half")
    assert admin.gc(site.settings).uploads_removed == 0
    os.utime(leftover, (1, 1))
    assert admin.gc(site.settings).uploads_removed == 1
    assert staged(site) == 1


@pytest.mark.parametrize("offset", ["-1", "x", "1.5", "", "99999999999999999999"])
def test_row_34_an_offset_that_is_none_is_422(sqlite_site: Site, offset: str) -> None:
    upload = begin(sqlite_site.client).json()["id"]
    answer = sqlite_site.client.patch(f"/api/v1/uploads/{upload}", content=b"x", headers={"Upload-Offset": offset})
    assert answer.status_code == 422


# --- what lies in the store is never trusted


@pytest.fixture
def tampered(place: Site) -> Callable[[bytes | None], None]:
    """Publishes DATA as a blob, then lets somebody else change what the store holds, behind the registry's back."""
    from registry.storage import open_store

    place.client.put(f"/api/v1/blobs/{DIGEST}", content=DATA)
    store = open_store(place.settings)

    def tamper(data: bytes | None) -> None:
        store.delete(DIGEST)
        if data is not None:
            file = store.receive()
            file.write(data)
            store.keep(file, DIGEST)
            file.discard()

    return tamper


@pytest.mark.parametrize("data", [None, b"", DATA[:-1], DATA + b"x", bytes([DATA[0] ^ 1]) + DATA[1:]])
def test_row_51_altered_or_lost_bytes_are_502_never_wrong_bytes(
    place: Site, tampered: Callable[[bytes | None], None], data: bytes | None
) -> None:
    tampered(data)
    for _ in range(2):
        answer = place.client.get(f"/api/v1/blobs/{DIGEST}")
        assert (answer.status_code, answer.json()["code"]) == (502, "BLOB_DAMAGED")
        assert DIGEST in answer.json()["detail"]
    report = admin.scrub(place.settings)
    assert list(report.missing if data is None else report.damaged) == [DIGEST]
    assert place.client.post("/api/v1/blobs/missing", json={"digests": [DIGEST]}).json() == {"missing": [DIGEST]}
    assert place.client.put(f"/api/v1/blobs/{DIGEST}", content=DATA).status_code in (200, 201)
    assert place.client.get(f"/api/v1/blobs/{DIGEST}").content == DATA
    assert admin.scrub(place.settings).is_sound


def test_row_51_a_large_altered_blob_is_cut_off_before_its_end(program: Any) -> None:
    import httpx

    data = os.urandom(5 << 20)
    digest = digest_of(data)
    with program.client() as client:
        client.put(f"/api/v1/blobs/{digest}", content=data)
        path = next((program.settings.storage / "blobs").rglob(digest[7:]))
        path.write_bytes(b"x" + data[1:])
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(f"/api/v1/blobs/{digest}")
        assert client.get(f"/api/v1/blobs/{digest}").status_code == 502
        assert client.get("/api/v1/health").status_code == 200
