"""The kernels through one-step programs: against NumPy, and bit by bit between instruction sets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine import cost_model, plan
from engine.program import Activate, Program, Quantization
from tests.engine.programs import BYTES, Builder, sparsify
from tests.engine.running import ids, run_all

Array = NDArray[Any]
EDGES = [
    (1, 1, 1),
    (15, 3, 2),
    (16, 4, 5),
    (17, 5, 6),
    (63, 63, 7),
    (64, 64, 8),
    (65, 65, 9),
    (130, 255, 16),
    (48, 256, 17),
    (33, 257, 40),
    (16, 513, 64),
    (200, 600, 24),
    (40, 1024, 70),
    (70, 2050, 131),
]
"""(tokens, K, N) below, at and above the tile, the blocks of rows and the chunks of input channels."""


def linear_program(x: Array, weight: Array, **options: Any) -> Program:
    b = Builder("ids")
    return b.done(y=b.linear_u8(b.bytes(x), weight, **options))


def run_linear(monkeypatch: pytest.MonkeyPatch, x: Array, weight: Array, **options: Any) -> Array:
    return run_all(monkeypatch, linear_program(x, weight, **options), {"ids": ids(len(x))})["y"][0]


@pytest.mark.parametrize("sparsity", [0, 0.5, 0.8, 1])
@pytest.mark.parametrize(("tokens", "depth", "rows"), EDGES)
def test_integer_linear_is_exact(
    monkeypatch: pytest.MonkeyPatch, tokens: int, depth: int, rows: int, sparsity: float
) -> None:
    rng = np.random.default_rng(tokens * depth)
    x = rng.integers(0, 256, (tokens, depth))
    weight = sparsify(rng, rng.integers(-128, 128, (rows, depth)), sparsity)
    exact = (x - 77) @ weight.T
    assert np.array_equal(run_linear(monkeypatch, x, weight, zero_point=77), exact.astype(np.float32))


@pytest.mark.parametrize("activation", ["none", "gelu", "relu", "tanh", "gelu_tanh"])
def test_integer_linear_with_scale_activation_and_quantization(
    monkeypatch: pytest.MonkeyPatch, activation: str
) -> None:
    rng = np.random.default_rng(1)
    x, weight = rng.integers(0, 256, (37, 50)), rng.integers(-127, 128, (21, 50))
    scale, bias = rng.uniform(1e-5, 1e-4, 21).astype(np.float32), rng.normal(0, 1, 21).astype(np.float32)
    value = ((x - 128) @ weight.T) * scale.astype(np.float64) + bias
    expected = apply(activation, value)
    options = {"zero_point": 128, "scale": scale, "bias": bias, "activation": activation}
    assert np.abs(run_linear(monkeypatch, x, weight, **options) - expected).max() < 3e-6

    b, q = Builder("ids"), Quantization(0.013, 90)
    quantized = b.linear_u8(b.bytes(x), weight, quantization=q, **options)
    program = b.done(y=b.linear_u8(quantized, np.eye(21)))
    stored = run_all(monkeypatch, program, {"ids": ids(37)})["y"][0]
    exact = np.clip(np.rint(expected / q.scale) + q.zero_point, 0, 255)
    assert np.abs(stored - exact).max() <= 1
    assert (stored != exact).mean() < 0.01


@pytest.mark.parametrize(("form", "most"), [("gelu", 3e-5), ("gelu_tanh", 4e-5)])
def test_bytes_of_gelu_are_those_of_the_exact_function(monkeypatch: pytest.MonkeyPatch, form: str, most: float) -> None:
    """A short-cut in GELU moves values over a byte's edge, which later layers multiply: see docs/results.md.

    Negative results in fine steps: there float32 itself moves the fewest.
    """
    rng = np.random.default_rng(2)
    x, weight = rng.integers(0, 256, (600, 24)), rng.integers(-127, 128, (400, 24))
    scale, bias = np.full(400, 2e-5, np.float32), rng.uniform(-3, 0, 400).astype(np.float32)
    value = (((x - 128) @ weight.T) * scale.astype(np.float64) + bias).astype(np.float32)
    exact = apply(form, value.astype(np.float64))
    b, q = Builder("ids"), Quantization(0.0007, 250)
    options = {"zero_point": 128, "scale": scale, "bias": bias, "activation": form, "quantization": q}
    program = b.done(y=b.linear_u8(b.linear_u8(b.bytes(x), weight, **options), np.eye(400)))
    stored = run_all(monkeypatch, program, {"ids": ids(600)})["y"][0]
    assert (stored != np.clip(np.rint(exact / q.scale) + q.zero_point, 0, 255)).mean() < most


def apply(activation: str, x: Array) -> Array:
    match activation:
        case "gelu":
            return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        case "gelu_tanh":
            return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        case "tanh":
            return np.tanh(x)
        case "relu":
            return np.maximum(x, 0)
        case _:
            return x


@pytest.mark.parametrize("activation", ["gelu", "relu", "tanh", "gelu_tanh"])
def test_activations_follow_numpy(monkeypatch: pytest.MonkeyPatch, activation: Any) -> None:
    x = np.concatenate([np.linspace(-12, 12, 3001), [0.0, -0.0, 1e-30, -1e-6, 50, -1000, 1e30, -1e30]])
    b = Builder("ids")
    source, out = b.rows(x.reshape(-1, 1)), b.buffer(1)
    b.steps.append(Activate("activate", source, activation, out))
    y = run_all(monkeypatch, b.done(y=out), {"ids": ids(len(x))})["y"].ravel()
    assert np.allclose(y, apply(activation, x), rtol=2e-6, atol=1.5e-6)


@pytest.mark.parametrize(("tokens", "depth", "rows"), EDGES)
def test_float_linear_follows_float64(monkeypatch: pytest.MonkeyPatch, tokens: int, depth: int, rows: int) -> None:
    rng = np.random.default_rng(tokens)
    x, weight, bias = rng.normal(size=(tokens, depth)), rng.normal(size=(rows, depth)), rng.normal(size=rows)
    b = Builder("ids")
    program = b.done(y=b.linear_f32(b.rows(x), weight, bias))
    y = run_all(monkeypatch, program, {"ids": ids(tokens)})["y"][0]
    assert np.allclose(y, x @ weight.T + bias, rtol=1e-4, atol=2e-6 * depth)


@pytest.mark.parametrize("density", [0, 0.1, 0.5])
@pytest.mark.parametrize(("tokens", "depth", "rows"), EDGES)
def test_sparse_float_linear_equals_dense_to_the_bit(
    monkeypatch: pytest.MonkeyPatch, tokens: int, depth: int, rows: int, density: float
) -> None:
    rng = np.random.default_rng(tokens)
    x, weight, bias = rng.normal(size=(tokens, depth)), rng.normal(size=(rows, depth)), rng.normal(size=rows)
    b = Builder("ids")
    few = np.where(rng.random(weight.shape) < density, weight, 0)
    program = b.done(y=b.linear_f32(b.rows(x), few, bias, "gelu"))
    sparse = run_all(monkeypatch, program, {"ids": ids(tokens)})["y"]
    monkeypatch.setitem(cost_model.BREAK_EVEN, "f32", {"avx512vnni": 0})
    dense = run_all(monkeypatch, program, {"ids": ids(tokens)})["y"]
    assert sparse.tobytes() == dense.tobytes()


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 16, 17, 35, 64, 65])
def test_layernorm_follows_float64(monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    rng = np.random.default_rng(channels)
    x = rng.normal(3, 2, (19, channels)).astype(np.float32)
    gamma, beta = (rng.normal(1, 0.1, channels).astype(np.float32) for _ in range(2))
    b, q = Builder("ids"), Quantization(0.02, 128)
    source = b.rows(x)
    y, quantized = b.layernorm(source, source, gamma, beta, q)
    program = b.done(y=y, q=b.linear_u8(quantized, np.eye(channels)))
    result = run_all(monkeypatch, program, {"ids": ids(19)})
    doubled = 2 * x.astype(np.float64)
    centred = doubled - doubled.mean(axis=1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) * gamma + beta
    assert np.allclose(result["y"][0], expected, atol=1e-5)
    assert np.array_equal(result["q"][0], np.clip(np.rint(result["y"][0] / np.float32(q.scale)) + 128, 0, 255))


@pytest.mark.parametrize("outlier", [0, 1e4])
@pytest.mark.parametrize("offset", [0, 1000, -30000])
def test_layernorm_of_values_far_from_zero(monkeypatch: pytest.MonkeyPatch, offset: float, outlier: float) -> None:
    """A variance taken as the difference of two large numbers would have nothing left of it."""
    x = np.random.default_rng(5).normal(offset, 1, (17, 256)).astype(np.float32)
    x[:, 0] += outlier
    b = Builder("ids")
    y, _ = b.layernorm(b.rows(x), None, np.ones(256), np.zeros(256), BYTES)
    got = run_all(monkeypatch, b.done(y=y), {"ids": ids(17)})["y"][0]
    centred = x - x.mean(axis=1, keepdims=True, dtype=np.float64)
    expected = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    assert np.abs(got - expected).max() < 1e-5 + 3e-7 * (abs(offset) + outlier / 16) / centred.std(axis=1).min()


@pytest.mark.parametrize("weight_value", [127, -127])
@pytest.mark.parametrize("sparse", [False, True])
def test_row_94_saturating_sums_are_exact(monkeypatch: pytest.MonkeyPatch, weight_value: int, sparse: bool) -> None:
    depth = 65_536
    weight = np.full((2, depth), weight_value)
    if sparse:
        weight[:, : depth // 2] = 0
    got = run_linear(monkeypatch, np.full((1, depth), 255), weight)
    assert np.array_equal(got, (255 * weight.sum(axis=1)[None]).astype(np.float32))


def test_row_94_longer_sums_are_refused() -> None:
    program = linear_program(np.zeros((1, 66_312)), np.ones((1, 66_312)))
    with pytest.raises(ValueError, match="overflow an int32 sum"):
        plan.encode(program)


def test_row_94_special_values_are_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    special = np.array([math.nan, math.inf, -math.inf, -0.0, 1e-42, -1e-42, 3e38, 0.5, 1.5, 2.5, -0.5, 300])
    b = Builder("ids")
    x = b.rows(special.reshape(-1, 1))
    outs = {"q": b.linear_u8(b.quantize(x), np.eye(1))}
    for name in ("gelu", "relu", "tanh", "gelu_tanh"):
        outs[name] = b.buffer(1)
        b.steps.append(Activate(name, x, name, outs[name]))
    got = run_all(monkeypatch, b.done(**outs), {"ids": ids(len(special))})
    assert got["q"].ravel().tolist() == [0, 255, 0, 0, 0, 0, 255, 0, 2, 2, 0, 255]
    assert all(math.isnan(got[name].ravel()[0]) for name in ("gelu", "relu", "tanh"))
    assert got["tanh"].ravel()[1:3].tolist() == [1, -1]


@pytest.mark.parametrize("depth", [4, 7, 16, 18, 64, 66, 512, 515, 1030])
def test_row_95_sparsity_extremes_equal_dense(monkeypatch: pytest.MonkeyPatch, depth: int) -> None:
    rng = np.random.default_rng(depth)
    x = rng.integers(0, 256, (21, depth))
    one, empty_rows, last = np.zeros((3, 9, depth), int)
    one[4, depth // 2] = -127
    empty_rows[::3] = rng.integers(-127, 128, (3, depth))
    last[:, -1] = 5
    for weight in (one, empty_rows, last, np.zeros((9, depth), int)):
        assert np.array_equal(run_linear(monkeypatch, x, weight, zero_point=9), (x - 9) @ weight.T)


def test_embedding_tables_add_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.program import Table

    rng = np.random.default_rng(0)
    words, places = rng.normal(size=(2, 30, 6)).astype(np.float32)
    types = rng.integers(-127, 128, (5, 6)).astype(np.int8)
    b = Builder("ids", "types")
    y = b.embed(
        Table(words, 0),
        Table(types, 1, scale=0.01),
        Table(places, "position", offset=2),
        Table(words, "constant", offset=3),
    )
    given = {"ids": rng.integers(0, 30, (2, 20)), "types": rng.integers(0, 5, (2, 20))}
    got = run_all(monkeypatch, b.done(y=y), given)["y"]
    of_types = types[given["types"]].astype(np.float32) * np.float32(0.01)
    assert np.array_equal(got, ((words[given["ids"]] + of_types) + places[2:22]) + words[3])


def test_tokens_other_than_padding_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.program import Counted, Table

    rng = np.random.default_rng(0)
    words, places = rng.normal(size=(2, 30, 6)).astype(np.float32)
    b = Builder("ids")
    y = b.embed(Table(words, 0), Table(places, Counted(0), offset=1))
    given = rng.integers(0, 4, (3, 28))
    given[0], given[1] = 1, np.where(np.arange(28) < 5, 1, given[1])
    got = run_all(monkeypatch, b.done(y=y), {"ids": given})["y"]
    counted = np.array([[1 if row[t] == 1 else 1 + np.sum(row[: t + 1] != 1) for t in range(28)] for row in given])
    assert np.array_equal(got, words[given] + places[counted])


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 64, 65])
@pytest.mark.parametrize("quantization", [Quantization(0.0173, 128), Quantization(1.2e-38, 0), Quantization(3.0, 255)])
def test_dequantize_is_numpy_to_the_bit(
    monkeypatch: pytest.MonkeyPatch, channels: int, quantization: Quantization
) -> None:
    q = np.random.default_rng(channels).permutation(np.arange(256 * channels) % 256).reshape(256, channels)
    b = Builder("ids")
    y = b.dequantize(b.bytes(q), quantization)
    got = run_all(monkeypatch, b.done(y=y), {"ids": ids(256)})["y"][0]
    expected = (q - quantization.zero_point).astype(np.float32) * np.float32(quantization.scale)
    assert got.tobytes() == expected.tobytes()


def test_bytes_keep_every_value(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(256).reshape(-1, 1)
    b = Builder("ids")
    program = b.done(y=b.linear_u8(b.quantize(b.rows(x), BYTES), np.eye(1)))
    assert np.array_equal(run_all(monkeypatch, program, {"ids": ids(256)})["y"][0], x)
