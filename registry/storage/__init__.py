"""The blob store: bytes under their sha256, never under a client's name.

    blobs/ab/cd/abcd...     a blob, complete and verified; the same names in a folder and in a bucket
    staged/KEY              a chunk of an upload that is still going on
    registry-id             the id of the registry that the store belongs to
    incoming/               files that are being received; always on this machine's disk

A blob's name is its digest, so two writers of one name write the same bytes: no store needs conditional writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from registry.storage.incoming import BLOCK_BYTES, IncomingFile

if TYPE_CHECKING:
    from registry.settings import Settings

__all__ = ["BLOCK_BYTES", "BlobStore", "IncomingFile", "StoredBlob", "open_store"]


class StoredBlob(NamedTuple):
    """What lies in a store: its size, and when it was stored (seconds since the epoch)."""

    digest: str
    size_bytes: int
    stored_at: float


class BlobStore(Protocol):
    """Where blobs lie.

    Every digest given is well-formed, and every key 32 hex digits. What fails for lack of disk or network raises
    `UnavailableError`.
    """

    def receive(self) -> IncomingFile:
        """A new file to write to; `keep` or `stage` takes it when its bytes are right."""

    def keep(self, file: IncomingFile, digest: str) -> None:
        """Makes a verified file's bytes the blob, whole or not at all. A blob that is here is written again."""

    def size(self, digest: str) -> int | None:
        """A blob's size in bytes, or None if it isn't here."""

    def read(self, digest: str, start: int, stop: int) -> Iterator[bytes]:
        """Yields the bytes [start, stop) of a blob that has them; raises `UnknownBlobError` before the first.

        Raises `DamagedBlobError`, at any of them, if the disk has lost them.
        """

    def delete(self, digest: str) -> None:
        """Removes a blob; one that isn't here is no error."""

    def blobs(self) -> Iterator[StoredBlob]:
        """Every blob, in no order."""

    def stage(self, file: IncomingFile, key: str) -> None:
        """Keeps a file's bytes as a chunk, whole or not at all."""

    def read_staged(self, key: str) -> Iterator[bytes]:
        """Yields a chunk's bytes; raises `UnknownBlobError` before the first, `DamagedBlobError` like `read`."""

    def unstage(self, key: str) -> None:
        """Removes a chunk; one that isn't here is no error."""

    def staged(self) -> Iterator[tuple[str, float]]:
        """Every chunk's key, and when it was stored (seconds since the epoch)."""

    def registry_id(self) -> str | None:
        """The id of the registry that the store belongs to, or None if it was never given to one."""

    def set_registry_id(self, registry_id: str) -> None:
        """Gives the store to a registry, whole or not at all."""

    def sweep_incoming(self, older_than_s: float) -> int:
        """Removes files that nobody wrote to for so many seconds; returns their number."""


def open_store(settings: Settings) -> BlobStore:
    """The store that the settings name; raises `StartError` if it can't be used, `UnavailableError` for its disk."""
    incoming: Path = settings.storage / "incoming"
    if not settings.blob_store:
        from registry.storage.folder import FolderBlobStore

        return FolderBlobStore(settings.storage)
    from registry.storage.objects import ObjectBlobStore, connect

    return ObjectBlobStore(connect(settings.blob_store), incoming)
