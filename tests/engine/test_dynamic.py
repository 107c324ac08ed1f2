"""Models that quantize activations while they run, as ONNX Runtime's dynamic quantization writes them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

import engine
from engine.compiler import compile_onnx
from engine.graph import Array
from engine.program import LinearF32, LinearU8, QuantizeTokens, Rescale
from tests.engine.models import Bert, feed, session
from tests.engine.programs import Builder
from tests.engine.running import ids, run_all

INT8 = {"weight_type": QuantType.QInt8}
FORMS: list[dict[str, Any]] = [
    INT8,
    {**INT8, "per_channel": True},
    {**INT8, "per_channel": True, "reduce_range": True},
    {"weight_type": QuantType.QUInt8, "extra_options": {"WeightSymmetric": True}},
]


def quantized(folder: Path, options: dict[str, Any]) -> tuple[Path, Path]:
    """A small BERT, and what ONNX Runtime's quantizer makes of it."""
    plain, path = folder / "float.onnx", folder / "model.onnx"
    plain.write_bytes(Bert(hidden=32, inner=64).build().SerializeToString())
    quantize_dynamic(plain, path, **options)
    return plain, path


@pytest.mark.parametrize("form", range(len(FORMS)))
def test_one_token_gets_what_onnxruntime_gives(tmp_path: Path, form: int) -> None:
    """Of one token, the range of the whole tensor is its own."""
    _, path = quantized(tmp_path, FORMS[form])
    running, model = session(onnx.load(path)), engine.compile(path, num_cores=1)
    inputs = feed([i.name for i in running.get_inputs()], 1, 1)
    for info, expected in zip(running.get_outputs(), running.run(None, inputs), strict=True):
        np.testing.assert_allclose(model.run(inputs)[info.name], expected, atol=1e-5)


@pytest.mark.parametrize("form", range(len(FORMS)))
def test_many_tokens_stay_as_near_to_the_float_model_as_onnxruntime_does(tmp_path: Path, form: int) -> None:
    plain, path = quantized(tmp_path, FORMS[form])
    running, exact, model = session(onnx.load(path)), session(onnx.load(plain)), engine.compile(path, num_cores=2)
    inputs = feed([i.name for i in running.get_inputs()], 6, 40)
    kept = inputs["attention_mask"] != 0
    found = model.run(inputs)
    ours, theirs = [], []
    for info, real, other in zip(
        running.get_outputs(), exact.run(None, inputs), running.run(None, inputs), strict=True
    ):
        ours.append(np.square(found[info.name] - real)[kept].mean())
        theirs.append(np.square(other - real)[kept].mean())
    assert 0 < sum(ours) < 1.2 * sum(theirs)


def test_no_request_changes_the_result_of_another(tmp_path: Path) -> None:
    _, path = quantized(tmp_path, INT8)
    model = engine.compile(path, num_cores=2)
    inputs = feed(["input_ids", "attention_mask", "token_type_ids"], 5, 23)
    together = model.run(inputs)
    for row in range(5):
        length = int(inputs["attention_mask"][row].sum())
        alone = model.run({name: array[row : row + 1, :length] for name, array in inputs.items()})
        for name, values in alone.items():
            assert np.array_equal(values[0], together[name][row, :length])


def test_products_are_integer_where_weights_are_int8_and_float_where_they_are_not(tmp_path: Path) -> None:
    _, path = quantized(tmp_path, INT8)
    steps = compile_onnx(path).steps
    assert not any(isinstance(step, LinearF32) for step in steps)
    assert sum(isinstance(step, LinearU8) for step in steps) == sum(isinstance(step, Rescale) for step in steps) == 13
    assert sum(isinstance(step, QuantizeTokens) for step in steps) == 9  # query, key and value read the same bytes

    plain, path = quantized(tmp_path, {"weight_type": QuantType.QUInt8})
    model = onnx.load(path)
    zeros = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer if i.name.endswith("zero_point")}
    assert any((zero != 128).any() for zero in zeros.values())
    inputs = feed(["input_ids", "attention_mask", "token_type_ids"], 2, 9)
    found, exact = engine.compile(path, num_cores=1).run(inputs), session(onnx.load(plain)).run(None, inputs)
    assert np.square(found["start_logits"] - exact[0]).mean() < (0.1 * exact[0].std()) ** 2


def by_numpy(x: Array, weight: Array, scale: Array, bias: Array) -> Array:
    """In float64, with each token's scale and zero point by the standard's formula."""
    low, high = np.minimum(x.min(axis=1, keepdims=True), 0), np.maximum(x.max(axis=1, keepdims=True), 0)
    step = (high - low) / np.float32(255)
    step = np.where(step == 0, np.float32(1), step)
    zero = np.rint(-low / step)
    q = np.clip(np.rint(x / step) + zero, 0, 255)
    return (q - zero) @ weight.T.astype(np.float64) * scale * step + bias


@pytest.mark.parametrize("shape", [(1, 1, 1), (17, 50, 21), (40, 64, 32), (3, 1030, 9)])
def test_kernels_agree_everywhere_and_with_numpy(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]) -> None:
    tokens, depth, rows = shape
    rng = np.random.default_rng(tokens)
    x = (rng.normal(size=(tokens, depth)) * rng.uniform(0.01, 100, (tokens, 1))).astype(np.float32)
    x[0] = 0
    weight = rng.integers(-127, 128, (rows, depth))
    scale, bias = rng.uniform(1e-3, 1e-2, rows).astype(np.float32), rng.normal(size=rows).astype(np.float32)
    b = Builder("ids")
    y = b.linear_of_tokens(b.rows(x), weight, scale, bias)
    found = run_all(monkeypatch, b.done(y=y), {"ids": ids(tokens)})["y"][0]
    expected = by_numpy(x, weight, scale, bias)
    spread = np.abs(expected - bias).max(axis=1, keepdims=True) + 1e-6
    assert (np.abs(found - expected) / spread).max() < 0.02
    assert np.sqrt(np.mean(((found - expected) / spread) ** 2)) < 1e-3


def test_row_94_ranges_without_end_or_width_are_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    special = np.array([[math.nan, 1], [math.inf, 1], [-math.inf, 1], [3e38, -3e38], [1e-45, 0], [0, -0.0], [-5, -1]])
    b = Builder("ids")
    y = b.linear_of_tokens(b.rows(special), np.eye(2), np.ones(2), np.zeros(2))
    found = run_all(monkeypatch, b.done(y=y), {"ids": ids(len(special))})["y"][0]
    assert found[5].tolist() == [0, 0]
    np.testing.assert_allclose(found[6], [-5, -1], atol=0.02)
