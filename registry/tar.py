"""Files of one tar: blobs verified on their way out and in, written whole or not at all, read as a stranger's.

The first entry tells what the tar is, so that a wrong file is refused at once; blobs follow, as blobs/HEX.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from registry.blobs import Blobs
from registry.errors import BundleError, InvalidDigestError
from registry.progress import Report, Sizes, silent

HEAD = "bundle.json"
_MAX_HEAD_BYTES = 1 << 20
_STEP_BYTES = 1 << 20  # between two reports
_BLOB = re.compile(r"blobs/([0-9a-f]{64})\Z")


@contextmanager
def writing(path: Path, head: dict[str, Any]) -> Iterator[tarfile.TarFile]:
    """A tar that takes its place when the block has ended well; raises `BundleError` if it can't be written."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("xb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            data = json.dumps(head).encode()
            add_file(tar, HEAD, io.BytesIO(data), len(data))
            yield tar
            tar.close()
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise BundleError(f"{path} can't be written: {error.strerror or error}") from error
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def reading(
    path: Path, wanted: Mapping[str, type], report: Report = silent
) -> Iterator[tuple[dict[str, Any], Iterator[tuple[str, IO[bytes]]]]]:
    """A tar's head, which must hold the `wanted` members, and its further entries with their names.

    Raises `BundleError` for a file that is none of those, whenever that shows.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=_Watched(file, report), mode="r:") as tar:  # type: ignore[call-overload]  # as much of a file as it uses
            yield _read_head(tar, wanted), _entries(tar)
    except InvalidDigestError as error:
        raise BundleError(f"{path} is damaged: {error}") from error
    except (OSError, tarfile.TarError, EOFError) as error:
        raise BundleError(f"{path} can't be read as a bundle: {error}") from error


def add_file(tar: tarfile.TarFile, name: str, data: IO[bytes], size_bytes: int) -> None:
    """Adds an entry of so many bytes."""
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    tar.addfile(info, data)


def add_blobs(tar: tarfile.TarFile, blobs: Blobs, wanted: Mapping[str, int], report: Report = silent) -> int:
    """Adds blobs of these digests and sizes; returns their bytes. Raises `DamagedBlobError`, or `UnknownBlobError`."""
    sizes = Sizes(report, "files", sum(wanted.values()))
    for digest in wanted:
        size_bytes = blobs.size(digest)
        reader = io.BufferedReader(_Reader(sizes.blocks(blobs.read_whole(digest, size_bytes))))
        add_file(tar, f"blobs/{digest.removeprefix('sha256:')}", reader, size_bytes)
    return sum(wanted.values())


def digest_of_entry(name: str) -> str | None:
    """The digest of the blob that an entry holds; None for another entry."""
    match = _BLOB.match(name)
    return f"sha256:{match[1]}" if match else None


def _read_head(tar: tarfile.TarFile, wanted: Mapping[str, type]) -> dict[str, Any]:
    member = tar.next()
    stream = tar.extractfile(member) if member and member.isreg() and member.size <= _MAX_HEAD_BYTES else None
    try:
        head = json.loads(stream.read()) if stream and member and member.name == HEAD else None
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict) or not all(isinstance(head.get(name), kind) for name, kind in wanted.items()):
        raise BundleError(f"the file is no bundle of that kind: its first entry isn't {HEAD} with {', '.join(wanted)}")
    return head


def _entries(tar: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    for member in islice(tar, 1, None):
        stream = tar.extractfile(member) if member.isreg() else None
        if stream is None:
            raise BundleError(f"the bundle holds {member.name[:100]!a}, which belongs in none")
        yield member.name, stream


class _Watched:
    """A file that tells how far it has been read."""

    def __init__(self, file: IO[bytes], report: Report) -> None:
        self._file, self._report, self._told = file, report, -_STEP_BYTES
        self._size_bytes = os.fstat(file.fileno()).st_size
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        """So many of the next bytes."""
        data = self._file.read(count)
        at = self._file.tell()
        if abs(at - self._told) >= _STEP_BYTES:
            self._told = at
            self._report("bundle", at, self._size_bytes, in_bytes=True)
        return data


class _Reader(io.RawIOBase):
    """Blocks as a file that can be read once."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._left = blocks, b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Takes what fits of a block; 0 at the end."""
        self._left = self._left or next(self._blocks, b"")
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size
