"""A registry's id ties its blob store to its database: in a folder and in a bucket."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from sqlalchemy import text

from registry import admin, serve
from registry.db import Database
from registry.errors import ForeignStoreError, StartError
from registry.settings import Settings
from registry.storage import open_store
from registry.storage.objects import connect
from tests.registry.builders import bert, digest_of, small
from tests.registry.conftest import ROOT, open_site

Make = Callable[..., Settings]
SOON = timedelta(microseconds=1)


@pytest.fixture(params=["folder", "s3"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Settings of a registry with a database of its own, and a store of its own or another registry's."""

    def settings(store_of: Settings | None = None) -> Settings:
        folder = tmp_path / uuid.uuid4().hex
        if request.param == "s3":
            bucket = store_of.blob_store if store_of else request.getfixturevalue("s3")(uuid.uuid4().hex)
            return Settings(storage=folder, blob_store=bucket)
        return Settings(storage=store_of.storage if store_of else folder, database_url=f"sqlite:///{folder}/own.db")

    return settings


def id_of(settings: Settings) -> str:
    """What the database says."""
    database = Database(settings.database)
    with database.read() as session:
        found = session.execute(text("SELECT id FROM identity")).scalar_one()
    database.close()
    return str(found)


def forget(settings: Settings) -> None:
    """The store as it was before registries had ids."""
    if settings.blob_store:
        obstore.delete(connect(settings.blob_store), "registry-id")
    else:
        (settings.storage / "registry-id").unlink()


def filled(settings: Settings) -> Settings:
    with open_site(settings) as site:
        assert bert().publish(site.client).status_code == 201
    return settings


def stored(settings: Settings) -> set[str]:
    return {blob.digest for blob in open_store(settings).blobs()}


def test_a_store_carries_its_registry_s_id_from_its_first_start(make: Make) -> None:
    one, other = filled(make()), filled(make())
    assert open_store(one).registry_id() == id_of(one) != id_of(other) == open_store(other).registry_id()
    assert len(id_of(one)) == 32
    admin.upgrade(one)
    assert admin.gc(one, SOON).removed == []
    assert open_store(one).registry_id() == id_of(one)


def test_a_store_of_before_there_were_ids_is_taken_at_the_next_start(make: Make) -> None:
    settings = filled(make())
    forget(settings)
    assert admin.gc(settings, SOON).removed == []
    assert admin.scrub(settings).is_sound
    assert open_store(settings).registry_id() is None
    with open_site(settings):
        assert open_store(settings).registry_id() == id_of(settings)


def test_another_registry_s_store_is_refused_and_stays_as_it_was(make: Make, tmp_path: Path) -> None:
    owner = filled(make())
    other = make(store_of=owner)
    before = stored(owner)
    admin.backup(owner, tmp_path / "zoo.tar")
    with pytest.raises(ForeignStoreError) as refused:
        admin.upgrade(other)
    for told in (id_of(owner), id_of(other), owner.blobs_at, other.database, "zoo registry adopt"):
        assert told in str(refused.value)
    commands: list[Callable[[], object]] = [
        lambda: admin.gc(other, SOON, force=True),
        lambda: admin.gc(other, SOON, dry_run=True),
        lambda: admin.scrub(other),
        lambda: admin.restore(other, tmp_path / "zoo.tar"),
        lambda: admin.import_bundle(other, tmp_path / "zoo.tar"),
        lambda: serve(other),
        lambda: open_site(other).__enter__(),
    ]
    for command in commands:
        with pytest.raises(ForeignStoreError, match=id_of(owner)):
            command()
    assert stored(owner) == before
    assert admin.scrub(owner).is_sound


def test_an_adopted_store_is_the_new_registry_s_and_no_longer_the_old_one_s(make: Make) -> None:
    owner = filled(make())
    other = make(store_of=owner)
    with pytest.raises(ForeignStoreError):
        admin.upgrade(other)
    done = admin.adopt(other)
    assert (done.store, done.registry_id, done.previous_id) == (owner.blobs_at, id_of(other), id_of(owner))
    with pytest.raises(ForeignStoreError):
        admin.gc(owner)
    with open_site(other) as site:
        assert small().publish(site.client).status_code == 201
    assert admin.adopt(other).previous_id == id_of(other)


def test_a_restored_registry_has_an_id_of_its_own(make: Make, tmp_path: Path) -> None:
    """Also one that takes the place of the old one, whose store it adopts."""
    old = filled(make())
    admin.backup(old, tmp_path / "zoo.tar")
    fresh, heir = make(), make(store_of=old)
    admin.restore(fresh, tmp_path / "zoo.tar")
    with pytest.raises(ForeignStoreError):
        admin.upgrade(heir)
    admin.adopt(heir)
    admin.restore(heir, tmp_path / "zoo.tar")
    assert len({id_of(old), id_of(fresh), id_of(heir)}) == 3
    assert open_store(fresh).registry_id() == id_of(fresh)
    assert admin.scrub(heir).is_sound
    assert stored(heir) == stored(fresh)


def test_a_sweep_counts_before_it_takes_a_store_without_an_id_for_its_own(make: Make) -> None:
    """Neither an empty database sweeps it nor one of other models; `force` is for who means it."""
    owner = filled(make())
    other = make(store_of=owner)
    with pytest.raises(ForeignStoreError):
        admin.upgrade(other)
    orphan = stored(owner)
    forget(owner)
    later = timedelta(days=-1)  # so that what was stored just now is old enough
    with pytest.raises(StartError, match=r"knows 0 of the .* files .*--force"):
        admin.gc(other, later)
    with open_site(other) as site:
        assert small(text="other").publish(site.client).status_code == 201
    for dry_run in (False, True):
        with pytest.raises(StartError, match=r"knows 1 of the "):
            admin.gc(other, later, dry_run=dry_run)
    assert stored(owner) > orphan
    assert set(admin.gc(other, later, force=True).removed) == orphan
    assert stored(owner) == {digest_of(b"other")}


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    owner = filled(Settings(storage=tmp_path / "owner"))
    other = Settings(storage=tmp_path / "owner", database_url=f"sqlite:///{tmp_path}/other.db")

    def zoo(*arguments: str) -> subprocess.CompletedProcess[str]:
        more = ["--folder", str(other.storage), "--database-url", other.database]
        command = [sys.executable, "cli.py", "--json", "registry", *arguments, *more]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    refused = zoo("init")
    assert (refused.returncode, json.loads(refused.stderr)["error"]["kind"]) == (1, "ForeignStoreError")
    done = zoo("adopt")
    assert json.loads(done.stdout) == {
        "store": str(owner.storage),
        "registry_id": id_of(other),
        "previous_id": id_of(owner),
    }


def test_a_copy_of_a_database_is_the_same_registry(new_postgres: Callable[..., str], tmp_path: Path) -> None:
    """These two are copies of one template."""
    settings = filled(Settings(storage=tmp_path / "storage", database_url=new_postgres()))
    copied = Settings(storage=tmp_path / "storage", database_url=new_postgres())
    admin.upgrade(copied)
    assert id_of(copied) == id_of(settings) == open_store(settings).registry_id()
