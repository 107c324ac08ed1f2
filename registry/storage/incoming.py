"""Files on their way in: on this machine's disk, hashed while they are written."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from registry.errors import InvalidDigestError, UnavailableError

BLOCK_BYTES = 1 << 20
ALGORITHM = "sha256:"
REGISTRY_ID = "registry-id"  # the name of the file or object that says whose a store is

log = logging.getLogger(__name__)


class IncomingFile:
    """A file of its own, and the sha256 of what was written to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        with told("write"):
            self._file = path.open("xb")

    def write(self, block: bytes) -> None:
        """Adds bytes."""
        with told("write"):
            self._file.write(block)
        self._hash.update(block)
        self.size_bytes += len(block)

    def finish(self) -> None:
        """Brings the bytes to the disk; may be called again."""
        if self._file.closed:
            return
        with told("write"):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def verify(self, digest: str) -> None:
        """Brings the bytes to the disk if they have the digest; raises `InvalidDigestError` otherwise."""
        actual = ALGORITHM + self._hash.hexdigest()
        if actual != digest:
            raise InvalidDigestError(
                f"the {self.size_bytes} bytes sent have the digest {actual}, not {digest}; send them again",
                actual=actual,
            )
        self.finish()

    def discard(self) -> None:
        """Removes the file, unless a store took it."""
        with suppress(OSError):  # closing flushes again what a full disk has refused
            self._file.close()
        with told("clean up"):
            self.path.unlink(missing_ok=True)


class Incoming:
    """The folder of incoming files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UnavailableError(f"the storage folder {folder} can't be made: {error.strerror}") from error

    def receive(self) -> IncomingFile:
        """A new file."""
        return IncomingFile(self._folder / uuid.uuid4().hex)

    @contextmanager
    def written(self, data: bytes) -> Iterator[IncomingFile]:
        """A new file with these bytes, which the block may take."""
        file = self.receive()
        try:
            file.write(data)
            yield file
        finally:
            file.discard()

    def sweep_incoming(self, older_than_s: float) -> int:
        """Removes files that nobody wrote to for so many seconds; returns their number."""
        limit, swept = time.time() - older_than_s, 0
        with told("clean up"):
            for path in self._folder.iterdir():
                try:
                    if path.stat().st_mtime < limit:
                        path.unlink()
                        swept += 1
                except FileNotFoundError:
                    continue
        return swept


@contextmanager
def told(verb: str) -> Iterator[None]:
    """Turns a disk's refusal into `UnavailableError`."""
    try:
        yield
    except OSError as error:
        raise unavailable(verb, error) from error


def unavailable(verb: str, error: OSError) -> UnavailableError:
    """What a caller is told of a disk's refusal; the log tells the file too."""
    log.error("the registry can't %s its storage: %s", verb, error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UnavailableError("the registry's disk is full; nothing was stored")
    return UnavailableError(f"the registry can't {verb} its storage: {error.strerror}")
