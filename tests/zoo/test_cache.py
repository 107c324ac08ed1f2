"""The cache folder on disks that don't cooperate. Rows are those of the list of faults."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from zoo.cache import Cache, index_path, safe_name
from zoo.download import fetch_file
from zoo.errors import CacheError, UnavailableError
from zoo.manifest import FileEntry, Manifest, Role
from zoo.progress import ZooWarning
from zoo.settings import Patience
from zoo.stub import Stub
from zoo.version import VersionView

DATA = b"weights" * 100
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
MANIFEST = Manifest.parse(
    {
        "name": "zoo:a",
        "files": [
            {"path": "training/model.safetensors", "sha256": DIGEST, "size_bytes": len(DATA), "role": "training"},
            {"path": "deployment/model.onnx", "sha256": DIGEST, "size_bytes": len(DATA), "role": "deployment"},
        ],
    }
)
TRAINING, DEPLOYMENT = (MANIFEST.with_role(role)[0] for role in (Role.TRAINING, Role.DEPLOYMENT))
VIEW = VersionView(name="zoo:a", version=3, digest=MANIFEST.digest(), tags=("latest", "prod"), manifest=MANIFEST)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache.open(tmp_path / "cache")


def place(cache: Cache, *entries: FileEntry) -> Path:
    """Puts the entries' files into the model folder, and returns that."""
    for entry in entries or MANIFEST.files:
        fresh = cache.partial_folder() / "fresh"
        fresh.write_bytes(DATA)
        cache.place(fresh, MANIFEST, entry)
    return cache.model_folder(MANIFEST)


def fetch(cache: Cache, entry: FileEntry) -> None:
    """Brings a file into its place without a registry."""
    fetch_file(no_registry, cache, MANIFEST, entry, Patience(), lambda _: None)


def no_registry() -> NoReturn:
    raise UnavailableError("there is no registry")


def test_layout_is_marked_for_backups_and_for_later_releases(cache: Cache) -> None:
    assert (cache.root / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    assert cache.root.stat().st_mode & 0o777 == 0o700
    (cache.root / "format").write_text("99")
    with pytest.raises(CacheError, match="format '99', this release reads '1'"):
        Cache.open(cache.root)


def test_row_25_root_that_everybody_may_write_to_is_refused(cache: Cache) -> None:
    cache.root.chmod(0o1777)
    with pytest.raises(CacheError, match=r"everybody may write.*chmod o-w"):
        Cache.open(cache.root)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_row_25_root_of_another_user_is_used_with_a_warning(cache: Cache) -> None:
    os.chown(cache.root, 4242, -1)
    with pytest.warns(ZooWarning, match="belongs to another user \\(uid 4242\\)"):
        Cache.open(cache.root)


def test_row_22_files_are_own_real_files_where_nothing_can_be_shared(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no such feature")

    for module, name in ((os, "link"), (os, "symlink"), (fcntl, "flock"), (fcntl, "lockf"), (fcntl, "ioctl")):
        monkeypatch.setattr(module, name, refuse)
    cache.write_manifest(MANIFEST)
    folder = place(cache, TRAINING)
    fetch(cache, DEPLOYMENT)
    inodes = {(folder / entry.path).stat().st_ino for entry in MANIFEST.files}
    assert len(inodes) == 2
    assert all((folder / entry.path).read_bytes() == DATA for entry in MANIFEST.files)
    assert cache.not_in_place(MANIFEST, MANIFEST.files) == []


def test_row_22_another_disk_under_the_cache_is_named(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(self), None, str(target))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(CacheError, match="cross-device"):
        place(cache)


def test_row_23_no_space_gives_figures_and_leaves_earlier_versions(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_manifest(MANIFEST)
    folder = place(cache, TRAINING)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "ioctl", refuse)
        patch.setattr(shutil, "copyfileobj", refuse)
        with pytest.raises(CacheError, match=r"no space to copy .*training/model.safetensors: [\d,]+ bytes are free"):
            fetch(cache, DEPLOYMENT)
    assert not (folder / "deployment/model.onnx").exists()
    assert (folder / "training/model.safetensors").read_bytes() == DATA
    assert list((cache.root / "partial").glob("*.owner")) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"deployment/model.onnx": 5}', "[" * 100_000, "\xff"])
def test_a_damaged_index_costs_a_look_at_the_files_and_no_download(cache: Cache, text: str) -> None:
    folder = place(cache)
    index_path(folder).write_text(text, "latin-1")
    assert cache.not_in_place(MANIFEST, MANIFEST.files) == list(MANIFEST.files)
    for entry in MANIFEST.files:
        fetch(cache, entry)
    assert cache.not_in_place(MANIFEST, MANIFEST.files) == []


def test_who_puts_files_into_one_version_at_the_same_time_keeps_all_notes(cache: Cache) -> None:
    file = {"sha256": DIGEST, "size_bytes": len(DATA), "role": "training"}
    files = [{"path": f"training/{number:03}", **file} for number in range(96)]
    manifest = Manifest.parse({"name": "zoo:many", "files": files})

    def put(entry: FileEntry) -> None:
        fresh = cache.partial_folder() / entry.path.replace("/", "-")
        fresh.write_bytes(DATA)
        cache.place(fresh, manifest, entry)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, manifest.files))
    assert cache.not_in_place(manifest, manifest.files) == []


def test_an_index_of_an_earlier_release_is_read_and_added_to(cache: Cache) -> None:
    folder = place(cache, TRAINING)
    time_ns = (folder / TRAINING.path).stat().st_mtime_ns
    index_path(folder).write_text(json.dumps({TRAINING.path: [len(DATA), time_ns]}))
    assert cache.not_in_place(MANIFEST, MANIFEST.files) == [DEPLOYMENT]
    place(cache, DEPLOYMENT)
    assert cache.not_in_place(MANIFEST, MANIFEST.files) == []


def test_a_note_that_was_cut_off_spoils_no_other(cache: Cache) -> None:
    folder = place(cache, TRAINING)
    with index_path(folder).open("a") as index:
        index.write('\n{"deployment/mo')
    place(cache, DEPLOYMENT)
    assert cache.not_in_place(MANIFEST, MANIFEST.files) == []


def test_a_file_with_other_bytes_that_no_index_notes_is_not_taken(cache: Cache) -> None:
    folder = place(cache)
    index_path(folder).unlink()
    (folder / DEPLOYMENT.path).chmod(0o644)
    (folder / DEPLOYMENT.path).write_bytes(DATA[::-1])
    assert cache.is_in_place(MANIFEST, TRAINING)
    assert not cache.is_in_place(MANIFEST, DEPLOYMENT)
    with pytest.raises(UnavailableError, match="no registry"):
        fetch(cache, DEPLOYMENT)


def test_row_32_a_manifest_with_other_bytes_is_not_read(cache: Cache) -> None:
    cache.write_manifest(MANIFEST)
    assert cache.read_manifest(MANIFEST.digest()) == MANIFEST
    (path,) = (cache.root / "manifests").iterdir()
    document = json.loads(path.read_bytes())
    document["files"][0]["size_bytes"] += 1
    path.write_text(json.dumps(document))
    assert cache.read_manifest(MANIFEST.digest()) is None
    cache.write_manifest(MANIFEST)
    assert cache.read_manifest(MANIFEST.digest()) == MANIFEST


def test_refs_belong_to_one_registry_but_digests_to_all(cache: Cache) -> None:
    cache.write_refs("http://one", VIEW, Stub.parse("zoo:alias@beta"))
    for text in ("zoo:a", "zoo:a@prod", "zoo:a@v3", "zoo:a@beta", "zoo:alias", "zoo:alias@v3"):
        ref = cache.read_ref("http://one", Stub.parse(text))
        assert ref
        assert ref.digest == MANIFEST.digest()
        assert cache.read_ref("http://two", Stub.parse(text)) is None
    assert cache.read_ref("http://two", Stub.parse(f"zoo:a@{MANIFEST.digest()}"))
    assert cache.read_ref("http://one", Stub.parse("zoo:a@v4")) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"tags": 5}', '{"digest": "x", "tags": []}'])
def test_a_damaged_ref_counts_as_absent(cache: Cache, text: str) -> None:
    cache.write_refs("http://one", VIEW, Stub.parse("zoo:a"))
    for path in (cache.root / "refs").rglob("latest.json"):
        path.write_text(text)
    assert cache.read_ref("http://one", Stub.parse("zoo:a")) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", "x"),
        ("version", True),
        ("version", 0),
        ("version", None),
        ("name", 5),
        ("name", "zoo:../x"),
        ("alias", []),
        ("digest", "sha256:../x"),
        ("digest", None),
        ("tags", "prod"),
        ("tags", [5]),
        ("created_at", 5),
    ],
)
def test_a_ref_with_a_wrong_field_counts_as_absent(cache: Cache, field: str, value: object) -> None:
    cache.write_refs("http://one", VIEW, Stub.parse("zoo:a"))
    for path in (cache.root / "refs").rglob("latest.json"):
        path.write_text(json.dumps({**json.loads(path.read_bytes()), field: value}))
    assert cache.read_ref("http://one", Stub.parse("zoo:a")) is None


def test_row_08_names_never_share_a_folder() -> None:
    long = "/".join(["a" * 128] * 7)
    names = ["a", "@a/b", "a+b" if Stub.is_stub("a+b") else "a-b", "a/b/c/d/e/f/g", "a--b", long, long[:-1] + "b"]
    folders = [safe_name(name) for name in names]
    assert len({folder.lower() for folder in folders}) == len(names)
    assert all(len(folder) <= 200 and "/" not in folder for folder in folders)


def test_a_folder_in_the_place_of_a_file_is_named(cache: Cache) -> None:
    folder = cache.model_folder(MANIFEST)
    (folder / "training/model.safetensors/x").mkdir(parents=True)
    with pytest.raises(CacheError, match=r"model\.safetensors: a folder is in the place of a file"):
        place(cache)


def test_a_file_in_the_place_of_the_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(CacheError, match=r"cache is a file; set ZOO_CACHE to a folder"):
        Cache.open(tmp_path / "cache")
