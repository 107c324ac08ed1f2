"""Another registry's models into this one over HTTP: what is missing, verified, resumed, with its yanks and tags."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session

import zoo
from registry import admin
from registry.audit import OPERATOR, note
from registry.db import Database
from registry.mirror import MirrorReport
from registry.settings import Settings
from tests.registry.builders import ALIAS, LONG, Folder, bert, digest_of, small
from tests.registry.conftest import ROOT, open_site
from tests.registry.test_bundle import web_server
from tests.zoo import fault_server as faulty
from tests.zoo.fault_server import FaultServer, noise
from tests.zoo.live_registry import serving
from zoo.errors import NotFoundError, UnavailableError
from zoo.remote import RemoteRegistry
from zoo.settings import Settings as ZooSettings

REASON = "wrong tokenizer"


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[str]:
    """A registry with three versions of a model, one of them yanked, and another model."""
    with serving(tmp_path / "remote") as url:
        with httpx.Client(base_url=url) as client:
            bert().publish(client, tags=["prod"], samples={"state": "passed", "detail": "1 in ONNX Runtime"})
            bert(revision=2).publish(client)
            bert(revision=3).publish(client)
            small().publish(client)
        yank(url, f"{LONG}@v3", REASON)
        yield url


def yank(url: str, stub: str, reason: str | None) -> None:
    assert httpx.put(f"{url}/api/v1/yanks", json={"stub": stub, "reason": reason}).status_code == 200


def resolve(settings: Settings, stub: str) -> Any:
    with open_site(settings) as site:
        return site.client.get("/api/v1/resolve", params={"stub": stub}).json()


def delete(url: str, stub: str, reason: str = REASON) -> None:
    body = {"stub": stub, "reason": reason, "force": True}
    assert httpx.post(f"{url}/api/v1/versions/delete", json=body).status_code == 200


def mirror(settings: Settings, url: str, *prefixes: str, delete: bool = False) -> MirrorReport:
    with RemoteRegistry(url, settings.storage / "mirror") as source:
        return admin.mirror(settings, source, prefixes, delete=delete)


def test_what_is_missing_comes_and_nothing_twice(settings: Settings, remote: str) -> None:
    with open_site(settings) as site:
        small("zoo:own", "own").publish(site.client)
    with FaultServer(upstream=remote).running() as proxy:
        report = mirror(settings, proxy.url)
        assert (report.added, report.known, report.refused) == (4, 0, {})
        digests = [request.path for request in proxy.requests if "/blobs/" in request.path]
        assert len(digests) == len(set(digests))
        for stub in (LONG, ALIAS, f"{LONG}@prod", f"{LONG}@v1", f"{LONG}@v3", "zoo:tiny"):
            there = httpx.get(f"{remote}/api/v1/resolve", params={"stub": stub}).json()
            assert resolve(settings, stub) == there
        assert admin.scrub(settings).is_sound
        proxy.requests.clear()
        again = mirror(settings, proxy.url)
        assert (again.added, again.changed, again.known, again.size_bytes) == (0, 0, 4, 0)
        assert not [request for request in proxy.requests if "/blobs/" in request.path or "/resolve" in request.path]
    assert resolve(settings, "zoo:own")["version"] == 1


def test_yanks_and_tags_follow_also_where_no_version_is_left(settings: Settings, remote: str) -> None:
    mirror(settings, remote)
    yank(remote, "zoo:tiny@v1", REASON)
    yank(remote, f"{LONG}@v3", None)
    httpx.put(f"{remote}/api/v1/tags", json={"stub": f"{LONG}@v2", "tag": "prod"})
    report = mirror(settings, remote)
    assert (report.added, report.changed) == (0, 2)
    assert resolve(settings, "zoo:tiny")["code"] == "VERSION_UNKNOWN"
    assert resolve(settings, "zoo:tiny@v1")["yank_reason"] == REASON
    assert resolve(settings, LONG)["version"] == 3
    assert resolve(settings, f"{LONG}@prod")["version"] == 2


def test_a_model_whose_versions_are_all_yanked_comes_with_the_reason(settings: Settings, remote: str) -> None:
    """Who pinned a version there can pin it here."""
    yank(remote, "zoo:tiny@v1", REASON)
    report = mirror(settings, remote)
    assert (report.added, report.refused) == (4, {})
    there = httpx.get(f"{remote}/api/v1/resolve", params={"stub": "zoo:tiny@v1"}).json()
    assert resolve(settings, "zoo:tiny@v1") == there
    assert f"v1: {REASON}" in resolve(settings, "zoo:tiny")["detail"]
    with open_site(settings) as site:
        assert [item["name"] for item in site.client.get("/api/v1/models").json()["items"]] == [LONG]


def test_an_alias_comes_with_a_version_that_was_published_without_it(tmp_path: Path, remote: str) -> None:
    with httpx.Client(base_url=remote) as client:
        for text, alias in (("first", "zoo:short"), ("second", None)):
            small("zoo:aliased", text, alias=alias).publish(client)
    delete(remote, "zoo:aliased@v1")
    settings = Settings(storage=tmp_path / "here")
    mirror(settings, remote, "zoo:aliased")
    assert resolve(settings, "zoo:short") == httpx.get(f"{remote}/api/v1/resolve?stub=zoo:short").json()


def test_a_version_that_was_deleted_there_is_yanked_here(settings: Settings, remote: str) -> None:
    mirror(settings, remote)
    delete(remote, f"{LONG}@v2")
    delete(remote, "zoo:tiny@v1", "a leak")
    report = mirror(settings, remote)
    assert (report.added, report.changed, report.deleted, report.refused) == (0, 0, 2, {})
    assert resolve(settings, f"{LONG}@v2")["yank_reason"] == f"deleted in the registry that it came from: {REASON}"
    assert resolve(settings, LONG)["version"] == 1
    assert resolve(settings, "zoo:tiny")["code"] == "VERSION_UNKNOWN"
    assert resolve(settings, "zoo:tiny@v1")["yank_reason"].endswith(": a leak")
    assert admin.scrub(settings).is_sound
    with FaultServer(upstream=remote).running() as proxy:
        assert mirror(settings, proxy.url).deleted == 0
        assert not [request for request in proxy.requests if "/resolve" in request.path]


def test_the_first_of_very_many_versions_follows_its_deletion(settings: Settings, remote: str) -> None:
    mirror(settings, remote, "zoo:tiny")
    database = Database(settings.database)

    def add(session: Session) -> None:
        for number in (*range(10, 20), *range(100, 200)):
            note(session, OPERATOR, "added", f"tiny@v{number}")

    database.write(add)
    database.close()
    delete(remote, "zoo:tiny@v1", "a leak")
    assert mirror(settings, remote, "zoo:tiny").deleted == 1


def test_a_version_that_was_deleted_there_is_deleted_here_where_that_is_asked_for(
    settings: Settings, remote: str
) -> None:
    mirror(settings, remote)
    delete(remote, f"{LONG}@v2")
    assert mirror(settings, remote).deleted == 1
    assert mirror(settings, remote, delete=True).deleted == 1
    gone = resolve(settings, f"{LONG}@v2")
    assert (gone["code"], gone["reason"]) == ("VERSION_DELETED", REASON)
    assert mirror(settings, remote, delete=True).deleted == 0
    assert resolve(settings, LONG)["version"] == 1


def test_what_is_used_here_is_not_deleted_and_named(settings: Settings, remote: str) -> None:
    mirror(settings, remote)
    with open_site(settings) as site:
        site.client.put("/api/v1/tags", json={"stub": f"{LONG}@v2", "tag": "mine"})
    delete(remote, f"{LONG}@v2")
    report = mirror(settings, remote, delete=True)
    assert report.deleted == 0
    assert "the tags mine point to" in report.refused[f"{LONG}@v2"]
    assert resolve(settings, f"{LONG}@mine")["version"] == 2


def test_another_registry_deletes_nothing_that_was_published_here(settings: Settings, remote: str) -> None:
    """Not even the same bytes under the same name and number."""
    with open_site(settings) as site:
        small().publish(site.client)
        small("zoo:own", "own").publish(site.client)
    mirror(settings, remote)
    delete(remote, "zoo:tiny@v1")
    report = mirror(settings, remote, delete=True)
    assert (report.deleted, report.refused) == (0, {})
    assert resolve(settings, "zoo:tiny")["version"] == resolve(settings, "zoo:own")["version"] == 1


@pytest.mark.parametrize(("prefix", "names"), [("nlp/", [LONG]), ("zoo:ti", ["zoo:tiny"]), ("x", [])])
def test_names_narrow_what_comes(tmp_path: Path, remote: str, prefix: str, names: list[str]) -> None:
    settings = Settings(storage=tmp_path / "here")
    mirror(settings, remote, prefix)
    with open_site(settings) as site:
        assert [item["name"] for item in site.client.get("/api/v1/models").json()["items"]] == names


def test_a_folder_of_plain_files_is_mirrored_too(tmp_path: Path, remote: str) -> None:
    yank(remote, "zoo:tiny@v1", REASON)
    admin.export_static(Settings(storage=tmp_path / "remote"), tmp_path / "site")
    settings = Settings(storage=tmp_path / "here")
    with web_server(tmp_path / "site") as url:
        assert mirror(settings, url).added == 4
        assert mirror(settings, url).added == 0
        mine = ZooSettings(home=tmp_path / "home", cache=tmp_path / "cache", endpoint=url)
        with pytest.raises(NotFoundError, match=rf"all versions of zoo:tiny are yanked.*zoo:tiny@v1. v1: {REASON}"):
            zoo.resolve("zoo:tiny", settings=mine)
        assert zoo.resolve("zoo:tiny@v1", settings=mine).yank_reason == REASON
    assert resolve(settings, "zoo:tiny@v1")["yank_reason"] == REASON


def test_versions_that_contradict_are_left_out_and_the_others_come(tmp_path: Path, remote: str) -> None:
    settings = Settings(storage=tmp_path / "here")
    with open_site(settings) as site:
        small(LONG, "other", alias=ALIAS).publish(site.client)
    report = mirror(settings, remote)
    assert list(report.refused) == [f"{LONG}@v1"]
    assert "other bytes" in report.refused[f"{LONG}@v1"]
    assert report.added == 3
    with open_site(settings) as site:
        assert site.client.get("/api/v1/resolve", params={"stub": f"{LONG}@v1"}).json()["size_bytes"] == 5


def test_what_the_gate_refuses_is_left_out(tmp_path: Path, remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an older registry may have published it, which had no gate."""
    with monkeypatch.context() as older, httpx.Client(base_url=remote) as client:
        older.setattr("registry.service.check_version", lambda *_: [])
        Folder("zoo:junk", {"deployment/model.onnx": ("deployment", b"junk")}).publish(client)
    settings = Settings(storage=tmp_path / "here")
    report = mirror(settings, remote)
    assert "no ONNX model" in report.refused["zoo:junk@v1"]
    assert report.added == 4
    assert resolve(settings, "zoo:junk")["code"] == "MODEL_UNKNOWN"


def test_row_12_wrong_bytes_are_never_taken(tmp_path: Path, remote: str) -> None:
    path = next((tmp_path / "remote/blobs").rglob(digest_of(b"weights")[7:]))
    path.write_bytes(b"wEights")
    settings = Settings(storage=tmp_path / "here")
    report = mirror(settings, remote)
    assert list(report.refused) == ["zoo:tiny@v1"]
    assert resolve(settings, "zoo:tiny")["code"] == "MODEL_UNKNOWN"
    assert admin.scrub(settings).is_sound
    path.write_bytes(b"weights")
    again = mirror(settings, remote)
    assert again.added == 0  # the other registry has marked its blob as damaged
    assert httpx.put(f"{remote}/api/v1/blobs/{digest_of(b'weights')}", content=b"weights").status_code == 200
    assert mirror(settings, remote).added == 1


def command(*arguments: object) -> list[str]:
    return [sys.executable, "cli.py", "--json", "registry", "mirror", *map(str, arguments)]


def test_row_10_a_mirror_that_was_killed_goes_on_where_it_stood(tmp_path: Path) -> None:
    data, here = noise("large", 6_000_000), tmp_path / "here"
    environment = {**os.environ, "ZOO_HOME": str(tmp_path / "home")}
    over = threading.Event()

    def stall(exchange: faulty.Exchange) -> None:
        exchange.send(exchange.head(200, {"ETag": f'"{digest_of(data)}"'}, len(data)) + data[:4_000_000])
        over.wait(60)

    with serving(tmp_path / "remote") as url, FaultServer(upstream=url).running() as proxy:
        with httpx.Client(base_url=url) as client:
            Folder("zoo:large", {"training/w.bin": ("training", data)}).publish(client)
        proxy.faults[:] = [faulty.well] * 3 + [stall]  # search, versions, version, then the file
        arguments = command(proxy.url, "--folder", here)
        process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
        try:
            while sum(path.stat().st_size for path in (here / "mirror/partial").glob("*")) < 1_000_000:
                assert process.poll() is None
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait(30)
            over.set()
        assert resolve(Settings(storage=here), "zoo:large")["code"] == "MODEL_UNKNOWN"
        done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["added"] == 1
        first, second = (r.headers.get("range") for r in proxy.requests if "/blobs/" in r.path)
        assert (first, second is None) == (None, False)
    assert admin.scrub(Settings(storage=here)).is_sound


def test_the_command_says_what_it_left_out_and_that_nothing_answers(tmp_path: Path, remote: str) -> None:
    def run(url: str, *more: str) -> subprocess.CompletedProcess[str]:
        arguments = command(url, "--name", "nlp/", "--folder", tmp_path / "here", *more)
        environment = {**os.environ, "ZOO_HOME": str(tmp_path / "home")}
        done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        return done

    with open_site(Settings(storage=tmp_path / "here")) as site:
        small(LONG, "other", alias=ALIAS).publish(site.client)
    done = run(remote)
    assert done.returncode == 1
    assert f"left out: {LONG}@v1" in done.stderr
    assert json.loads(done.stdout)["added"] == 2
    delete(remote, f"{LONG}@v2")
    assert run(remote, "--delete").returncode == 1
    assert resolve(Settings(storage=tmp_path / "here"), f"{LONG}@v2")["code"] == "VERSION_DELETED"
    gone = run("http://127.0.0.1:9")
    assert gone.returncode == 6
    assert "can't be reached" in gone.stderr


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/secret",
        "http://localhost:{port}/secret",
        "http://[::ffff:127.0.0.1]:{port}/secret",
        "http://2130706433:{port}/secret",
        "file:///etc/passwd",
    ],
)
def test_row_46_a_mirrored_registry_leads_nowhere_into_this_network(tmp_path: Path, target: str) -> None:
    """Each hop is judged by the address that was really connected to, before a byte is sent there."""
    with FaultServer().running() as secret, FaultServer().running() as evil:
        secret.always = faulty.refused(200, {}, b'{"items": [], "next_cursor": null}')
        evil.always = faulty.redirected(target.format(port=secret.url.rpartition(":")[2]))
        with pytest.raises(UnavailableError, match=r"own network|neither http nor https"):
            mirror(Settings(storage=tmp_path / "here"), evil.url)
        assert secret.requests == []
