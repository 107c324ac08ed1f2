"""Weights that an ONNX file keeps in other files, read only from beneath the model's folder.

Each file is opened once, component by component without following links, and checked on the open handle, so
that a file exchanged afterwards is not the one that is read.
"""

from __future__ import annotations

import hashlib
import os
import stat
from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from engine.errors import ModelError

_KEYS = {"location", "offset", "length", "checksum"}


@dataclass
class _OpenFile:
    handle: int
    status: os.stat_result
    ranges: list[tuple[int, int]] = field(default_factory=list)


class ExternalFiles:
    """The external files of one model, open for as long as the model is read. A context manager."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._open: dict[str, _OpenFile] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._open.values():
            os.close(file.handle)

    @property
    def opened(self) -> dict[str, os.stat_result]:
        """The files that were read, by path beneath the folder, as they were when they were opened."""
        return {location: file.status for location, file in self._open.items()}

    def read(self, tensor: str, entries: list[tuple[str, str]], size_bytes: int) -> memoryview:
        """The bytes that `entries`, a tensor's external_data, point at; they must be `size_bytes` long.

        Raises ModelError for a location outside the folder, a link, a missing file, a range that doesn't fit,
        and a checksum (SHA-1 of the file, by the ONNX standard) that isn't the file's.
        """
        keys = dict(entries)
        if len(keys) < len(entries) or not set(keys) <= _KEYS or "location" not in keys:
            raise ModelError(f"the tensor {tensor!r}: external data needs a location, and each key once")
        offset = _number(tensor, "offset", keys.get("offset", "0"))
        length = _number(tensor, "length", keys.get("length", str(size_bytes)))
        if length != size_bytes:
            raise ModelError(f"the tensor {tensor!r} needs {size_bytes} bytes of external data, not {length}")
        location = keys["location"]
        if location not in self._open:
            self._open[location] = self._open_beneath(tensor, location)
            if "checksum" in keys:
                _check_sha1(tensor, self._open[location], keys["checksum"])
        file = self._open[location]
        if offset + length > file.status.st_size:
            raise ModelError(
                f"the tensor {tensor!r} ends at byte {offset + length} of {location!r}, which has {file.status.st_size}"
            )
        _claim(tensor, file, (offset, offset + length))
        return _read_range(tensor, file, offset, length)

    def _open_beneath(self, tensor: str, location: str) -> _OpenFile:
        parts = PurePosixPath(location).parts
        if self._folder is None:
            raise ModelError(f"the tensor {tensor!r} is external data, but the model was read from memory")
        if not parts or location.startswith("/") or ".." in parts or "\\" in location or "\0" in location:
            raise ModelError(f"the tensor {tensor!r}: {location!r} is no path beneath the model's folder")
        try:
            handle = _open_parts(self._folder, parts)
        except OSError as error:
            raise ModelError(
                f"the tensor {tensor!r}: {location!r} can't be read: {error.strerror} (links are refused)"
            ) from error
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            os.close(handle)
            raise ModelError(f"the tensor {tensor!r}: {location!r} is no regular file of its own")
        return _OpenFile(handle, status)


def _open_parts(folder: Path, parts: tuple[str, ...]) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        try:
            deeper = os.open(part, flags if last else flags | os.O_DIRECTORY, dir_fd=handle)
        finally:
            os.close(handle)
        handle = deeper
    return handle


def _number(tensor: str, key: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise ModelError(f"the tensor {tensor!r}: external data has the {key} {text!r}")
    return int(text)


def _claim(tensor: str, file: _OpenFile, wanted: tuple[int, int]) -> None:
    """Notes the range; two tensors may share the same bytes, but not a part of them."""
    place = bisect_left(file.ranges, wanted)
    neighbours = [r for r in file.ranges[max(place - 1, 0) : place + 1] if r != wanted]
    if any(wanted[0] < end and start < wanted[1] for start, end in neighbours):
        raise ModelError(f"the tensor {tensor!r}: bytes {wanted[0]} to {wanted[1]} overlap those of another tensor")
    if file.ranges[place : place + 1] != [wanted]:
        file.ranges.insert(place, wanted)


def _check_sha1(tensor: str, file: _OpenFile, expected: str) -> None:
    digest = hashlib.sha1(usedforsecurity=False)
    for offset in range(0, file.status.st_size, 1 << 20):
        digest.update(os.pread(file.handle, 1 << 20, offset))
    if digest.hexdigest() != expected.lower():
        raise ModelError(f"the tensor {tensor!r}: the SHA-1 of its file is not {expected!r}")


def _read_range(tensor: str, file: _OpenFile, offset: int, length: int) -> memoryview:
    data = memoryview(bytearray(length))
    done = 0
    while done < length:
        count = os.preadv(file.handle, [data[done : done + (1 << 30)]], offset + done)
        if not count:
            raise ModelError(f"the tensor {tensor!r}: its file became shorter while it was read")
        done += count
    return data
