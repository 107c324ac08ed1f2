"""Plan files: deterministic, atomic, readable as text, and refused when damaged."""

from __future__ import annotations

import dataclasses
import itertools
import os
import struct
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from engine import cost_model, pack, pairing, plan, records
from engine.errors import PlanError
from engine.program import Add, Buffer, Output, Program, Quantization, Step
from engine.runtime import CompiledModel
from tests.engine.programs import Builder, sparsify, tiny_bert

PLAN = plan.encode(tiny_bert())


def open_bytes(content: bytes) -> CompiledModel:
    return CompiledModel.from_plan(content, 1)


def rewritten(content: bytes, at: int, layout: str, *values: Any) -> bytes:
    """The plan with some bytes replaced and the checksum put right."""
    changed = bytearray(content)
    struct.pack_into(layout, changed, at, *values)
    struct.pack_into("<Q", changed, 8, plan.checksum(memoryview(changed)[16:]))
    return bytes(changed)


def test_equal_programs_give_equal_bytes() -> None:
    assert plan.encode(tiny_bert()) == PLAN
    assert plan.encode(tiny_bert(seed=1)) != PLAN


def test_write_replaces_atomically_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "m.plan"
    target.write_bytes(b"old")
    plan.write_plan(tiny_bert(), target)
    assert target.read_bytes() == PLAN
    b = Builder("ids")
    b.steps.append(Add("early", 0, 0, b.buffer(4)))
    with pytest.raises(ValueError, match="before any step writes it"):
        plan.write_plan(b.done(), target)
    assert target.read_bytes() == PLAN
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o444), (0o077, 0o400)])
def test_a_written_plan_is_read_only_within_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        plan.write_plan(tiny_bert(), tmp_path / "p")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "p").stat().st_mode & 0o777 == mode


def test_a_mapped_plan_survives_its_replacement(tmp_path: Path) -> None:
    target = tmp_path / "m.plan"
    plan.write_plan(tiny_bert(), target)
    given = {"ids": np.ones((1, 3), int), "mask": np.ones((1, 3), int)}
    with CompiledModel.from_plan(target, 1) as model:
        before = model.run(given)["start"]
        plan.write_plan(tiny_bert(seed=5), target)
        assert np.array_equal(model.run(given)["start"], before)


def test_dump_names_everything(tmp_path: Path) -> None:
    target = tmp_path / "m.plan"
    plan.write_plan(tiny_bert(), target)
    text = plan.dump(target)
    for word in (
        "input 1 mask",
        "embed",
        "layernorm",
        "attention_u8",
        "sparse_u8",
        "sparse_f32",
        "dequantize    dequantize: [",
        "output        pooled",
    ):
        assert word in text
    (tmp_path / "short").write_bytes(PLAN[:70])
    (tmp_path / "other").write_bytes(b"x" * 500)
    for name in ("short", "other"):
        with pytest.raises(PlanError, match="is no readable plan"):
            plan.dump(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no header"),
        (b"x" * 640, "not a plan"),
        (PLAN[:-64], "cut short"),
        (PLAN + bytes(64), "has grown"),
        (rewritten(PLAN, 16, "<I", 0x04030201), "byte order"),
        (rewritten(PLAN, 20, "<I", 1), "format version 1, this library reads 7"),
        (rewritten(PLAN, 32, "<I", 1 << 30), "counts"),
        (rewritten(PLAN, 48, "<Q", 2**64 - 8), "sections"),
        (rewritten(PLAN, 104, "<Q", 64), "outside the arena"),
    ],
)
def test_damaged_headers_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        open_bytes(content)


def test_missing_and_unreadable_files_are_plan_errors(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.plan"):
        with pytest.raises(PlanError, match="no plan file"):
            CompiledModel.from_plan(path)
    (tmp_path / "empty").touch()
    with pytest.raises(PlanError, match="is empty"):
        CompiledModel.from_plan(tmp_path / "empty")


def test_every_truncation_and_sampled_flips_are_plan_errors() -> None:
    for cut in range(0, len(PLAN), 64):
        with pytest.raises(PlanError):
            open_bytes(PLAN[:cut])
    rng = np.random.default_rng(0)
    for bit in rng.integers(0, len(PLAN) * 8, 2000):
        changed = bytearray(PLAN)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PlanError):
            open_bytes(bytes(changed))


def step_at(index: int) -> int:
    (steps_at,) = struct.unpack_from("<Q", PLAN, 64)
    return int(steps_at) + index * plan.STEP.size


def first_step(op: str) -> int:
    ops = [struct.unpack_from("<I", PLAN, step_at(i))[0] for i in range(len(tiny_bert().steps))]
    return step_at(ops.index(records.OPS.index(op)))


@pytest.mark.parametrize(
    ("op", "offset", "value", "message"),
    [
        ("layernorm", 0, 99, "its operation is unknown"),
        ("layernorm", 8, 500, "a buffer that doesn't exist"),
        ("layernorm", 8, 10, "before it is written"),
        ("quantizing", 0, 0, ""),
        ("sparse_u8", 32, 70_000, "wrong width|size is invalid"),
        ("sparse_u8", 48, 3, "chunk size is invalid"),
        ("sparse_f32", 32, 70_000, "wrong width"),
        ("sparse_f32", 48, 0, "chunk size is invalid"),
        ("sparse_f32", 48, 65_537, "chunk size is invalid"),
        ("sparse_f32", 48, 1, "wrong size"),
        ("attention_u8", 32, 3, "wrong width"),
        ("attention_u8", 40, 7, "mask is no input"),
        ("embed", 48, 1 << 31, "no rows or too many"),
        ("dequantize", 8, 0, "reads a buffer of the wrong type"),
        ("dequantize", 8, 500, "reads a buffer that doesn't exist"),
        ("dequantize", 24, 500, "writes a buffer that doesn't exist"),
        ("dequantize", 24, 0, "is written already"),
        ("dequantize", 32, 256, "quantization is invalid"),
        ("dequantize", 112, 0, "quantization is invalid"),
        ("dequantize", 112, 0x7FC00000, "quantization is invalid"),
        ("output", 32, 9, "column that doesn't exist"),
    ],
)
def test_invalid_steps_are_refused_by_name(op: str, offset: int, value: int, message: str) -> None:
    if op == "quantizing":  # a layernorm that becomes an output: its outputs are then never written
        op, value, message = "layernorm", records.OPS.index("output"), "column|before it is written"
    with pytest.raises(PlanError, match=message):
        open_bytes(rewritten(PLAN, first_step(op) + offset, "<I", value))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (Buffer("bytes", 8, "u8"), "writes a buffer of the wrong type"),
        (Buffer("narrow", 7, "f32"), "writes a buffer of the wrong width"),
        (Buffer("pooled", 8, "f32", "batch"), "mixes rows of tokens and of sequences"),
    ],
)
def test_a_dequantize_that_does_not_fit_is_refused(out: Buffer, message: str) -> None:
    b = Builder("ids")
    y = b.dequantize(b.bytes(np.zeros((3, 8))), Quantization(0.1, 3))
    b.buffers[y] = out
    with pytest.raises(PlanError, match=message):
        open_bytes(plan.encode(b.done(y=y)))


def test_overlapping_buffers_are_refused() -> None:
    (buffers_at,) = struct.unpack_from("<Q", PLAN, 56)
    second = buffers_at + plan.BUFFER.size + 16
    with pytest.raises(PlanError, match="share memory"):
        open_bytes(rewritten(PLAN, second, "<Q", 0))


def sparse_blob(op: str, index: int) -> int:
    """Where the constant `index` of the first step `op` lies in PLAN."""
    (constants,) = struct.unpack_from("<Q", PLAN, 88)
    offset, size = struct.unpack_from("<2Q", PLAN, first_step(op) + 160 + index * 16)
    assert size > 0
    return int(constants + offset)


STARTS, INDICES = 4, 5


@pytest.mark.parametrize(
    ("op", "blob", "at", "form", "value", "message"),
    [
        ("sparse_f32", INDICES, 0, "<H", 60_000, "index lies outside"),
        ("sparse_f32", STARTS, 4, "<I", 2**32 - 1, "ends before it starts"),
        ("sparse_u8", STARTS, 0, "<I", 1, "starts elsewhere"),
        ("sparse_u8", STARTS, 4, "<I", 1, "starts elsewhere"),
        ("sparse_u8", INDICES, 0, "<H", 60_000, "a pair's rows are invalid"),
        ("sparse_u8", INDICES, 2, "<H", 0, "a pair's rows are invalid"),
        ("sparse_u8", INDICES, 4, "<H", 1, "an odd number of blocks"),
        ("sparse_u8", INDICES, 6, "<H", 60_000, "more blocks than its weight"),
        ("sparse_u8", INDICES, 10, "<H", 60_000, "index lies outside"),
    ],
)
def test_sparse_constants_are_checked(op: str, blob: int, at: int, form: str, value: int, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        open_bytes(rewritten(PLAN, sparse_blob(op, blob) + at, form, value))


def test_packed_weights_hold_every_value() -> None:
    rng = np.random.default_rng(0)
    weight = sparsify(rng, rng.integers(-127, 128, (13, 1030)), 0.7).astype(np.int8)
    dense = pack.dense_s8(weight)
    assert dense.shape == (2, 258, 8, 4)
    assert np.array_equal(dense.transpose(0, 2, 1, 3).reshape(16, -1)[:13, :1030], weight)
    floats = pack.dense_f32(weight.astype(np.float32))
    assert np.array_equal(floats.transpose(0, 2, 1).reshape(16, -1)[:13], weight)

    single, values = pack.sparse_f32(weight.astype(np.float32)), np.zeros((16, 1030))
    for i in range(len(single.starts) - 1):
        chunk, row = divmod(i, 16)
        span = slice(single.starts[i], single.starts[i + 1])
        values[row, single.indices[span] + chunk * single.chunk] = single.values[span]
    assert np.array_equal(values[:13], weight)
    assert single.starts[-1] == len(single.values) == np.count_nonzero(weight)


@pytest.mark.parametrize(
    ("rows", "depth", "kept"), [(13, 1030, 0.3), (128, 64, 0.2), (300, 1000, 0.2), (8, 4, 0), (256, 40, 1)]
)
def test_paired_weights_hold_every_block_once(rows: int, depth: int, kept: float) -> None:
    rng = np.random.default_rng(0)
    weight = sparsify(rng, rng.integers(1, 128, (rows, depth)), 1 - kept).astype(np.int8)
    padded = pack.pad_integer(weight)
    packed, unpacked = pack.sparse_s8(weight), np.zeros((len(padded), padded.shape[1] // 4, 4), np.int8)
    per_chunk = packed.chunk // 4
    chunks = -(-unpacked.shape[1] // per_chunk)
    blocks, numbers, parts = iter(packed.blocks), iter(packed.indices.tolist()), -(-len(padded) // pairing.PART)
    for part, chunk in itertools.product(range(parts), range(chunks)):
        first, here = part * pairing.PART, min(pairing.PART, len(padded) - part * pairing.PART)
        seen = []
        for _ in range(here // 2):
            a, b, *counts = itertools.islice(numbers, pairing.HEADER)
            assert counts[0] % 2 == 0
            seen += [a, b]
            for row_set, count in zip(([a, b], [a], [b]), counts, strict=True):
                for group in itertools.islice(numbers, count):
                    assert group < per_chunk
                    for row in row_set:
                        unpacked[first + row, chunk * per_chunk + group] = next(blocks)
        assert sorted(seen) == list(range(here))
    assert next(blocks, None) is None
    assert next(numbers, None) is None
    assert np.array_equal(unpacked.reshape(padded.shape), padded)
    assert len(packed.blocks) == unpacked.any(axis=2).sum()


def test_rows_that_share_blocks_become_pairs() -> None:
    filled = np.zeros((2, 6, 40), bool)
    for cell, pairs in enumerate([[(0, 3), (1, 2), (4, 5)], [(0, 5), (1, 4), (2, 3)]]):
        for i, pair in enumerate(pairs):
            filled[cell, pair, i * 10 : i * 10 + 9] = True
    assert pairing.match(filled).tolist() == [[[0, 3], [1, 2], [4, 5]], [[0, 5], [1, 4], [2, 3]]]


def test_the_kernel_follows_the_fill() -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(1, 128, (64, 64)).astype(np.int8)
    assert cost_model.layout(weight) == "dense"
    assert cost_model.layout(sparsify(rng, weight, 0.8).astype(np.int8)) == "sparse"
    floats = weight.astype(np.float32)
    assert cost_model.layout(floats) == "dense"
    assert cost_model.layout(np.where(rng.random(floats.shape) < 0.8, 0, floats).astype(np.float32)) == "sparse"


def test_steps_that_do_not_fit_are_refused() -> None:
    b = Builder("ids")
    b.linear_u8(b.bytes(np.zeros((3, 8))), np.ones((4, 8)), bias=np.zeros(5))
    with pytest.raises(ValueError, match="bias and scale must have shape"):
        plan.encode(b.done())
    b = Builder("ids")
    x = b.bytes(np.zeros((3, 6)))
    b.attention(x, x, x, 1)
    with pytest.raises(ValueError, match="all four quantizations"):
        plan.encode(b.done())


def test_every_step_has_a_record_and_others_are_refused_by_name() -> None:
    assert set(records.WRITERS) == set(get_args(Step))

    @dataclasses.dataclass(frozen=True)
    class Rotate:
        name: str

    steps: Any = (Rotate("turn"), *tiny_bert().steps)
    with pytest.raises(ValueError, match="step 'turn' is a Rotate; a plan can hold Embed, LayerNorm"):
        plan.encode(dataclasses.replace(tiny_bert(), steps=steps))


def test_a_plan_without_outputs_is_refused() -> None:
    with pytest.raises(PlanError, match="no input or no output"):
        open_bytes(plan.encode(dataclasses.replace(tiny_bert(), steps=tiny_bert().steps[:-4])))


def test_widths_that_differ_are_refused() -> None:
    b = Builder("ids")
    x = b.rows(np.zeros((3, 8)))
    b.steps.append(Add("add", x, x, 1))
    program = Program(b.inputs, (*b.buffers, Buffer("narrow", 4, "f32")), (*b.steps, Output("y", 1)))
    with pytest.raises(PlanError, match="wrong width"):
        open_bytes(plan.encode(program))
