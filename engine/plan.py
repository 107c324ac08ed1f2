"""Plan files: what the C library runs. `write_plan` makes one of a `Program`; `dump` shows one as text.

The format is described in `csrc/plan.h`; `records` says what each step becomes. Equal programs give equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from engine import memory, pack
from engine.errors import PlanError
from engine.program import Buffer, Program
from engine.records import ABSENT, OPS, Record, writer

MAGIC: Final = b"SPWPLAN\0"
FORMAT_VERSION: Final = 7
BYTE_ORDER: Final = 0x01020304
ALIGNMENT: Final = 64
CHECKED_FROM: Final = 16
"""The checksum stands before this byte of the file and covers everything from it on."""
SOURCE_BYTES: Final = 32

HEADER: Final = struct.Struct(f"<8sQIIQ4I8Q{SOURCE_BYTES}s")
INPUT: Final = struct.Struct("<I")
BUFFER: Final = struct.Struct("<4IQ")
STEP: Final = struct.Struct("<2I4I2I20I12f12Q")

Array = NDArray[Any]


@dataclass
class Constants:
    """The file's last section, written as it grows; equal arrays are stored once. `check` sums up its words."""

    file: BinaryIO
    start: int
    size: int = 0
    check: int = 0
    known: dict[bytes, tuple[int, int]] = field(default_factory=dict)

    def add(self, array: Array | None) -> tuple[int, int]:
        """Stores an array's bytes and returns their offset and size."""
        if array is None:
            return 0, 0
        content = memoryview(_bytes_of(array))
        digest = hashlib.sha256(content).digest()
        if digest not in self.known:
            self.known[digest] = self.size, len(content)
            whole = len(content) // ALIGNMENT * ALIGNMENT
            self._append(content[:whole])
            self._append(_aligned(content[whole:], ALIGNMENT))
        return self.known[digest]

    def _append(self, content: bytes | memoryview) -> None:
        self.file.write(content)
        self.check += checksum(content, (self.start + self.size - CHECKED_FROM) // 8)
        self.size += len(content)


def _bytes_of(array: Array) -> Any:
    """The array's bytes in little-endian order, as a flat array, without a copy where they are so already."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)


@dataclass
class Strings:
    """The file's names, each ending in a zero byte."""

    data: bytearray = field(default_factory=bytearray)
    known: dict[bytes, int] = field(default_factory=dict)

    def add(self, text: str) -> int:
        """Stores a name and returns its offset."""
        content = text.encode().replace(b"\0", b"?") + b"\0"
        if content not in self.known:
            self.known[content] = len(self.data)
            self.data += content
        return self.known[content]


def _padded(values: Iterable[int], count: int, fill: int) -> list[int]:
    given = list(values)
    return given + [fill] * (count - len(given))


def _step_bytes(record: Record, strings: Strings, constants: Constants) -> bytes:
    blobs = [constants.add(blob) for blob in record.blobs]
    blobs += [(0, 0)] * (6 - len(blobs))
    scalars = [*record.scalars, *[0.0] * (12 - len(record.scalars))]
    return STEP.pack(
        OPS.index(record.op),
        strings.add(record.name),
        *_padded(record.inputs, 4, ABSENT),
        *_padded(record.outputs, 2, ABSENT),
        *_padded(record.attributes, 20, 0),
        *scalars,
        *(number for blob in blobs for number in blob),
    )


def _buffer_bytes(buffer: Buffer, offset: int, strings: Strings) -> bytes:
    return BUFFER.pack(strings.add(buffer.name), buffer.channels, buffer.dtype == "u8", buffer.rows == "batch", offset)


def checksum(content: bytes | bytearray | memoryview, first: int = 0) -> int:
    """The sum of all 64-bit words, each mixed with its place, as `plan.c` computes it.

    `first` is the place of the content's first word, so that the sums of a file's parts add up to the file's.
    """
    words = np.frombuffer(content, "<u8")
    total = 0
    for begin in range(0, len(words), _WORDS_AT_ONCE):
        part = words[begin : begin + _WORDS_AT_ONCE]
        mixed = _PLACES[: len(part)] + np.uint64((first + begin) * 0x9E3779B97F4A7C15 % 2**64)
        mixed += part
        mixed ^= mixed >> np.uint64(32)
        mixed *= np.uint64(0xD6E8FEB86659FD93)
        mixed ^= mixed >> np.uint64(29)
        total += int(mixed.sum(dtype=np.uint64))
    return total % (1 << 64)


_WORDS_AT_ONCE = 1 << 13
_PLACES = np.arange(_WORDS_AT_ONCE, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def _aligned(data: bytes | bytearray | memoryview, to: int) -> bytes:
    return bytes(data) + bytes(-len(data) % to)


@dataclass(frozen=True)
class _Front:
    """Everything before the constants but the steps, whose size alone is known before they are written."""

    inputs: bytes
    buffers: bytes
    strings: bytes
    steps_size: int

    @property
    def places(self) -> tuple[int, int, int, int]:
        """Where inputs, buffers, steps and strings begin."""
        buffers = HEADER.size + len(self.inputs)
        steps = buffers + len(self.buffers)
        return HEADER.size, buffers, steps, steps + self.steps_size

    @property
    def constants_at(self) -> int:
        """Where the constants begin."""
        return pack.round_up(self.places[3] + len(self.strings), ALIGNMENT)


def _front(program: Program, arena: memory.Arena, strings: Strings) -> _Front:
    inputs = b"".join(INPUT.pack(strings.add(i.name)) for i in program.inputs)
    buffers = b"".join(
        _buffer_bytes(buffer, offset, strings) for buffer, offset in zip(program.buffers, arena.offsets, strict=True)
    )
    for step in program.steps:
        strings.add(step.name)
    return _Front(_aligned(inputs, 8), buffers, bytes(strings.data), STEP.size * len(program.steps))


def write(program: Program, file: BinaryIO, source: bytes = bytes(SOURCE_BYTES)) -> None:
    """Writes the plan of a program to an empty, seekable file; a weight is packed only when its turn comes.

    `source` is 32 bytes that name what the plan was made from. Raises ValueError when the program can't be run:
    steps of an unknown type, arrays that don't fit, int32 sums that could overflow, buffers that are read before
    they are written.
    """
    if len(source) != SOURCE_BYTES:
        raise ValueError(f"the source has {len(source)} bytes, expected {SOURCE_BYTES}")
    writers = [writer(step) for step in program.steps]
    arena = memory.place(program)
    strings = Strings()
    front = _front(program, arena, strings)
    constants = Constants(file, front.constants_at)
    file.seek(front.constants_at)
    steps = b"".join(
        _step_bytes(make(step, program), strings, constants) for make, step in zip(writers, program.steps, strict=True)
    )
    header = HEADER.pack(
        MAGIC,
        0,
        BYTE_ORDER,
        FORMAT_VERSION,
        front.constants_at + constants.size,
        len(program.inputs),
        len(program.buffers),
        len(program.steps),
        0,
        *front.places,
        len(front.strings),
        front.constants_at,
        constants.size,
        arena.size,
        source,
    )
    before = _aligned(header + front.inputs + front.buffers + steps + front.strings, ALIGNMENT)
    check = checksum(memoryview(before)[CHECKED_FROM:]) + constants.check
    file.seek(0)
    file.write(before[:8] + struct.pack("<Q", check % (1 << 64)) + before[CHECKED_FROM:])


def encode(program: Program, source: bytes = bytes(SOURCE_BYTES)) -> bytes:
    """The plan of a program, as bytes. Raises ValueError as `write` does."""
    file = io.BytesIO()
    write(program, file, source)
    return file.getvalue()


def write_plan(program: Program, path: str | os.PathLike[str], source: bytes = bytes(SOURCE_BYTES)) -> None:
    """Writes the plan of a program, atomically: a reader sees the old file or the whole new one.

    Raises ValueError as `write` does, and OSError.
    """
    target = Path(path)
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with open(fresh, "xb", opener=_create_read_only) as file:
            write(program, file, source)
            file.flush()
            os.fsync(file.fileno())
            _forget(file.fileno())
        fresh.replace(target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _create_read_only(path: str, flags: int) -> int:
    """A plan that is run must not change; the umask takes away more."""
    return os.open(path, flags, 0o444)


def _forget(handle: int) -> None:
    """Drops a file from the page cache: mapped, it comes back in large pages, where the system has them for files."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def _text(strings: bytes, offset: int) -> str:
    return strings[offset : strings.index(b"\0", offset)].decode(errors="replace")


def _describe(fields: tuple[Any, ...], strings: bytes) -> str:
    op, name = OPS[fields[0]], _text(strings, fields[1])
    ins = [b for b in fields[2:6] if b != ABSENT]
    outs = [b for b in fields[6:8] if b != ABSENT]
    attributes = ["-" if a == ABSENT else str(a) for a in fields[8:28]]
    while attributes and attributes[-1] == "0":
        attributes.pop()
    scalars = [f"{s:.6g}" for s in fields[28:40] if s]
    sizes = [str(size) for size in fields[41:52:2] if size]
    parts = [f"{op:<13} {name}: {ins} -> {outs}", f"attributes {' '.join(attributes)}" if attributes else ""]
    parts += [f"scalars {' '.join(scalars)}" if scalars else "", f"bytes {' '.join(sizes)}" if sizes else ""]
    return "  ".join(part for part in parts if part)


def dump(path: str | os.PathLike[str]) -> str:
    """A plan file as text, one line a record. Raises PlanError for a file that is no readable plan."""
    content = Path(path).read_bytes()
    try:
        return "\n".join(_dump_lines(content))
    except (struct.error, ValueError, IndexError) as error:
        raise PlanError(f"{path} is no readable plan: {error}") from error


def _dump_lines(content: bytes) -> list[str]:
    (magic, check, _, version, size, input_count, buffer_count, step_count, _, *places) = HEADER.unpack_from(content)
    inputs_at, buffers_at, steps_at, strings_at, strings_size, _, constants_size, arena, source = places
    if magic != MAGIC or version != FORMAT_VERSION:
        raise ValueError(f"it starts with {magic!r}, format version {version}; expected {FORMAT_VERSION}")
    strings = content[strings_at : strings_at + strings_size]
    lines = [
        f"plan version {version}, {size} bytes, checksum {check:016x}",
        f"arena {arena} bytes a tile, constants {constants_size} bytes, source {source.hex()}",
    ]
    for i in range(input_count):
        (name,) = INPUT.unpack_from(content, inputs_at + i * INPUT.size)
        lines.append(f"input {i} {_text(strings, name)}")
    for i in range(buffer_count):
        name, channels, u8, batch, offset = BUFFER.unpack_from(content, buffers_at + i * BUFFER.size)
        kind, rows = ("u8" if u8 else "f32"), ("batch" if batch else "tokens")
        lines.append(f"buffer {i} {_text(strings, name)}: {kind} [{rows}, {channels}] at {offset}")
    for i in range(step_count):
        fields = STEP.unpack_from(content, steps_at + i * STEP.size)
        lines.append(f"step {i} {_describe(fields, strings)}")
    return lines
