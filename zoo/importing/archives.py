"""Tars of the originals' model folders, unpacked as if a stranger had made them.

Members are regular files whose bare name is written into one folder, as the originals do; anything else (links,
devices, sparse members, two of one name, names that lead out, bytes after the end) is refused with the member's name.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from zoo.errors import ManifestError
from zoo.manifest import check_path

MAX_MEMBERS = 10_000
MAX_RATIO = 200  # a sparse model's zeros shrink to a tenth, a bomb to a thousandth
FREE_BYTES = 64 << 20  # a ratio says nothing of small archives
MAX_UNPACKED_BYTES = 64 << 30
_MAX_READ = 1 << 20  # of a header; what belongs to a member is read in chunks


class ArchiveError(ManifestError):
    """An archive is malformed, or holds what no model folder holds."""


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Writes an archive's files into an existing, empty folder; returns them. Raises `ArchiveError`."""
    written: dict[str, Path] = {}
    with _opened(archive) as stream, _reported(archive), tarfile.open(fileobj=stream, mode="r:") as tar:
        while (member := tar.next()) is not None:
            if member.isdir():
                continue
            name = _checked(archive, member)
            if name.lower() in written:
                raise ArchiveError(f"{archive} has two members that would be {name!a}")
            if len(written) >= MAX_MEMBERS:
                raise ArchiveError(f"{archive} has more than {MAX_MEMBERS} members")
            source = tar.extractfile(member)
            if source is None:
                raise ArchiveError(f"the member {member.name[:200]!a} of {archive} has no bytes")
            written[name.lower()] = _write(source, folder / name)
        _check_end(archive, stream, tar.offset)
    if not written:
        raise ArchiveError(f"{archive} holds no file")
    return list(written.values())


def _checked(archive: Path, member: tarfile.TarInfo) -> str:
    shown = f"the member {member.name[:200]!a} of {archive}"
    if not member.isreg() or member.issparse():
        raise ArchiveError(f"{shown} is no plain file (links, devices and sparse members are refused)")
    try:
        path = check_path(member.name.removeprefix("./"))
    except ValueError as error:
        raise ArchiveError(f"{shown} can't be unpacked: {error}") from None
    return path.rpartition("/")[2]


def _write(source: IO[bytes], target: Path) -> Path:
    with target.open("xb") as stream:
        while chunk := source.read(_MAX_READ):
            stream.write(chunk)
    return target


class _Bounded(io.BufferedIOBase):
    """A stream that refuses to yield more than an honest archive of its size would, or to fill the memory at once."""

    def __init__(self, inner: IO[bytes] | gzip.GzipFile, archive: Path, limit_bytes: int) -> None:
        self._inner, self._archive, self._limit_bytes = inner, archive, limit_bytes

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_READ:
            raise ArchiveError(f"{self._archive} has a header of {size} bytes")
        data = self._inner.read(size)
        self._check()
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0 and offset > self._limit_bytes:
            raise self._too_large()
        return self._inner.seek(offset, whence)

    def tell(self) -> int:
        return self._inner.tell()

    def _check(self) -> None:
        if self._inner.tell() > self._limit_bytes:
            raise self._too_large()

    def _too_large(self) -> ArchiveError:
        return ArchiveError(f"{self._archive} unpacks to more than {self._limit_bytes} bytes, far more than it has")


@contextmanager
def _opened(archive: Path) -> Iterator[_Bounded]:
    try:
        with archive.open("rb") as raw:
            magic = raw.read(4)
            raw.seek(0)
            size_bytes = archive.stat().st_size
            if magic.startswith(b"\x1f\x8b"):
                limit = min(MAX_UNPACKED_BYTES, size_bytes * MAX_RATIO + FREE_BYTES)
                with gzip.GzipFile(fileobj=raw, mode="rb") as unzipped:
                    yield _Bounded(unzipped, archive, limit)
            elif magic.startswith(b"PK"):
                raise ArchiveError(f"{archive} is a zip; the originals' archives are tars")
            else:
                yield _Bounded(raw, archive, size_bytes)
    except OSError as error:
        raise ArchiveError(f"{archive} can't be read: {error}") from None


@contextmanager
def _reported(archive: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ArchiveError(f"{archive} is no whole tar: {error}") from None
    except (ValueError, OverflowError) as error:
        raise ArchiveError(f"{archive} has a malformed header: {error}") from None


def _check_end(archive: Path, stream: _Bounded, offset: int) -> None:
    """A tar ends in zeros; anything else there is a second archive, or half of this one."""
    stream.seek(offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise ArchiveError(f"{archive} is cut off: its end mark is missing")
    while block:
        if any(block):
            raise ArchiveError(f"{archive} has bytes after its end")
        block = stream.read(_MAX_READ)
