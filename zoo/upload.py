"""Sending one file to a registry: at once if it is small, in chunks that outlive a cut if it is large."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zoo.blobs import Blobs
from zoo.errors import IntegrityError, NotFoundError, UnavailableError
from zoo.problems import OffsetMovedError

WHOLE_BYTES = 32 << 20  # up to here a cut costs less than the requests that chunks need
CHUNK_BYTES = 32 << 20
_ROUNDS = 3


def upload_blob(
    blobs: Blobs, path: Path, digest: str, size_bytes: int, report: Callable[[int], None] = lambda _: None
) -> None:
    """Sends a file whose digest is known; a large one goes on where an earlier try was cut off.

    Raises `IntegrityError` if the file isn't the one that was hashed any more.
    """
    if size_bytes <= WHOLE_BYTES:
        blobs.put(path, digest, size_bytes, report)
        return
    for _ in range(_ROUNDS):
        try:
            _send(blobs, path, digest, size_bytes, report)
        except NotFoundError:  # another sender finished the upload, or it expired
            if not blobs.missing([digest]):
                return
        except IntegrityError as error:
            raise IntegrityError(f"{path} changed while it was being published; publish again") from error
        else:
            return
    raise UnavailableError(f"the upload of {path} was forgotten by the registry {_ROUNDS} times; try again later")


def _send(blobs: Blobs, path: Path, digest: str, size_bytes: int, report: Callable[[int], None]) -> None:
    upload, offset = blobs.begin_upload(digest, size_bytes)
    while True:
        report(offset)
        try:
            if offset == size_bytes:
                blobs.finish_upload(upload, size_bytes)
                return
            offset = blobs.append_chunk(upload, path, offset, min(CHUNK_BYTES, size_bytes - offset))
        except OffsetMovedError as moved:  # a lost answer, or another sender of the same file
            offset = moved.offset_bytes
