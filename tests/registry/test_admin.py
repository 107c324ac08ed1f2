"""Sweeping and re-hashing: what is needed stays, what is damaged is named."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import inspect
from starlette.testclient import TestClient

from registry import admin, migrate
from registry.db import Database
from registry.errors import SchemaError
from registry.settings import Settings
from registry.storage.folder import FolderBlobStore
from tests.registry.builders import bert, digest_of, small
from tests.registry.conftest import Site
from tests.registry.test_migrate import HEAD

NOW = timedelta(microseconds=1)


def path_of(site: Site, data: bytes) -> Path:
    name = digest_of(data)[7:]
    return site.settings.storage / "blobs" / name[:2] / name[2:4] / name


def test_row_39_an_orphan_is_swept_after_the_grace_period_only(site: Site, client: TestClient) -> None:
    small().publish(client)
    orphan = b"never published"
    client.put(f"/api/v1/blobs/{digest_of(orphan)}", content=orphan)
    assert admin.gc(site.settings).removed == []
    dry = admin.gc(site.settings, NOW, dry_run=True)
    assert (dry.removed, dry.freed_bytes) == ([digest_of(orphan)], len(orphan))
    assert path_of(site, orphan).exists()
    assert admin.gc(site.settings, NOW).removed == [digest_of(orphan)]
    assert not path_of(site, orphan).exists()
    assert client.get(f"/api/v1/blobs/{digest_of(orphan)}").status_code == 404
    assert client.get(f"/api/v1/blobs/{digest_of(b'weights')}").content == b"weights"
    assert client.put(f"/api/v1/blobs/{digest_of(orphan)}", content=orphan).status_code == 201


def test_row_39_bytes_without_a_row_are_invisible_can_be_sent_again_and_are_swept(
    site: Site, client: TestClient
) -> None:
    """What a crash leaves between the file's rename and the row's commit."""
    small().publish(client)
    store, data = FolderBlobStore(site.settings.storage), b"crashed"
    file = store.receive()
    file.write(data)
    store.keep(file, digest_of(data))
    url = f"/api/v1/blobs/{digest_of(data)}"
    assert client.get(url).status_code == 404
    assert client.post("/api/v1/blobs/missing", json={"digests": [digest_of(data)]}).json()["missing"]
    assert admin.gc(site.settings).removed == []
    old = time.time() - 7 * 86_400
    os.utime(path_of(site, data), (old, old))
    assert admin.gc(site.settings).removed == [digest_of(data)]
    assert client.put(url, content=data).status_code == 201
    assert client.get(url).content == data


@pytest.mark.parametrize(
    "command",
    [admin.gc, admin.scrub, admin.list_tokens, admin.list_scopes, admin.audit, lambda s: admin.revoke_token(s, "x")],
)
def test_commands_on_a_registry_make_and_migrate_none(
    command: Callable[[Settings], object], empty_database: str, tmp_path: Path
) -> None:
    settings = Settings(storage=tmp_path / "storage", database_url=empty_database)
    database = Database(settings.database)
    try:
        with pytest.raises(SchemaError, match=r"no registry in the database .*zoo registry init"):
            command(settings)
        with database.read() as session:
            assert inspect(session.connection()).get_table_names() == []
        migrate.upgrade(database)
        older = migrate.downgrade(database, "-1")
        with pytest.raises(SchemaError, match=rf"schema {older}.*zoo registry upgrade"):
            command(settings)
        with database.read() as session:
            assert migrate.current(session.connection()) == (older,)
    finally:
        database.close()


def test_row_39_an_abandoned_upload_is_swept(site: Site) -> None:
    leftover = site.settings.storage / "incoming" / "0123"
    leftover.write_bytes(b"half")
    assert admin.gc(site.settings).uploads_removed == 0
    assert leftover.exists()
    os.utime(leftover, (1, 1))
    assert admin.gc(site.settings).uploads_removed == 1
    assert not leftover.exists()


def test_a_blob_sent_again_starts_a_new_grace_period(site: Site, client: TestClient) -> None:
    url = f"/api/v1/blobs/{digest_of(b'x')}"
    client.put(url, content=b"x")
    time.sleep(0.3)
    client.put(url, content=b"x")
    assert admin.gc(site.settings, timedelta(seconds=0.25)).removed == []


def test_a_blob_that_becomes_published_is_kept(site: Site, client: TestClient) -> None:
    folder = bert()
    folder.upload(client)
    assert client.post("/api/v1/versions", json={"manifest": folder.manifest}).status_code == 201
    assert admin.gc(site.settings, NOW).removed == []
    assert admin.scrub(site.settings).is_sound


def test_a_scrub_names_damaged_and_missing_blobs_and_who_needs_them(site: Site, client: TestClient) -> None:
    small("zoo:one", "first").publish(client)
    small("zoo:two", "second").publish(client)
    small("zoo:three", "third").publish(client)
    path_of(site, b"first").write_bytes(b"f1rst")
    path_of(site, b"second").unlink()
    report = admin.scrub(site.settings)
    assert report.checked == 3
    assert report.damaged == {digest_of(b"first"): ["zoo:one@v1"]}
    assert report.missing == {digest_of(b"second"): ["zoo:two@v1"]}
    assert not report.is_sound
    for text in ("first", "second"):
        client.put(f"/api/v1/blobs/{digest_of(text.encode())}", content=text.encode())
    assert admin.scrub(site.settings).is_sound


@pytest.mark.parametrize("times", [1, 2])
def test_upgrade_makes_an_empty_registry_and_is_safe_to_repeat(site: Site, times: int) -> None:
    for _ in range(times):
        assert admin.upgrade(site.settings) == HEAD
