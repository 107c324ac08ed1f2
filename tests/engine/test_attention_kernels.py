"""The attention kernels through one-step programs: against NumPy, and bit by bit between instruction sets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.program import Quantization
from tests.engine.programs import BYTES, Builder, softmax_attention
from tests.engine.running import ids, run_all

Array = NDArray[Any]


@pytest.mark.parametrize("mask_value", [-10000.0, float(np.finfo(np.float32).min), -math.inf])
@pytest.mark.parametrize(("tokens", "heads", "head_dim"), [(1, 1, 4), (16, 2, 8), (17, 3, 5), (70, 2, 36)])
def test_float_attention_follows_float64(
    monkeypatch: pytest.MonkeyPatch, tokens: int, heads: int, head_dim: int, mask_value: float
) -> None:
    rng = np.random.default_rng(tokens)
    q, k, v = rng.normal(size=(3, tokens, heads * head_dim))
    mask = rng.integers(0, 2, tokens)
    mask[0] = 1
    b = Builder("ids", "mask")
    y = b.attention(b.rows(q), b.rows(k), b.rows(v), heads, mask=1, mask_value=mask_value)
    got = run_all(monkeypatch, b.done(y=y), {"ids": ids(tokens), "mask": mask[None]})["y"][0]
    bias = np.where(mask == 1, 0.0, mask_value)
    assert np.allclose(got, softmax_attention(q, k, v, heads, bias), atol=1e-5)


@pytest.mark.parametrize(("tokens", "longest"), [(1, 1), (16, 16), (17, 17), (70, 70), (40, 100)])
def test_float_attention_adds_a_bias_of_positions(monkeypatch: pytest.MonkeyPatch, tokens: int, longest: int) -> None:
    rng = np.random.default_rng(tokens)
    q, k, v = rng.normal(size=(3, tokens, 24))
    bias = rng.normal(size=(3, 2 * longest - 1)).astype(np.float32)
    b = Builder("ids")
    y = b.attention(b.rows(q), b.rows(k), b.rows(v), 3, bias=bias)
    got = run_all(monkeypatch, b.done(y=y), {"ids": ids(tokens)})["y"][0]
    for head in range(3):
        of_head = slice(8 * head, 8 * head + 8)
        added = [[bias[head, longest - 1 + key - query] for key in range(tokens)] for query in range(tokens)]
        expected = softmax_attention(q[:, of_head], k[:, of_head], v[:, of_head], 1, np.array(added))
        assert np.allclose(got[:, of_head], expected, atol=1e-5)


@pytest.mark.parametrize(("tokens", "heads", "head_dim"), [(1, 1, 4), (16, 2, 8), (17, 3, 12), (70, 2, 36)])
def test_integer_attention_follows_float64(
    monkeypatch: pytest.MonkeyPatch, tokens: int, heads: int, head_dim: int
) -> None:
    rng = np.random.default_rng(tokens)
    q, k, v = rng.integers(0, 256, (3, tokens, heads * head_dim))
    quantizations = [Quantization(0.02, 100), Quantization(0.03, 140), Quantization(0.01, 7)]
    real = [(a - z.zero_point) * z.scale for a, z in zip((q, k, v), quantizations, strict=True)]
    mask = rng.integers(0, 2, tokens)
    mask[-1] = 1
    b = Builder("ids", "mask")
    names = ("query_quantization", "key_quantization", "value_quantization")
    options: dict[str, Any] = dict(zip(names, quantizations, strict=True))
    options |= {"mask": 1, "probability_quantization": Quantization(1 / 250, 3)}
    y = b.attention(b.bytes(q), b.bytes(k), b.bytes(v), heads, **options)
    got = run_all(monkeypatch, b.done(y=y), {"ids": ids(tokens), "mask": mask[None]})["y"][0]
    expected = softmax_attention(*real, heads, np.where(mask == 1, 0.0, -10000.0))
    # Each probability is off by at most half a step, and so is the value that it weighs.
    assert np.abs(got - expected).max() <= np.abs(real[2]).max() * tokens * 0.5 / 250 + 1e-5


def integer_probabilities(
    monkeypatch: pytest.MonkeyPatch, q: Array, k: Array, by: Quantization, mask_value: float, mask: Array, scale: float
) -> Array:
    """The quantized probabilities [S, S] of one head of 64 channels: those of bytes about 128, for S <= 64 tokens."""
    tokens = len(q)
    b = Builder("ids", "mask")
    y = b.attention(
        b.bytes(q),
        b.bytes(k),
        b.bytes(np.eye(tokens, 64, dtype=int)),
        1,
        mask=1,
        mask_value=mask_value,
        scale=scale,
        query_quantization=Quantization(1.0, 128),
        key_quantization=Quantization(1.0, 117),
        value_quantization=BYTES,
        probability_quantization=by,
    )
    got = run_all(monkeypatch, b.done(y=y), {"ids": ids(tokens), "mask": mask[None]})["y"][0]
    return np.asarray(np.rint(got[:, :tokens] / by.scale).astype(int) + by.zero_point)


def exact_probabilities(q: Array, k: Array, by: Quantization, bias: Array, scale: float) -> Array:
    scores = (q - 128.0) @ (k - 117.0).T * scale + bias
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True) / by.scale + by.zero_point)


@pytest.mark.parametrize("by", [Quantization(1 / 255, 0), Quantization(1 / 3000, 5)])
@pytest.mark.parametrize("mask_value", [-10000.0, -0.5, float(np.finfo(np.float32).min), -math.inf])
@pytest.mark.parametrize("hidden", [slice(0, 0), slice(0, 20), slice(7, 16), slice(30, None)])
def test_integer_probabilities_are_rounded_ones(
    monkeypatch: pytest.MonkeyPatch, hidden: slice, mask_value: float, by: Quantization
) -> None:
    rng = np.random.default_rng(7)
    for tokens in (37, 64):
        q, k = rng.integers(0, 256, (2, tokens, 64))
        mask = np.ones(tokens, int)
        mask[hidden] = 0
        got = integer_probabilities(monkeypatch, q, k, by, mask_value, mask, 2e-5)
        exact = exact_probabilities(q, k, by, np.where(mask == 1, 0.0, mask_value), 2e-5)
        assert np.abs(got - np.clip(exact, 0, 255)).max() <= 0.5 + 1e-3
        assert got.max() == 255 or by.scale > 1 / 300


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1e4])
@pytest.mark.parametrize("order", [1, -1])
def test_integer_attention_picks_the_highest_of_rising_and_falling_scores(
    monkeypatch: pytest.MonkeyPatch, order: int, scale: float
) -> None:
    """Each key's score is far above the one before or below it, up to beyond what a float32 has fractions for."""
    tokens = 64
    q = np.full((tokens, 64), 255)
    k = np.tile(np.arange(0, 256, 4).reshape(-1, 1), 64)[::order]
    by = Quantization(1 / 255, 0)
    got = integer_probabilities(monkeypatch, q, k, by, -10000.0, np.ones(tokens, int), scale)
    assert np.array_equal(got, np.tile(np.where(k[:, 0] == 252, 255, 0), (tokens, 1)))


@pytest.mark.parametrize(("mask_value", "expected"), [(float(np.finfo(np.float32).min), 8), (-math.inf, 0)])
def test_integer_attention_without_any_key(monkeypatch: pytest.MonkeyPatch, mask_value: float, expected: int) -> None:
    """The finite mask swallows every score, so that all keys have an equal share; the infinite one leaves none."""
    q, k = np.random.default_rng(1).integers(0, 256, (2, 32, 64))
    got = integer_probabilities(monkeypatch, q, k, Quantization(1 / 255, 0), mask_value, np.zeros(32, int), 1e-3)
    assert np.array_equal(got, np.full((32, 32), expected))


@pytest.mark.parametrize("mask_value", [-10000.0, float(np.finfo(np.float32).min)])
def test_fully_masked_row_is_what_a_finite_mask_makes_of_it(monkeypatch: pytest.MonkeyPatch, mask_value: float) -> None:
    rng = np.random.default_rng(3)
    v = rng.normal(size=(9, 8))
    b = Builder("ids", "mask")
    same = b.rows(np.zeros((9, 8)))
    y = b.attention(same, same, b.rows(v), 2, mask=1, mask_value=mask_value)
    got = run_all(monkeypatch, b.done(y=y), {"ids": ids(9), "mask": np.zeros((1, 9), int)})["y"][0]
    assert np.allclose(got, v.mean(axis=0), atol=1e-6)


def test_fully_masked_row_is_zero_under_an_infinite_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder("ids", "mask")
    x = b.rows(np.ones((9, 8)))
    y = b.attention(x, x, x, 2, mask=1, mask_value=-math.inf)
    got = run_all(monkeypatch, b.done(y=y), {"ids": ids(9), "mask": np.zeros((1, 9), int)})["y"]
    assert not got.any()
