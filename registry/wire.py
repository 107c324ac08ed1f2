"""Protobuf's wire format over bytes that are read where they lie: keys, numbers and lengths, bounded.

https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

MAX_FIELDS = 1_000_000
_WINDOW_BYTES = 1 << 18
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}

Read = Callable[[int, int], bytes]


class WireError(ValueError):
    """The bytes make no sense, or exceed a bound."""


class Span(NamedTuple):
    """The bytes [start, stop) of a file."""

    start: int
    stop: int


class Field(NamedTuple):
    """A message's field: its number, and its value, or where that lies if it has a length. None for fixed numbers."""

    number: int
    value: int | Span | None


class Wire:
    """A file's messages. At most `MAX_FIELDS` fields of it are read; `read(start, stop)` gives any part of it."""

    def __init__(self, read: Read, size_bytes: int) -> None:
        self.whole = Span(0, size_bytes)
        self._read, self._start, self._window = read, 0, b""
        self._fields = 0

    def fields(self, span: Span) -> Iterator[Field]:
        """The fields of the message that lies there; raises `WireError`."""
        at, stop = span
        while at < stop:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise WireError(f"it has more than {MAX_FIELDS:,} parts")
            key, begin = self._varint(at, stop)
            value: int | Span | None = None
            kind = key & 7
            if kind == _VARINT:
                value, at = self._varint(begin, stop)
            elif kind == _LENGTH:
                length, begin = self._varint(begin, stop)
                value = Span(begin, begin + length)
                at = value.stop
            elif kind in _FIXED_BYTES:
                at = begin + _FIXED_BYTES[kind]
            if key < 8 or at > stop or kind not in (_VARINT, _LENGTH, *_FIXED_BYTES):
                raise WireError(f"it makes no sense at byte {begin}")
            yield Field(key >> 3, value)

    def bytes(self, span: Span) -> bytes:
        """The bytes of a span that is no longer than a window."""
        start, stop = span
        if not self._start <= start <= stop <= self._start + len(self._window):
            end = min(start + _WINDOW_BYTES, self.whole.stop)
            self._start, self._window = start, self._read(start, end)
            if len(self._window) != end - start:
                raise WireError(f"it ends before byte {end}")
        return self._window[start - self._start : stop - self._start]

    def _varint(self, at: int, stop: int) -> tuple[int, int]:
        """The number at a place, and where it ends."""
        value = 0
        for position, byte in enumerate(self.bytes(Span(at, min(at + 10, stop)))):
            value |= (byte & 0x7F) << (7 * position)
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at + position + 1
        raise WireError(f"it makes no sense at byte {at}")
