"""Downloads from a server that misbehaves, by one process or many. Rows are those of the list of faults."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.zoo import fault_server as faulty
from tests.zoo.fault_server import FaultServer
from tests.zoo.transfer.one_blob import BLOB, DIGEST, MANIFEST, QUICK, assert_absent, assert_whole, fetch, placed
from zoo.cache import Cache
from zoo.client import RegistryClient
from zoo.errors import AccessError, CacheError, IntegrityError, UnavailableError, ZooError
from zoo.manifest import FileEntry, Manifest, Role
from zoo.partial import Partial
from zoo.progress import ZooWarning
from zoo.settings import Settings
from zoo.stub import Stub


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


def start_fetching(settings: Settings, count: int) -> subprocess.Popen[str]:
    """A process that downloads, in as many forks; let go when everything is loaded."""
    arguments = [str(settings.cache), settings.endpoint, MANIFEST.to_json().decode(), str(count)]
    command = [sys.executable, str(Path(__file__).with_name("fetch_once.py")), *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
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
