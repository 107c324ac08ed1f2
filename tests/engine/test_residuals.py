"""Residuals that an integer layer adds in place of the LayerNorm behind it."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest

from engine import compiler, plan
from engine.errors import PlanError
from engine.program import LayerNorm, Layout, LinearU8, Program, Quantization
from engine.residuals import fold_residuals
from engine.runtime import CompiledModel
from tests.engine.models import Bert
from tests.engine.programs import Builder, sparsify
from tests.engine.running import run_all
from tests.engine.test_plan import rewritten

Q = Quantization(0.02, 128)
IDS = np.random.default_rng(1).integers(0, 50, (2, 37))


def normed(*, swapped: bool = False, rows: int = 40, **layer: Any) -> Program:
    """LayerNorm of a layer's result and of the floats that came before it, in either order."""
    rng = np.random.default_rng(0)
    weight = sparsify(rng, rng.integers(-127, 128, (rows, 70)), 0.7)
    b = Builder("ids")
    residual = b.rows(rng.normal(size=(50, rows)))
    y = b.linear_u8(b.bytes(rng.integers(0, 256, (50, 70))), weight, 99, np.full(rows, 1e-3), **layer)
    y = b.dequantize(y, layer["quantization"]) if "quantization" in layer else y
    gamma, beta = rng.normal(size=(2, rows)).astype(np.float32)
    out, _ = b.layernorm(*((residual, y) if swapped else (y, residual)), gamma, beta, Q)
    return b.done(y=out)


def is_folded(program: Program) -> bool:
    """Whether a layer adds what no LayerNorm does any more."""
    folded = fold_residuals(program)
    adds = [step.residual is not None for step in folded.steps if isinstance(step, LinearU8)]
    still = [step.residual is not None for step in folded.steps if isinstance(step, LayerNorm)]
    assert any(adds) != any(still)
    return any(adds)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("rows", [3, 21, 40, 64])
def test_a_folded_residual_changes_no_bit(monkeypatch: pytest.MonkeyPatch, swapped: bool, rows: int) -> None:
    program = normed(swapped=swapped, rows=rows)
    assert is_folded(program)
    expected = run_all(monkeypatch, program, {"ids": IDS})["y"]
    for layout in get_args(Layout)[:2]:
        folded = fold_residuals(program)
        steps = (replace(s, layout=layout) if isinstance(s, LinearU8) else s for s in folded.steps)
        got = run_all(monkeypatch, replace(folded, steps=tuple(steps)), {"ids": IDS})["y"]
        assert got.tobytes() == expected.tobytes()


def test_a_result_that_is_no_plain_float_keeps_its_layer_norm() -> None:
    assert not is_folded(normed(activation="gelu"))
    assert not is_folded(normed(quantization=Q))


def test_a_result_that_others_read_keeps_its_layer_norm() -> None:
    program = normed()
    layer = next(step for step in program.steps if isinstance(step, LinearU8))
    shown = replace(program.steps[-1], name="z", input=layer.out)  # type: ignore[call-arg]
    assert not is_folded(replace(program, steps=(*program.steps, shown)))


def test_a_residual_that_comes_later_keeps_its_layer_norm() -> None:
    program = normed()
    first, *others = program.steps
    assert not is_folded(replace(program, steps=(*others[:-2], first, *others[-2:])))


def test_a_quantized_encoder_adds_all_residuals_in_its_layers(tmp_path: Path) -> None:
    onnx.save(Bert("qdq", layers=2).build(), tmp_path / "model.onnx")
    steps = compiler.compile_onnx(tmp_path / "model.onnx").steps
    assert sum(isinstance(step, LinearU8) and step.residual is not None for step in steps) == 4
    assert not any(isinstance(step, LayerNorm) and step.residual is not None for step in steps)


def test_residuals_of_other_results_are_refused() -> None:
    program = fold_residuals(normed())
    for change in ({"activation": "gelu"}, {"quantization": Q}):
        steps = (replace(s, **change) if isinstance(s, LinearU8) else s for s in program.steps)
        with pytest.raises(ValueError, match="only float32 results without an activation"):
            plan.encode(replace(program, steps=tuple(steps)))


def test_a_layer_cannot_add_its_own_result() -> None:
    program = fold_residuals(normed())
    number = next(i for i, step in enumerate(program.steps) if isinstance(step, LinearU8))
    layer = program.steps[number]
    assert isinstance(layer, LinearU8)
    with pytest.raises(ValueError, match="before any step writes it"):
        plan.encode(replace(program, steps=(*program.steps[:number], replace(layer, residual=layer.out))))
    content = plan.encode(program)
    (steps,) = struct.unpack_from("<Q", content, 64)
    place = steps + number * plan.STEP.size + 12
    assert struct.unpack_from("<I", content, place) == (layer.residual,)
    for other in (layer.out, layer.input, len(program.buffers)):
        with pytest.raises(PlanError, match="reads a buffer"):
            CompiledModel.from_plan(rewritten(content, place, "<I", other), 1)
