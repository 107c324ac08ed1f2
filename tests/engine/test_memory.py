"""The arena: nothing that lives at the same time shares a byte, and reuse happens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import memory
from engine.program import Add, Buffer, Embed, Input, Output, Program, Step, Table
from tests.engine.programs import Builder, tiny_bert


def chain(length: int) -> Program:
    table = Table(np.zeros((4, 8), np.float32), 0)
    steps: list[Step] = [Embed("embed", (table,), 0)]
    steps += [Add(f"add{i}", i, i, i + 1) for i in range(length)]
    steps.append(Output("y", length))
    return Program((Input("ids"),), tuple(Buffer(f"b{i}", 8, "f32") for i in range(length + 1)), tuple(steps))


def overlapping(program: Program) -> list[tuple[int, int]]:
    arena, lives = memory.place(program), memory.lives(program)
    ends = [arena.offsets[b] + memory.tile_bytes(program.buffers[b]) for b in range(len(program.buffers))]
    assert all(end <= arena.size for b, end in enumerate(ends) if b in lives)
    return [
        (a, b)
        for a in lives
        for b in lives
        if a < b
        and lives[a].first <= lives[b].last
        and lives[b].first <= lives[a].last
        and arena.offsets[a] < ends[b]
        and arena.offsets[b] < ends[a]
    ]


def test_a_chain_needs_two_places() -> None:
    assert memory.place(chain(30)).size == 2 * 8 * 64


def test_a_model_reuses_memory() -> None:
    program = tiny_bert(layers=4)
    assert not overlapping(program)
    assert memory.place(program).size == memory.place(tiny_bert(layers=1)).size


def test_bytes_of_a_tile() -> None:
    sizes = [memory.tile_bytes(Buffer("b", c, "u8")) for c in (1, 4, 5)]
    assert sizes == [64, 64, 128]
    assert memory.tile_bytes(Buffer("b", 5, "f32")) == 320


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=14), st.data())
def test_row_98_living_buffers_never_share_a_byte(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    widths = data.draw(st.lists(st.integers(1, 40), min_size=len(pairs) + 1, max_size=len(pairs) + 1))
    table = Table(np.zeros((1, widths[0]), np.float32), 0)
    steps: list[Step] = [Embed("embed", (table,), 0)]
    steps += [Add(f"add{i}", left % (i + 1), right % (i + 1), i + 1) for i, (left, right) in enumerate(pairs)]
    buffers = tuple(Buffer(f"b{i}", width, "f32") for i, width in enumerate(widths))
    assert not overlapping(Program((Input("ids"),), buffers, tuple(steps)))


def test_reads_before_writes_and_second_writes_are_refused() -> None:
    b = Builder("ids")
    b.steps.append(Add("early", 0, 0, b.buffer(4)))
    with pytest.raises(ValueError, match="early reads buffer 0 before"):
        memory.place(b.done())
    program = chain(1)
    with pytest.raises(ValueError, match="is written already"):
        memory.place(Program(program.inputs, program.buffers, (*program.steps, program.steps[0])))
