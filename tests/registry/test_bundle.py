"""A registry into one file and back, between databases and stores; and into a folder that any web server serves."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

import zoo
from registry import admin
from registry.db import Database
from registry.errors import BundleError, DamagedBlobError, ExportError
from registry.settings import Settings
from registry.tables import AuditEntry
from tests.registry.builders import LONG, bert, digest_of, small
from tests.registry.conftest import open_site
from tests.registry.s3_server import free_ports
from zoo.client import RegistryClient
from zoo.errors import NotFoundError, ZooError
from zoo.settings import Settings as ZooSettings

Make = Callable[[str, str], Settings]
Change = Callable[[str, bytes], tuple[str, bytes] | None]


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Settings of a new registry on a database and a store."""

    def settings(database: str, store: str) -> Settings:
        url = request.getfixturevalue("new_postgres")() if database == "postgresql" else ""
        bucket = request.getfixturevalue("s3")(uuid.uuid4().hex) if store == "s3" else ""
        return Settings(storage=tmp_path / uuid.uuid4().hex, database_url=url, blob_store=bucket)

    return settings


def fill(settings: Settings) -> None:
    with open_site(settings) as site:
        bert().publish(site.client, tags=["prod"])
        bert(revision=2).publish(site.client)
        small("zoo:gone", "gone").publish(site.client)
        small("zoo:gone", "left", metadata={"base": LONG}).publish(site.client)
        reason = {"stub": "zoo:gone@v1", "reason": "a mistake"}
        assert site.client.post("/api/v1/versions/delete", json=reason).status_code == 200
        site.token("writer")


def look(settings: Settings) -> dict[str, Any]:
    """What a reader sees of a registry."""
    with open_site(settings) as site:
        get = site.client.get
        stubs = [LONG, f"{LONG}@prod", "zoo:gone", "zoo:gone@v1"]
        seen = {stub: get("/api/v1/resolve", params={"stub": stub}).json() for stub in stubs}
        seen["models"] = get("/api/v1/models").json()
        seen["search"] = get("/api/v1/models", params={"q": "extractive", "quantized": "true"}).json()["items"]
        seen["lineage"] = get("/api/v1/lineage", params={"stub": LONG}).json()
        seen["files"] = [get(file["url"]).content for file in seen[LONG]["files"]]
        return seen


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (("sqlite", "folder"), ("sqlite", "folder")),
        (("sqlite", "folder"), ("postgresql", "s3")),
        (("postgresql", "s3"), ("sqlite", "folder")),
        (("postgresql", "folder"), ("postgresql", "folder")),
    ],
)
def test_a_backup_is_restored_on_each_database_and_store(
    make: Make, source: tuple[str, str], target: tuple[str, str], tmp_path: Path
) -> None:
    old, new = make(*source), make(*target)
    fill(old)
    written = admin.backup(old, tmp_path / "zoo.tar")
    assert admin.restore(new, tmp_path / "zoo.tar") == written
    assert look(new) == look(old)
    assert [token.name for token in admin.list_tokens(new)] == ["writer"]
    assert admin.scrub(new).is_sound
    assert [path.name for path in tmp_path.glob(".zoo.tar*")] == []
    token = admin.create_token(new, "another")
    with open_site(new) as site:  # ids go on after those that were restored
        site.client.headers["Authorization"] = f"Bearer {token}"
        assert small("zoo:later").publish(site.client).status_code == 201
        assert bert(revision=3).publish(site.client).json()["version"] == 3


def test_a_registry_that_is_not_empty_is_left_alone(make: Make, tmp_path: Path) -> None:
    old = make("sqlite", "folder")
    fill(old)
    admin.backup(old, tmp_path / "zoo.tar")
    before = look(old)
    with pytest.raises(BundleError, match="isn't empty"):
        admin.restore(old, tmp_path / "zoo.tar")
    assert look(old) == before


def test_row_51_a_damaged_registry_is_not_backed_up(make: Make, tmp_path: Path) -> None:
    settings = make("sqlite", "folder")
    fill(settings)
    path = next((settings.storage / "blobs").rglob(digest_of(b"left")[7:]))
    path.write_bytes(b"l3ft")
    with pytest.raises(DamagedBlobError, match=digest_of(b"left")):
        admin.backup(settings, tmp_path / "zoo.tar")
    assert list(tmp_path.glob("*zoo.tar*")) == []


def rewrite(path: Path, change: Change) -> None:
    with tarfile.open(path) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]  # all are files
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            changed = change(name, data)
            if changed:
                info = tarfile.TarInfo(changed[0])
                info.size = len(changed[1])
                tar.addfile(info, io.BytesIO(changed[1]))


CHANGES: dict[str, tuple[str, Change]] = {
    "wrong bytes": ("damaged", lambda name, data: (name, bytes(len(data)) if name.startswith("blobs/") else data)),
    "a blob is missing": (
        "cut off",
        lambda name, data: None if name.endswith(digest_of(b"left")[7:]) else (name, data),
    ),
    "rows are missing": ("cut off", lambda name, data: None if name == "tables/versions.jsonl" else (name, data)),
    "a row is cut": (
        "row of models",
        lambda name, data: (name, data[:-9] + b"\n" if name == "tables/models.jsonl" else data),
    ),
    "another schema": ("schema '9", lambda name, data: (name, data.replace(b'"revision": "', b'"revision": "9'))),
    "another format": ("format 2", lambda name, data: (name, data.replace(b'"format": 1', b'"format": 2'))),
    "row_33 a path leads out": (
        "belongs in none",
        lambda name, data: ("../../evil" if name.startswith("blobs/") else name, data),
    ),
    "no bundle": ("no bundle", lambda name, data: None if name == "bundle.json" else (name, data)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_row_33_a_bundle_that_was_changed_restores_nothing(make: Make, tmp_path: Path, change: str) -> None:
    old, new = make("sqlite", "folder"), make("sqlite", "folder")
    fill(old)
    path = tmp_path / "zoo.tar"
    admin.backup(old, path)
    reason, edit = CHANGES[change]
    rewrite(path, edit)
    with pytest.raises(BundleError, match=reason):
        admin.restore(new, path)
    with open_site(new) as site:
        assert site.client.get("/api/v1/models").json()["items"] == []
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_bundle_that_is_cut_off_restores_nothing(make: Make, tmp_path: Path, share: float) -> None:
    old, new = make("sqlite", "folder"), make("sqlite", "folder")
    fill(old)
    path = tmp_path / "zoo.tar"
    admin.backup(old, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(BundleError):
        admin.restore(new, path)
    with open_site(new) as site:
        assert site.client.get("/api/v1/models").json()["items"] == []


def test_rows_are_held_by_batches_alone(make: Make, tmp_path: Path) -> None:
    """Of 30 MB of rows, some MB are in memory at a time, both ways."""
    old, new = make("sqlite", "folder"), make("sqlite", "folder")
    fill(old)
    database = Database(old.database)
    entry = {"at": datetime.now(UTC), "action": "tag", "target": "t" * 500, "detail": "d" * 900}
    with database.exclusive() as connection:
        connection.execute(insert(AuditEntry), [entry] * 20_000)
    database.close()
    admin.upgrade(new)
    tracemalloc.start()
    try:
        written = admin.backup(old, tmp_path / "zoo.tar")
        assert admin.restore(new, tmp_path / "zoo.tar") == written
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()
    assert written.rows > 20_000
    assert (tmp_path / "zoo.tar").stat().st_size > 30 << 20
    assert look(new) == look(old)


# --- a folder behind a plain web server


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    arguments = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                httpx.get(f"http://127.0.0.1:{port}/")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def test_the_client_reads_a_folder_that_a_plain_web_server_serves(make: Make, tmp_path: Path) -> None:
    settings = make("sqlite", "folder")
    fill(settings)
    site = tmp_path / "site"
    report = admin.export_static(settings, site)
    assert (report.models, report.versions) == (2, 3)
    assert admin.export_static(settings, site) == report  # safe to repeat
    with web_server(site) as url:
        mine = ZooSettings(home=tmp_path / "home", cache=tmp_path / "cache", endpoint=url)
        for stub, version in ((LONG, 2), (f"{LONG}@prod", 1), (f"{LONG}@v1", 1), (bert().alias, 2), ("zoo:gone", 2)):
            assert zoo.resolve(str(stub), settings=mine).version == version
        digest = zoo.resolve(f"{LONG}@prod", settings=mine).digest
        folder = zoo.pull(f"{LONG}@{digest}", settings=mine)
        assert (folder / "deployment/model.onnx").read_bytes() == bert().files["deployment/model.onnx"][1]
        for stub in (f"{LONG}@v9", "zoo:gone@v1", "zoo:nobody"):
            with pytest.raises(NotFoundError, match=r"has no v|hold no model zoo:nobody"):
                zoo.resolve(stub, settings=mine)
        with pytest.raises(ZooError, match="serves pull, show and search alone"), RegistryClient(mine) as client:
            client.whoami()
        names = [item.name for item in zoo.search("extractive", sparsity_min=0.7, quantized=True, settings=mine).items]
        assert names == [LONG]
        assert [item.name for item in zoo.search(license="apache-2.0", settings=mine).items] == [LONG]
        assert zoo.search("extractive", sparsity_min=0.9, settings=mine).items == ()
        assert len(zoo.search(limit=1, settings=mine).items) == 1
        assert [item.name for item in zoo.search(f1_min=87, size_max=10**9, settings=mine).items] == [LONG]
        assert zoo.search(f1_min=88, settings=mine).items == zoo.search(size_max=3, settings=mine).items == ()
        with pytest.raises(ZooError, match="leave the latency out"):
            zoo.search(latency_max_ms=10, settings=mine)


def test_a_folder_of_plain_files_keeps_nothing_that_became_private_or_was_deleted(tmp_path: Path) -> None:
    settings, base = Settings(storage=tmp_path / "registry"), tmp_path / "site" / "api" / "v1"
    with open_site(settings) as site:
        for name in ("zoo:stays", "zoo:@acme/private", "zoo:deleted"):
            small(name, text=name).publish(site.client)
        admin.export_static(settings, tmp_path / "site")
        own = base / "static" / "notes.txt"
        own.write_text("not ours")
        admin.set_scope(settings, "@acme", private=True)
        headers = {"Authorization": f"Bearer {admin.create_token(settings, 'writer')}"}
        asked = {"stub": "zoo:deleted@v1", "reason": "wrong"}
        assert site.client.post("/api/v1/versions/delete", json=asked, headers=headers).status_code == 200
    admin.export_static(settings, tmp_path / "site")
    assert {path.name for path in (base / "static").iterdir()} == {"stays.json", "notes.txt"}
    assert {path.name for path in (base / "blobs").iterdir()} == {digest_of(b"zoo:stays")}


def test_a_folder_that_is_no_export_is_left_as_it_is(tmp_path: Path) -> None:
    settings, base = Settings(storage=tmp_path / "registry"), tmp_path / "site" / "api" / "v1"
    with open_site(settings) as site:
        small().publish(site.client)
    (base / "static").mkdir(parents=True)
    (base / "static" / "app.json").write_text("{}")
    (base / "users").write_text("[]")
    with pytest.raises(ExportError, match=r"holds users, .*empty folder"):
        admin.export_static(settings, tmp_path / "site")
    assert {path.name for path in base.rglob("*")} == {"static", "app.json", "users"}
