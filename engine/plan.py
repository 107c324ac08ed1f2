"""Plan files: what the C library runs. `write_plan` makes one of a `Program`; `dump` shows one as text.

The format is described in `csrc/plan.h`; `records` says what each step becomes. Equal programs give equal bytes.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine import memory, pack
from engine.errors import PlanError
from engine.program import Buffer, Program
from engine.records import ABSENT, OPS, Record, writer

MAGIC: Final = b"SPWPLAN\0"
FORMAT_VERSION: Final = 1
BYTE_ORDER: Final = 0x01020304
ALIGNMENT: Final = 64

HEADER: Final = struct.Struct("<8sQIIQ4I8Q")
INPUT: Final = struct.Struct("<I")
BUFFER: Final = struct.Struct("<4IQ")
STEP: Final = struct.Struct("<2I4I2I20I12f12Q")

Array = NDArray[Any]


@dataclass
class Constants:
    """The file's last section, in which equal arrays are stored once."""

    data: bytearray = field(default_factory=bytearray)
    known: dict[bytes, int] = field(default_factory=dict)

    def add(self, array: Array | None) -> tuple[int, int]:
        """Stores an array's bytes and returns their offset and size."""
        if array is None:
            return 0, 0
        content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        if content not in self.known:
            self.known[content] = len(self.data)
            self.data += content + bytes(-len(content) % ALIGNMENT)
        return self.known[content], len(content)


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


def checksum(content: bytes | bytearray | memoryview) -> int:
    """The sum of all 64-bit words, each mixed with its place, as `plan.c` computes it."""
    words = np.frombuffer(content, "<u8")
    total = 0
    step = 1 << 16
    for first in range(0, len(words), step):
        part = words[first : first + step]
        places = np.arange(first, first + len(part), dtype=np.uint64)
        mixed = part + places * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
        mixed *= np.uint64(0xD6E8FEB86659FD93)
        total += int((mixed ^ (mixed >> np.uint64(29))).sum(dtype=np.uint64))
    return total % (1 << 64)


def _aligned(data: bytes | bytearray, to: int) -> bytes:
    return bytes(data) + bytes(-len(data) % to)


def encode(program: Program) -> bytes:
    """The plan of a program, as bytes.

    Raises ValueError when the program can't be run: steps of an unknown type, arrays that don't fit, int32 sums
    that could overflow, buffers that are read before they are written.
    """
    writers = [writer(step) for step in program.steps]
    arena = memory.place(program)
    strings, constants = Strings(), Constants()
    inputs = b"".join(INPUT.pack(strings.add(i.name)) for i in program.inputs)
    buffers = b"".join(
        _buffer_bytes(buffer, offset, strings) for buffer, offset in zip(program.buffers, arena.offsets, strict=True)
    )
    records = [write(step, program) for write, step in zip(writers, program.steps, strict=True)]
    steps = b"".join(_step_bytes(record, strings, constants) for record in records)

    at = HEADER.size
    offsets, sections = [], []
    for section in (_aligned(inputs, 8), buffers, steps, bytes(strings.data)):
        offsets.append(at)
        sections.append(section)
        at += len(section)
    front = HEADER.size + sum(map(len, sections))
    sections += [bytes(-front % ALIGNMENT), bytes(constants.data)]
    constants_at = pack.round_up(front, ALIGNMENT)
    body = b"".join(sections)

    def header(check: int) -> bytes:
        return HEADER.pack(
            MAGIC,
            check,
            BYTE_ORDER,
            FORMAT_VERSION,
            HEADER.size + len(body),
            len(program.inputs),
            len(program.buffers),
            len(program.steps),
            0,
            *offsets,
            len(strings.data),
            constants_at,
            len(constants.data),
            arena.size,
        )

    return header(checksum(header(0)[16:] + body)) + body


def write_plan(program: Program, path: str | os.PathLike[str]) -> None:
    """Writes the plan of a program, atomically: a reader sees the old file or the whole new one.

    Raises ValueError as `encode` does, and OSError.
    """
    content = encode(program)
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


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
    inputs_at, buffers_at, steps_at, strings_at, strings_size, _, constants_size, arena = places
    if magic != MAGIC or version != FORMAT_VERSION:
        raise ValueError(f"it starts with {magic!r}, format version {version}; expected {FORMAT_VERSION}")
    strings = content[strings_at : strings_at + strings_size]
    lines = [
        f"plan version {version}, {size} bytes, checksum {check:016x}",
        f"arena {arena} bytes a tile, constants {constants_size} bytes",
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
