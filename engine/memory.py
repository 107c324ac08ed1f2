"""Where each activation lies in the arena: buffers that never live at the same time share memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.program import (
    Activate,
    Add,
    Attention,
    Buffer,
    BufferId,
    Dequantize,
    Embed,
    LayerNorm,
    LinearF32,
    LinearU8,
    Output,
    Program,
    Quantize,
    QuantizeTokens,
    Rescale,
    Select,
    Step,
)


@dataclass(frozen=True)
class Life:
    """The first and the last step, both included, between which a buffer holds its values."""

    first: int
    last: int


@dataclass(frozen=True)
class Arena:
    """Offsets in bytes per tile of 16 tokens; `size` is the arena's, per tile."""

    offsets: tuple[int, ...]
    size: int


def tile_bytes(buffer: Buffer) -> int:
    """Bytes that one tile of 16 tokens takes; always a multiple of 64."""
    return -(-buffer.channels // 4) * 64 if buffer.dtype == "u8" else buffer.channels * 64


def reads(step: Step) -> tuple[BufferId, ...]:
    """The buffers that a step reads."""
    match step:
        case Embed():
            return ()
        case LayerNorm(residual=residual) | LinearU8(residual=residual):
            return (step.input,) if residual is None else (step.input, residual)
        case Attention():
            return (step.query, step.key, step.value)
        case Add():
            return (step.left, step.right)
        case Rescale():
            return (step.input, step.scales)
        case Quantize() | QuantizeTokens() | Dequantize() | LinearF32() | Activate() | Select() | Output():
            pass
    return (step.input,)


def writes(step: Step) -> tuple[BufferId, ...]:
    """The buffers that a step writes."""
    match step:
        case LayerNorm(out=out, out_quantized=quantized):
            return tuple(b for b in (out, quantized) if b is not None)
        case QuantizeTokens():
            return (step.out, step.scales)
        case Output():
            return ()
        case _:
            return (step.out,)


def lives(program: Program) -> dict[BufferId, Life]:
    """The life of each buffer that is written; raises ValueError for a read before the write, or a second one."""
    found: dict[BufferId, Life] = {}
    for index, step in enumerate(program.steps):
        for buffer in reads(step):
            if buffer not in found:
                raise ValueError(f"step {step.name} reads buffer {buffer} before any step writes it")
            found[buffer] = Life(found[buffer].first, index)
        for buffer in writes(step):
            if buffer in found:
                raise ValueError(f"step {step.name} writes buffer {buffer}, which is written already")
            found[buffer] = Life(index, index)
    return found


def _gaps(taken: list[tuple[int, int]]) -> Iterator[tuple[int, float]]:
    """(offset, size) of the free places between the taken (offset, end) ranges, the last one endless."""
    at = 0
    for begin, end in sorted(taken):
        if begin > at:
            yield at, begin - at
        at = max(at, end)
    yield at, float("inf")


def place(program: Program) -> Arena:
    """Assigns offsets, the largest buffers first, each to the smallest gap that holds it."""
    alive = lives(program)
    sizes = [tile_bytes(buffer) for buffer in program.buffers]
    offsets = [0] * len(sizes)
    placed: list[BufferId] = []
    for buffer in sorted(alive, key=lambda b: (-sizes[b], alive[b].first, b)):
        life = alive[buffer]
        taken = [
            (offsets[b], offsets[b] + sizes[b])
            for b in placed
            if alive[b].first <= life.last and life.first <= alive[b].last
        ]
        fitting = [(size, at) for at, size in _gaps(taken) if size >= sizes[buffer]]
        offsets[buffer] = min(fitting)[1]
        placed.append(buffer)
    size = max((offsets[b] + sizes[b] for b in placed), default=0)
    return Arena(tuple(offsets), size)
