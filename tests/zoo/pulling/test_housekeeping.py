"""Looking after the cache: listed, emptied, pruned, verified and healed. Rows are those of the list of faults."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import zoo
from tests.registry.builders import graph
from tests.zoo import fault_server as faulty
from tests.zoo.fault_server import FaultServer
from tests.zoo.pulling.models import LONG, SHORT, build, content, flip, pull_two_versions
from zoo import housekeeping
from zoo.cache import Cache
from zoo.errors import NotFoundError, UnavailableError
from zoo.progress import ZooWarning
from zoo.settings import Settings


@pytest.mark.usefixtures("published")
def test_row_24_truncated_file_is_found_at_use_and_healed(settings: Settings) -> None:
    folder = zoo.pull(LONG, "deployment", settings=settings)
    path = folder / "model.onnx"
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:-1])
    assert zoo.pull(LONG, "deployment", settings=settings) == folder
    assert path.read_bytes() == whole


@pytest.mark.usefixtures("published")
def test_row_24_flipped_file_is_found_by_verify_and_healed(settings: Settings) -> None:
    path = zoo.pull(LONG, "deployment", settings=settings) / "model.onnx"
    assert housekeeping.verify(settings=settings).damage == ()
    whole, times = path.read_bytes(), path.stat()
    flip(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    found = housekeeping.verify(settings=settings)
    assert found.is_sound
    assert [(damage.path, damage.healed) for damage in found.damage] == [(path, True)]
    assert path.read_bytes() == whole
    assert housekeeping.verify(settings=settings).damage == ()


@pytest.mark.usefixtures("published")
def test_row_24_damage_that_cannot_be_healed_is_never_used(settings: Settings, offline: Settings) -> None:
    flip(zoo.pull(LONG, "deployment", settings=settings) / "model.onnx")
    with pytest.warns(ZooWarning, match="can't be healed"):
        found = housekeeping.verify(settings=offline)
    assert found.damage
    assert not any(damage.healed for damage in found.damage)
    assert not found.is_sound
    with pytest.warns(ZooWarning), pytest.raises(UnavailableError, match=r"lacks .*model\.onnx \([\d,]+ bytes\)"):
        zoo.pull(LONG, "deployment", settings=offline)


@pytest.mark.usefixtures("published")
def test_row_24_a_refused_token_costs_the_healing_and_not_the_report(settings: Settings, proxy: FaultServer) -> None:
    path = zoo.pull(LONG, "deployment", settings=settings) / "model.onnx"
    flip(path)
    proxy.always = faulty.refused(403)
    with pytest.warns(ZooWarning, match="can't be healed"):
        found = housekeeping.verify(settings=settings)
    assert [(damage.path, damage.healed) for damage in found.damage] == [(path, False)]
    assert str(found).startswith("2 files looked at, 1 damaged or missing\nDAMAGED ")


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("by", ["nothing", "a link", "a folder"])
def test_row_24_a_file_that_is_gone_is_told_and_healed(settings: Settings, offline: Settings, by: str) -> None:
    path = zoo.pull(LONG, "deployment", settings=settings) / "model.onnx"
    whole = path.read_bytes()
    path.unlink()
    if by == "a link":
        path.symlink_to(path.with_name("tokenizer.json"))
    if by == "a folder":
        path.mkdir()
    with pytest.warns(ZooWarning, match="can't be healed"):
        found = housekeeping.verify(settings=offline)
    assert not found.is_sound
    assert "DAMAGED" in str(found)
    assert "model.onnx is missing, expected sha256:" in str(found)
    if by == "a folder":
        path.rmdir()
    assert housekeeping.verify(settings=settings).is_sound
    assert path.read_bytes() == whole


@pytest.mark.usefixtures("published")
def test_row_24_what_was_healed_before_the_registry_went_is_told_so(settings: Settings, proxy: FaultServer) -> None:
    folder = zoo.pull(LONG, "training", settings=settings)
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    proxy.faults, proxy.always = [faulty.well], faulty.refused(403)
    with pytest.warns(ZooWarning, match="can't be healed"):
        found = housekeeping.verify(settings=settings)
    assert {damage.path.name: damage.healed for damage in found.damage} == {
        "config.json": True,
        "model.safetensors": False,
    }


def test_row_24_a_flipped_file_is_not_copied_into_another_version(
    settings: Settings, offline: Settings, proxy: FaultServer, tmp_path: Path
) -> None:
    damaged = "deployment/model.onnx"
    with pytest.warns(ZooWarning, match="fetching it once more"):
        second, fetched = pull_two_versions("zoo:two", settings, proxy, build(tmp_path / "m", 6), damaged)
    assert content(second) == content(tmp_path / "m")
    assert fetched == 2
    flip(second / damaged)
    with pytest.warns(ZooWarning), pytest.raises(UnavailableError, match=r"download deployment/model\.onnx of zoo:two"):
        zoo.pull("zoo:two@v2", "deployment", settings=offline)


@pytest.mark.usefixtures("published")
def test_cache_is_listed_and_emptied(settings: Settings) -> None:
    folder = zoo.pull(f"{SHORT}@prod", "deployment", settings=settings)
    (item,) = housekeeping.ls(settings=settings)
    assert (item.name, item.alias, item.roles, item.path) == (LONG, SHORT, ("deployment",), folder.parent)
    assert {"latest", "prod", "v1"} <= set(item.pins)
    size_bytes = len(graph(bytes([0, 1]) * 3000)) + len(b"{}")
    assert item.size_bytes == size_bytes
    with pytest.raises(NotFoundError, match="isn't in the cache"):
        housekeeping.rm("zoo:nobody", settings=settings)
    assert housekeeping.rm(SHORT, settings=settings).freed_bytes == size_bytes
    assert housekeeping.ls(settings=settings) == []
    assert not folder.exists()


def test_the_alias_of_a_model_that_was_published_again_without_it_is_listed(
    settings: Settings, registry: str, tmp_path: Path
) -> None:
    model = build(tmp_path / "m", 3)
    zoo.publish(model, "zoo:aliased", alias="zoo:its-short-name", settings=settings)
    (model / "recipe.md").write_text("modifiers: []\nz: 1\n")
    zoo.publish(model, "zoo:aliased", settings=settings)
    zoo.pull("zoo:its-short-name", settings=settings)
    (item,) = housekeeping.ls(settings=settings)
    assert (item.name, item.alias) == ("zoo:aliased", "zoo:its-short-name")
    assert "v2" in item.pins


def test_rm_leaves_the_files_of_another_version(settings: Settings, registry: str, tmp_path: Path) -> None:
    model = build(tmp_path / "m", 3)
    zoo.publish(model, "zoo:shared", settings=settings)
    (model / "recipe.md").write_text("modifiers: []\nz: 1\n")
    zoo.publish(model, "zoo:shared", settings=settings)
    zoo.pull("zoo:shared@v1", settings=settings)
    second = zoo.pull("zoo:shared@v2", settings=settings)
    housekeeping.rm("zoo:shared@v1", settings=settings)
    assert [item.path for item in housekeeping.ls(settings=settings)] == [second]
    assert housekeeping.verify(settings=settings).damage == ()
    assert content(second) == content(model)


@pytest.mark.usefixtures("published")
def test_row_29_prune_leaves_what_is_used_and_what_was_last_used(settings: Settings) -> None:
    folder = zoo.pull(LONG, settings=settings)
    index = folder.with_name(folder.name + ".json")
    assert housekeeping.prune(max_age_s=0, settings=settings).freed_bytes == 0
    os.utime(index, (2**33, 2**33))
    assert housekeeping.prune(max_age_s=0, settings=settings).freed_bytes == 0
    os.utime(index, (1000, 1000))
    assert housekeeping.prune(settings=settings).freed_bytes == 0
    assert housekeeping.prune(max_age_s=0, keep=1, settings=settings).freed_bytes == 0
    assert folder.exists()
    assert housekeeping.prune(max_age_s=86_400, settings=settings).freed_bytes > 11_000
    assert not folder.exists()
    assert content(zoo.pull(LONG, settings=settings))


@pytest.mark.usefixtures("published")
def test_row_28_a_version_used_while_it_is_being_pruned_stays(settings: Settings) -> None:
    manifest = zoo.resolve(LONG, settings=settings).manifest
    folder, cache = zoo.pull(LONG, settings=settings), Cache.open(settings.cache)
    before = content(folder)
    assert not cache.remove_version(manifest, time.time() - 60)
    assert content(folder) == before
    assert housekeeping.ls(settings=settings)[0].path == folder
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, f"{folder.name}.json"}


def test_prune_removes_what_older_releases_and_kills_left(settings: Settings) -> None:
    cache = Cache.open(settings.cache)
    old = [cache.root / name for name in ("blobs/sha256/ab/abcd", "models/a/ff.1.removed/model.onnx", "partial/x.part")]
    young = [cache.root / name for name in ("blobs/sha256/cd/cdef", "models/a/ff.2.removed/model.onnx")]
    for path in (*old, *young):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left")
    for path in old:
        for part in (path, path.parent):
            os.utime(part, (1_000, 1_000))
    assert housekeeping.prune(dry_run=True, settings=settings).freed_bytes == 12
    assert all(path.exists() for path in old)
    assert housekeeping.prune(settings=settings).freed_bytes == 12
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in young)
    os.utime(young[0].parent, (1_000, 1_000))
    assert housekeeping.prune(settings=settings).freed_bytes == 4
    assert not (cache.root / "blobs").exists()


def test_a_folder_of_the_cache_replaced_by_a_link_is_not_written_through(
    settings: Settings, published: Path, tmp_path: Path
) -> None:
    folder = zoo.pull(LONG, "card", settings=settings)
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder.parent / "deployment").symlink_to(outside)
    with pytest.raises(zoo.CacheError, match="a link is in the place of a folder"):
        zoo.pull(LONG, "deployment", settings=settings)
    assert list(outside.iterdir()) == []
