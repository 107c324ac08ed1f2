"""The cache: models on this machine, every file verified before it came into its place.

    CACHEDIR.TAG  format                       a marker for backup programs; the number of this layout
    manifests/<64 hex>.json                    canonical JSON of a version's manifest
    refs/<endpoint>/<name>/<pin>.json          what a registry answered last for a name and pin
    models/<name>/<64 hex>/...                 a version's files: read-only files of its own, never links
    models/<name>/<64 hex>.json                index, written last: a line for each file put there, its size and time
    models/<name>/<64 hex>.<nonce>.removed/    a version on its way out
    partial/  quarantine/                      downloads and copies under way; bytes that were wrong

Every file comes into its place whole, by one rename, so that a killed process leaves nothing that a later one trusts.
A file that the index doesn't note, or notes otherwise, is hashed before it is used. Lines are only ever added to it,
so that processes that put files into one version keep each other's. There is no store of blobs beside
the folders: a file is written once, and what two versions share is copied from one to the other.
Policy: a root that everybody may write to is refused, one that belongs to another user is used with a warning.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
import time
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from zoo.disk import file_in_the_way, hash_file, make_folders, size_of, sync_folder, write_whole
from zoo.errors import CacheError, ManifestError
from zoo.manifest import FileEntry, Manifest
from zoo.progress import ZooWarning
from zoo.stub import Stub
from zoo.version import VersionSummary, VersionView

FORMAT = "1"
_LEFTOVERS = ("partial/*", "quarantine/*", "models/*/*.removed", "blobs/*/*")
_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Models that can be fetched again. See https://bford.info/cachedir/\n"


class Ref(VersionSummary):
    """What a registry answered last: the version behind a name and pin."""

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """A ref's file, or None if it is absent or damaged."""
        try:
            return cls.model_validate_json(_bytes_of(path), strict=True)
        except ValidationError:
            return None

    def view(self, manifest: Manifest) -> VersionView:
        """The version as the registry gave it."""
        return VersionView(**{**self.model_dump(), "size_bytes": manifest.size_bytes, "manifest": manifest})


class Cache:
    """A cache folder. Raises `CacheError` for whatever the disk or its rights refuse."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def open(cls, root: Path) -> Self:
        """Makes the folder if it is absent, and checks who may write to it."""
        cache = cls(root)
        with cache.guarded("open"):
            if blocked := file_in_the_way(root):
                raise CacheError(f"{blocked} is a file; set ZOO_CACHE to a folder")
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_rights(root)
            cache._check_format()
        return cache

    @contextmanager
    def guarded(self, doing: str, path: Path | None = None) -> Iterator[None]:
        """Turns what the operating system refuses into `CacheError`, with the free space where that is the cause."""
        try:
            yield
        except OSError as error:
            where = path or error.filename or self.root
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                free = f"{self.free_bytes():,} bytes are free in {self.root}"
                raise CacheError(
                    f"no space to {doing} {where}: {free}; run `zoo cache prune` or set ZOO_CACHE to another disk"
                ) from error
            raise CacheError(f"can't {doing} {where}: {error.strerror or error}; is {self.root} usable?") from error

    def free_bytes(self) -> int:
        """Bytes that may still be written."""
        return shutil.disk_usage(self.root).free

    def quarantine(self, path: Path, digest: str) -> Path:
        """Moves wrong bytes aside, where nothing uses them; the newest of each digest are kept for a look."""
        target = self.root / "quarantine" / digest.removeprefix("sha256:")
        with self.guarded("set aside", path):
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        return target

    def partial_folder(self) -> Path:
        """Where downloads and copies under way lie."""
        folder = self.root / "partial"
        with self.guarded("make", folder):
            folder.mkdir(exist_ok=True)
        return folder

    def read_manifest(self, digest: str) -> Manifest | None:
        """The manifest of that digest, or None if it is absent or damaged."""
        try:
            manifest = Manifest.parse(self._manifest_path(digest).read_bytes())
        except (OSError, ManifestError):
            return None
        return manifest if manifest.digest() == digest else None

    def write_manifest(self, manifest: Manifest) -> None:
        """Keeps a manifest, by which the files of its version are found again."""
        path = self._manifest_path(manifest.digest())
        if self.read_manifest(manifest.digest()) is None:
            self._write(path, manifest.to_json())

    def manifests(self, naming: Collection[str] | None = None) -> Iterator[Manifest]:
        """The manifests that are kept: all, or those that name one of the digests."""
        texts = None if naming is None else [digest.encode() for digest in naming]
        for path in sorted((self.root / "manifests").glob("*.json")):
            data = _bytes_of(path) if texts else b""
            if texts is not None and not any(text in data for text in texts):
                continue
            manifest = self.read_manifest(f"sha256:{path.stem}")
            if manifest is not None:
                yield manifest

    def read_ref(self, endpoint: str, stub: Stub) -> Ref | None:
        """What the registry answered last for this name and pin, or None; any registry will do for a digest."""
        path = self._ref_path(endpoint, stub.full_name, stub.pin or "latest")
        if stub.is_digest and not path.exists():
            path = next((self.root / "refs").glob(f"*/{path.parent.name}/{path.name}"), path)
        return Ref.read(path)

    def write_refs(self, endpoint: str, view: VersionView, asked: Stub) -> None:
        """Notes an answer under the version's name and alias, its number and its tags, and what was asked."""
        fields = view.model_dump(include={"name", "alias", "version", "digest", "tags", "created_at"})
        data = json.dumps(fields).encode()
        names = {asked.full_name, *(Stub.parse(text).full_name for text in (view.name, view.alias) if text)}
        pins = {f"v{view.version}", view.digest, asked.pin or "latest", *view.tags}
        for path in (self._ref_path(endpoint, name, pin) for name in names for pin in pins):
            if _bytes_of(path) != data:
                self._write(path, data)

    def refs(self) -> Iterator[tuple[Path, Ref]]:
        """All refs, of every registry."""
        for path in sorted((self.root / "refs").glob("*/*/*.json")):
            ref = Ref.read(path)
            if ref is not None:
                yield path, ref

    def model_folder(self, manifest: Manifest) -> Path:
        """The folder of a version's files."""
        hexa = manifest.digest().removeprefix("sha256:")
        return self.root / "models" / safe_name(manifest.full_name) / hexa

    def not_in_place(self, manifest: Manifest, entries: Iterable[FileEntry]) -> list[FileEntry]:
        """Those files that aren't in the model folder, or not with the size and time that the index notes."""
        folder = self.model_folder(manifest)
        index = read_index(folder)
        return [entry for entry in entries if not _is_intact(folder / entry.path, entry, index.get(entry.path))]

    def not_there(self, manifest: Manifest, entries: Iterable[FileEntry]) -> list[FileEntry]:
        """Those files that aren't in the model folder with their size, whatever the index notes."""
        folder = self.model_folder(manifest)
        return [entry for entry in entries if size_of(folder / entry.path) != entry.size_bytes]

    def is_in_place(self, manifest: Manifest, entry: FileEntry) -> bool:
        """Whether the file is in the model folder as the index notes it; otherwise, whether its bytes are right.

        Right bytes are noted then, so that a copied cache or a lost index costs one look and no download.
        """
        if not self.not_in_place(manifest, [entry]):
            return True
        path = self.model_folder(manifest) / entry.path
        with self.guarded("read", path):
            if size_of(path) != entry.size_bytes or hash_file(path) != entry.sha256:
                return False
        self._note(manifest, entry)
        return True

    def copies(self, entries: Iterable[FileEntry]) -> dict[str, Path]:
        """By digest, a file in some version's folder that should have these bytes; its size is right."""
        wanted = {entry.sha256 for entry in entries}
        found: dict[str, Path] = {}
        for manifest in self.manifests(naming=wanted):
            folder = self.model_folder(manifest)
            for entry in manifest.files:
                if entry.sha256 in wanted and size_of(folder / entry.path) == entry.size_bytes:
                    found[entry.sha256] = folder / entry.path
        return found

    def place(self, path: Path, manifest: Manifest, entry: FileEntry) -> None:
        """Moves a verified file of this disk into the model folder, then notes it in the index."""
        target = self.model_folder(manifest) / entry.path
        with self.guarded("write", target):
            make_folders(target.parent, self.root)
            if target.is_dir() and not target.is_symlink():
                raise IsADirectoryError(errno.EISDIR, "a folder is in the place of a file; remove it", str(target))
            path.chmod(0o444)
            path.replace(target)
            sync_folder(target.parent)
        self._note(manifest, entry)

    def touch(self, manifest: Manifest) -> None:
        """Notes that a version has been used now; a read-only cache doesn't mind."""
        with suppress(OSError):
            os.utime(index_path(self.model_folder(manifest)))

    def used_at(self, manifest: Manifest) -> float:
        """When a version was used last, in seconds since 1970; a time in the future, after a clock jump, is now."""
        now = time.time()
        try:
            return min(index_path(self.model_folder(manifest)).stat().st_mtime, now)
        except OSError:
            return now

    def size_bytes(self, manifest: Manifest) -> int:
        """Bytes that become free when a version is removed."""
        return _bytes_in(self.model_folder(manifest))

    def remove_version(self, manifest: Manifest, unless_used_after: float = math.inf) -> bool:
        """Removes a version with its files, unless it was used after that time; returns whether it did.

        The files go out of their place first. Who uses the version touches it before looking for its files, so either
        the touch is seen here and they come back, or they are seen to be absent there and are fetched again.
        """
        folder, digest = self.model_folder(manifest), manifest.digest()
        aside = folder.with_name(f"{folder.name}.{secrets.token_hex(8)}.removed")
        with self.guarded("remove", folder):
            with suppress(FileNotFoundError):
                os.utime(folder)  # a sweep goes by it
                folder.replace(aside)
            if is_kept := self.used_at(manifest) > unless_used_after:
                with suppress(OSError):  # fetched anew meanwhile
                    aside.replace(folder)
            else:
                self._forget(digest, folder)
            with suppress(FileNotFoundError):
                shutil.rmtree(aside)
        return not is_kept

    def sweep(self, age_s: float, *, dry_run: bool = False) -> int:
        """Removes leftovers that are older than that; returns the bytes freed.

        Those are partial and wrong files, versions whose removal was cut off, and the store of blobs that a cache had
        before each file was kept once.
        """
        freed_bytes = 0
        for path in [path for pattern in _LEFTOVERS for path in self.root.glob(pattern)]:
            with self.guarded("remove", path), suppress(FileNotFoundError):
                status = path.lstat()
                if time.time() - status.st_mtime <= age_s:
                    continue
                is_folder = stat.S_ISDIR(status.st_mode)
                freed_bytes += _bytes_in(path) if is_folder else status.st_size
                if not dry_run:
                    shutil.rmtree(path) if is_folder else path.unlink()
        for name in () if dry_run else ("blobs/sha256", "blobs"):
            with suppress(OSError):  # absent, or not empty
                (self.root / name).rmdir()
        return freed_bytes

    def _forget(self, digest: str, folder: Path) -> None:
        """Removes what says that a version is here; the manifest, by which it is found, last."""
        for path in [path for path, ref in self.refs() if ref.digest == digest]:
            path.unlink(missing_ok=True)
        index_path(folder).unlink(missing_ok=True)
        self._manifest_path(digest).unlink(missing_ok=True)

    def _note(self, manifest: Manifest, entry: FileEntry) -> None:
        folder = self.model_folder(manifest)
        with self.guarded("read", folder / entry.path):
            time_ns = (folder / entry.path).stat().st_mtime_ns
        note = json.dumps({entry.path: [entry.size_bytes, time_ns]})
        with self.guarded("write", index_path(folder)), index_path(folder).open("ab", buffering=0) as index:
            index.write(f"\n{note}".encode())  # in one call; a line that was cut off before ends here

    def _manifest_path(self, digest: str) -> Path:
        return self.root / "manifests" / f"{digest.removeprefix('sha256:')}.json"

    def _ref_path(self, endpoint: str, full_name: str, pin: str) -> Path:
        registry = hashlib.sha256(endpoint.encode()).hexdigest()[:16]
        return self.root / "refs" / registry / safe_name(full_name) / f"{pin.replace(':', '+')}.json"

    def _write(self, path: Path, data: bytes) -> None:
        with self.guarded("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, data)

    def _check_format(self) -> None:
        path = self.root / "format"
        if not path.exists():
            write_whole(self.root / "CACHEDIR.TAG", _TAG.encode())
            write_whole(path, f"{FORMAT}\n".encode())
        found = path.read_text("ascii", "replace").strip()
        if found != FORMAT:
            raise CacheError(
                f"{self.root} has the cache format {found[:20]!r}, this release reads {FORMAT!r}; "
                "set ZOO_CACHE to another folder, or remove this one"
            )


def safe_name(full_name: str) -> str:
    """A model's name as one folder name: "+" is in no stub, so that two names never share a folder."""
    flat = full_name.replace("/", "+")
    if len(flat) <= 200:
        return flat
    return f"{flat[:160]}+{hashlib.sha256(full_name.encode()).hexdigest()[:32]}"


def index_path(folder: Path) -> Path:
    """The index beside a model folder."""
    return folder.with_name(f"{folder.name}.json")


def read_index(folder: Path) -> dict[str, Any]:
    """Size and time, by path, of each file that was put into a model folder; the last line about a file counts."""
    index: dict[str, Any] = {}
    for line in _bytes_of(index_path(folder)).splitlines():
        index |= _object(line)
    return index


def _bytes_in(folder: Path) -> int:
    return sum(size_of(path) or 0 for path in folder.rglob("*"))


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _check_rights(root: Path) -> None:
    if os.name != "posix":
        return
    status = root.stat()
    if status.st_mode & stat.S_IWOTH:
        mode = stat.S_IMODE(status.st_mode)
        raise CacheError(
            f"everybody may write to the cache {root} (mode {mode:o}), so its files can't be trusted; "
            f"run: chmod o-w {root}, or set ZOO_CACHE to another folder"
        )
    if status.st_uid not in (os.getuid(), 0):
        text = f"the cache {root} belongs to another user (uid {status.st_uid}), who can change its files"
        warnings.warn(text, ZooWarning, stacklevel=5)


def _is_intact(path: Path, entry: FileEntry, noted: object) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    found = [status.st_size, status.st_mtime_ns]
    return stat.S_ISREG(status.st_mode) and status.st_size == entry.size_bytes and noted == found


def _object(data: bytes) -> dict[str, Any]:
    """The JSON object that the bytes are, or an empty one."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
