"""Blobs in a folder of one file system."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.errors import DamagedBlobError, UnavailableError, UnknownBlobError
from registry.storage import StoredBlob
from registry.storage.incoming import (
    ALGORITHM,
    BLOCK_BYTES,
    REGISTRY_ID,
    Incoming,
    IncomingFile,
    told,
    unavailable,
)

log = logging.getLogger(__name__)


class FolderBlobStore(Incoming):
    """A store in a folder; incoming files become blobs by one rename."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "incoming")
        self._blobs, self._staged, self._registry_id = folder / "blobs", folder / "staged", folder / REGISTRY_ID
        try:
            self._blobs.mkdir(exist_ok=True)
            self._staged.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise UnavailableError(f"the storage folder {folder} can't be made: {error.strerror}") from error

    def keep(self, file: IncomingFile, digest: str) -> None:
        """Renames the file into its place, and syncs the folders on the way."""
        target = self._place(digest)
        _move(file, target, (target.parent, target.parent.parent, self._blobs))

    def size(self, digest: str) -> int | None:
        """The blob's size in bytes, or None if it isn't here."""
        with told("read"):
            try:
                return self._place(digest).stat().st_size
            except FileNotFoundError:
                return None

    def read(self, digest: str, start: int, stop: int) -> Iterator[bytes]:
        """Yields the bytes [start, stop) in blocks; opens the file before the first block is asked for."""
        return _blocks(self._place(digest), start, stop, f"the blob {digest}")

    def delete(self, digest: str) -> None:
        """Removes a blob; one that isn't here is no error."""
        with told("write"):
            self._place(digest).unlink(missing_ok=True)

    def blobs(self) -> Iterator[StoredBlob]:
        """Every blob in the store, in no order."""
        with told("read"):
            for path in self._blobs.glob("??/??/" + "?" * 64):
                try:
                    facts = path.stat()
                except FileNotFoundError:
                    continue
                yield StoredBlob(ALGORITHM + path.name, facts.st_size, facts.st_mtime)

    def stage(self, file: IncomingFile, key: str) -> None:
        """Renames the file into the staging folder."""
        _move(file, self._staged / key, (self._staged,))

    def read_staged(self, key: str) -> Iterator[bytes]:
        """Yields a chunk's bytes."""
        return _blocks(self._staged / key, 0, 1 << 62, f"the chunk {key}")

    def unstage(self, key: str) -> None:
        """Removes a chunk; one that isn't here is no error."""
        with told("write"):
            (self._staged / key).unlink(missing_ok=True)

    def staged(self) -> Iterator[tuple[str, float]]:
        """Every chunk's key and time."""
        with told("read"):
            for path in self._staged.iterdir():
                try:
                    yield path.name, path.stat().st_mtime
                except FileNotFoundError:
                    continue

    def registry_id(self) -> str | None:
        """The id in the file that says whose the folder is."""
        with told("read"):
            try:
                return self._registry_id.read_text("ascii", "replace").strip()
            except FileNotFoundError:
                return None

    def set_registry_id(self, registry_id: str) -> None:
        """Writes that file by one rename."""
        with self.written(f"{registry_id}\n".encode()) as file:
            _move(file, self._registry_id, (self._registry_id.parent,))

    def _place(self, digest: str) -> Path:
        name = digest.removeprefix(ALGORITHM)
        return self._blobs / name[:2] / name[2:4] / name


def _move(file: IncomingFile, target: Path, folders: tuple[Path, ...]) -> None:
    file.finish()
    with told("write"):
        target.parent.mkdir(parents=True, exist_ok=True)
        file.path.replace(target)
        for folder in folders:
            _sync_folder(folder)


def _blocks(path: Path, start: int, stop: int, name: str) -> Iterator[bytes]:
    with _readable(name):
        file = path.open("rb")

    def blocks() -> Iterator[bytes]:
        left = stop - start
        with file, _readable(name):
            file.seek(start)
            while left > 0 and (block := file.read(min(left, BLOCK_BYTES))):
                left -= len(block)
                yield block

    return blocks()


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Tells a file that isn't here or that the disk has lost from a disk that can't be used now."""
    try:
        yield
    except FileNotFoundError:
        raise UnknownBlobError(f"{name} isn't here") from None
    except OSError as error:
        raise (_lost(name, error) if error.errno == errno.EIO else unavailable("read", error)) from error


def _lost(name: str, error: OSError) -> DamagedBlobError:
    log.error("%s can't be read: %s", name, error)
    return DamagedBlobError(f"{name} can't be read from the registry's disk; send it again to heal it")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
