"""The blob store: bytes under their sha256, never under a client's name.

FOLDER/blobs/ab/cd/abcd...   one file a blob, complete and verified
FOLDER/incoming/             uploads that are still going on, one unique file each
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from registry.errors import InvalidDigestError, UnavailableError, UnknownBlobError

BLOCK_BYTES = 1 << 20
_ALGORITHM = "sha256:"


class StoredBlob(NamedTuple):
    """What lies in a store: its size, and when it was stored (seconds since the epoch)."""

    digest: str
    size_bytes: int
    stored_at: float


class Upload(Protocol):
    """Bytes on their way in."""

    size_bytes: int

    def write(self, block: bytes) -> None:
        """Adds bytes."""

    def verify(self, digest: str) -> None:
        """Checks the bytes against their digest; raises `InvalidDigestError`."""

    def keep(self) -> None:
        """Makes verified bytes visible, whole or not at all; may be called again."""

    def discard(self) -> None:
        """Forgets the bytes, unless they are kept."""


class BlobStore(Protocol):
    """Where blobs lie. Every digest given is well-formed; what fails for lack of disk raises `UnavailableError`."""

    def begin(self) -> Upload:
        """Opens an upload."""

    def size(self, digest: str) -> int | None:
        """A blob's size in bytes, or None if it isn't here."""

    def read(self, digest: str, start: int, stop: int) -> Iterator[bytes]:
        """Yields the bytes [start, stop); raises `UnknownBlobError` before the first."""

    def delete(self, digest: str) -> None:
        """Removes a blob; one that isn't here is no error."""

    def blobs(self) -> Iterator[StoredBlob]:
        """Every blob, in no order."""

    def sweep_uploads(self, older_than_s: float) -> int:
        """Removes uploads that nobody wrote to for so many seconds; returns their number."""


class FolderBlobStore:
    """A store in a folder of one file system."""

    def __init__(self, folder: Path) -> None:
        self._blobs, self._incoming = folder / "blobs", folder / "incoming"
        try:
            self._blobs.mkdir(parents=True, exist_ok=True)
            self._incoming.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise UnavailableError(f"the storage folder {folder} can't be made: {error.strerror}") from error

    def begin(self) -> FolderUpload:
        """Opens an upload."""
        return FolderUpload(self._incoming / uuid.uuid4().hex, self._blobs)

    def size(self, digest: str) -> int | None:
        """The blob's size in bytes, or None if it isn't here."""
        try:
            return _place(self._blobs, digest).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unavailable("read", error) from error

    def read(self, digest: str, start: int, stop: int) -> Iterator[bytes]:
        """Yields the bytes [start, stop) in blocks; opens the file before the first block is asked for."""
        try:
            file = _place(self._blobs, digest).open("rb")
        except FileNotFoundError:
            raise UnknownBlobError(f"the blob {digest} isn't here") from None
        except OSError as error:
            raise _unavailable("read", error) from error

        def blocks() -> Iterator[bytes]:
            with file:
                file.seek(start)
                left = stop - start
                while left > 0 and (block := file.read(min(left, BLOCK_BYTES))):
                    left -= len(block)
                    yield block

        return blocks()

    def delete(self, digest: str) -> None:
        """Removes a blob; one that isn't here is no error."""
        _place(self._blobs, digest).unlink(missing_ok=True)

    def blobs(self) -> Iterator[StoredBlob]:
        """Every blob in the store, in no order."""
        for path in self._blobs.glob("??/??/*"):
            try:
                facts = path.stat()
            except FileNotFoundError:
                continue
            yield StoredBlob(_ALGORITHM + path.name, facts.st_size, facts.st_mtime)

    def sweep_uploads(self, older_than_s: float) -> int:
        """Removes uploads that nobody wrote to for so many seconds; returns their number."""
        limit, swept = time.time() - older_than_s, 0
        for path in self._incoming.iterdir():
            try:
                if path.stat().st_mtime < limit:
                    path.unlink()
                    swept += 1
            except FileNotFoundError:
                continue
        return swept


class FolderUpload:
    """A file in the incoming folder, hashed while it is written."""

    def __init__(self, path: Path, blobs: Path) -> None:
        self._path, self._blobs = path, blobs
        self._hash = hashlib.sha256()
        self._target: Path | None = None
        self._kept = False
        self.size_bytes = 0
        try:
            self._file = path.open("xb")
        except OSError as error:
            raise _unavailable("write", error) from error

    def write(self, block: bytes) -> None:
        """Adds bytes."""
        try:
            self._file.write(block)
        except OSError as error:
            raise _unavailable("write", error) from error
        self._hash.update(block)
        self.size_bytes += len(block)

    def verify(self, digest: str) -> None:
        """Checks the bytes against their digest, and brings them to the disk."""
        actual = _ALGORITHM + self._hash.hexdigest()
        if actual != digest:
            raise InvalidDigestError(
                f"the {self.size_bytes} bytes sent have the digest {actual}, not {digest}; send them again",
                actual=actual,
            )
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise _unavailable("write", error) from error
        self._target = _place(self._blobs, digest)

    def keep(self) -> None:
        """Makes verified bytes visible, whole or not at all. May be called again."""
        if self._target is None:
            raise RuntimeError("an upload is verified before it is kept")
        if self._kept:
            return
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._path.replace(self._target)
            for folder in (self._target.parent, self._target.parent.parent, self._blobs):
                _sync_folder(folder)
        except OSError as error:
            raise _unavailable("write", error) from error
        self._kept = True

    def discard(self) -> None:
        """Removes the upload's file, unless it is kept."""
        self._file.close()
        if not self._kept:
            self._path.unlink(missing_ok=True)


def _place(blobs: Path, digest: str) -> Path:
    name = digest.removeprefix(_ALGORITHM)
    return blobs / name[:2] / name[2:4] / name


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unavailable(verb: str, error: OSError) -> UnavailableError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UnavailableError("the registry's disk is full; nothing was stored")
    return UnavailableError(f"the registry can't {verb} its storage: {error.strerror}")
