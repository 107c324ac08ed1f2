"""Takes the weights out of an ONNX file before it is parsed, so that each of them is in memory only once.

A parser of protocol buffers copies the whole file, and its `bytes` fields again when they are read. Here only the
three levels above `TensorProto.raw_data` are walked (model, graph, initializer; the field numbers are those of
onnx.proto3), and what is left after that is small. The file may come from anybody: whatever looks unusual is left
to the real parser, as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SMALL_BYTES = 4096
"""A smaller weight stays where it is."""
_MAX_FIELDS = 1_000_000


@dataclass(frozen=True)
class Blob:
    """Where the bytes of a weight lie in the file."""

    offset: int
    size: int


@dataclass
class Skeleton:
    """A model without its large weights, as bytes for the parser.

    `blobs` has one place for each initializer, in the file's order: its `raw_data`, or None where it is still inside.
    """

    model: bytes
    blobs: list[Blob | None] = field(default_factory=list)


class _UnusualError(Exception):
    """The file has something that this walk doesn't know."""


@dataclass(frozen=True)
class _Field:
    """One field of a message: `start` is where its tag is, `value` where its content is, `end` where it ends."""

    number: int
    is_bytes: bool
    start: int
    value: int
    end: int


def take_weights_out(file: BinaryIO, size_bytes: int) -> Skeleton:
    """The skeleton of the model in `file`, which is seekable and `size_bytes` long."""
    walk = _Walk(file)
    try:
        return Skeleton(walk.model(size_bytes), walk.blobs)
    except _UnusualError:
        file.seek(0)
        return Skeleton(file.read(size_bytes))


class _Walk:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._fields_left = _MAX_FIELDS
        self.blobs: list[Blob | None] = []

    def model(self, end: int) -> bytes:
        return b"".join(
            _wrap(_GRAPH, self._graph(f)) if f.is_bytes and f.number == _GRAPH else self._copy(f)
            for f in self._fields(0, end)
        )

    def _graph(self, graph: _Field) -> bytes:
        return b"".join(
            _wrap(_INITIALIZER, self._tensor(f)) if f.is_bytes and f.number == _INITIALIZER else self._copy(f)
            for f in self._fields(graph.value, graph.end)
        )

    def _tensor(self, tensor: _Field) -> bytes:
        """The tensor without its raw data where that is large; of several, the last one counts."""
        blob, kept = None, []
        for f in self._fields(tensor.value, tensor.end):
            is_raw = f.is_bytes and f.number == _RAW_DATA
            if is_raw and f.end - f.value >= _SMALL_BYTES:
                blob = Blob(f.value, f.end - f.value)
                continue
            if is_raw:
                blob = None
            kept.append(self._copy(f))
        self.blobs.append(blob)
        return b"".join(kept)

    def _fields(self, at: int, end: int) -> Iterator[_Field]:
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise _UnusualError
            tag, value = self._varint(at)
            after, kind = value, tag & 7
            if kind == _BYTES:
                length, value = self._varint(value)
                after = value + length
            elif kind == _VARINT:
                _, after = self._varint(value)
            elif kind in (_FIXED32, _FIXED64):
                after = value + (4 if kind == _FIXED32 else 8)
            else:
                raise _UnusualError
            if after > end:
                raise _UnusualError
            yield _Field(tag >> 3, kind == _BYTES, at, value, after)
            at = after

    def _varint(self, at: int) -> tuple[int, int]:
        """The number at `at`, and where it ends."""
        self._file.seek(at)
        number = 0
        for place, byte in enumerate(self._file.read(10)):
            number |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return number, at + place + 1
        raise _UnusualError

    def _copy(self, part: _Field) -> bytes:
        self._file.seek(part.start)
        return self._file.read(part.end - part.start)


def _wrap(number: int, content: bytes) -> bytes:
    """A field of bytes."""
    length, head = len(content), bytearray([number << 3 | _BYTES])
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + content
