"""Small programs, and what NumPy says that they compute (float64, and int64 for the integer steps)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.program import (
    Attention,
    Buffer,
    Dequantize,
    Embed,
    Input,
    LayerNorm,
    LinearF32,
    LinearU8,
    Output,
    Program,
    Quantization,
    Quantize,
    QuantizeTokens,
    Rescale,
    Select,
    Step,
    Table,
)

Array = NDArray[Any]
BYTES = Quantization(1.0, 0)
"""Keeps whole numbers from 0 to 255 as they are."""


class Builder:
    """Collects buffers and steps; every method returns the buffer that its step writes."""

    def __init__(self, *inputs: str) -> None:
        self.inputs = tuple(Input(name) for name in inputs)
        self.buffers: list[Buffer] = []
        self.steps: list[Step] = []

    def buffer(self, channels: int, dtype: Any = "f32", rows: Any = "tokens") -> int:
        self.buffers.append(Buffer(f"b{len(self.buffers)}", channels, dtype, rows))
        return len(self.buffers) - 1

    def embed(self, *tables: Table) -> int:
        out = self.buffer(tables[0].values.shape[1])
        self.steps.append(Embed("embed", tables, out))
        return out

    def rows(self, values: Array) -> int:
        """A buffer whose token t holds values[input 0 at t]."""
        return self.embed(Table(np.asarray(values, np.float32), 0))

    def quantize(self, source: int, quantization: Quantization = BYTES) -> int:
        out = self.buffer(self.buffers[source].channels, "u8")
        self.steps.append(Quantize("quantize", source, out, quantization))
        return out

    def dequantize(self, source: int, quantization: Quantization) -> int:
        out = self.buffer(self.buffers[source].channels, "f32", self.buffers[source].rows)
        self.steps.append(Dequantize("dequantize", source, out, quantization))
        return out

    def bytes(self, values: Array) -> int:
        return self.quantize(self.rows(values))

    def linear_u8(
        self,
        source: int,
        weight: Array,
        zero_point: int = 0,
        scale: Array | None = None,
        bias: Array | None = None,
        activation: Any = "none",
        quantization: Quantization | None = None,
        residual: int | None = None,
    ) -> int:
        n = len(weight)
        out = self.buffer(n, "u8" if quantization else "f32", self.buffers[source].rows)
        self.steps.append(
            LinearU8(
                "linear",
                source,
                zero_point,
                weight.astype(np.int8),
                np.ones(n, np.float32) if scale is None else scale.astype(np.float32),
                np.zeros(n, np.float32) if bias is None else bias.astype(np.float32),
                activation,
                out,
                quantization,
                residual=residual,
            )
        )
        return out

    def linear_of_tokens(self, source: int, weight: Array, scale: Array, bias: Array) -> int:
        """A linear layer that quantizes its activations token by token."""
        kind = self.buffers[source].rows
        q, scales = self.buffer(self.buffers[source].channels, "u8", kind), self.buffer(2, "f32", kind)
        self.steps.append(QuantizeTokens("tokens", source, q, scales))
        product, out = self.linear_u8(q, weight, 128, scale), self.buffer(len(weight), "f32", kind)
        offset = (weight.sum(axis=1) * scale).astype(np.float32)
        self.steps.append(Rescale("rescale", product, scales, offset, bias.astype(np.float32), "none", out))
        return out

    def linear_f32(self, source: int, weight: Array, bias: Array, activation: Any = "none") -> int:
        out = self.buffer(len(weight), "f32", self.buffers[source].rows)
        step = LinearF32("linear", source, weight.astype(np.float32), bias.astype(np.float32), activation, out)
        self.steps.append(step)
        return out

    def layernorm(
        self, source: int, residual: int | None, gamma: Array, beta: Array, quantization: Quantization
    ) -> tuple[int, int]:
        channels = self.buffers[source].channels
        out, quantized = self.buffer(channels), self.buffer(channels, "u8")
        norm = LayerNorm("norm", source, residual, gamma, beta, 1e-5, out, quantized, quantization)
        self.steps.append(norm)
        return out, quantized

    def attention(self, q: int, k: int, v: int, heads: int, **options: Any) -> int:
        channels = self.buffers[q].channels
        out = self.buffer(channels, "u8" if options.get("quantization") else "f32")
        head_dim = channels // heads
        options = {"scale": head_dim**-0.5, "mask": None, "mask_value": -10000.0} | options
        self.steps.append(Attention("attention", q, k, v, heads, head_dim, out=out, **options))
        return out

    def select(self, source: int) -> int:
        out = self.buffer(self.buffers[source].channels, "f32", "batch")
        self.steps.append(Select("select", source, out))
        return out

    def done(self, **outputs: int | tuple[int, int]) -> Program:
        for name, source in outputs.items():
            buffer, column = source if isinstance(source, tuple) else (source, None)
            self.steps.append(Output(name, buffer, column))
        return Program(self.inputs, tuple(self.buffers), tuple(self.steps))


def sparsify(rng: np.random.Generator, weight: Array, sparsity: float) -> Array:
    """The weight with about that fraction of its 1x4 blocks zeroed."""
    blocks = rng.random((len(weight), -(-weight.shape[1] // 4))) < sparsity
    return np.where(np.repeat(blocks, 4, axis=1)[:, : weight.shape[1]], 0, weight)


def softmax_attention(q: Array, k: Array, v: Array, heads: int, bias: Array) -> Array:
    """softmax(q k^T / sqrt(D) + bias) v in float64; q, k, v [S, heads * D], bias [S] by key or [S, S]."""
    parts = []
    for qh, kh, vh in zip(*(np.split(a.astype(np.float64), heads, axis=1) for a in (q, k, v)), strict=True):
        scores = qh @ kh.T / np.sqrt(qh.shape[1]) + bias
        exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
        parts.append(exponentials / exponentials.sum(axis=1, keepdims=True) @ vh)
    return np.concatenate(parts, axis=1)


def tiny_bert(layers: int = 1, channels: int = 16, sparsity: float = 0.8, seed: int = 0) -> Program:
    """An integer BERT with two heads over the inputs `ids` (below 50) and `mask`; 64 positions."""
    rng = np.random.default_rng(seed)

    def real(*shape: int) -> Array:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    def weight(n: int, k: int) -> Array:
        return sparsify(rng, rng.integers(-127, 128, (n, k)), sparsity)

    q = Quantization(0.03, 128)
    b = Builder("ids", "mask")
    x = b.embed(
        Table(real(50, channels), 0), Table(real(2, channels), "constant"), Table(real(64, channels), "position")
    )
    h, hq = b.layernorm(x, None, real(channels) + 1, real(channels), q)
    for _ in range(layers):
        scale = np.full(channels, 3e-4)
        parts = [b.linear_u8(hq, weight(channels, channels), 128, scale, real(channels), "none", q) for _ in "qkv"]
        context = b.attention(
            *parts,
            2,
            mask=1,
            query_quantization=q,
            key_quantization=q,
            value_quantization=q,
            probability_quantization=Quantization(1 / 255, 0),
            quantization=q,
        )
        out = b.linear_u8(context, weight(channels, channels), 128, scale, real(channels))
        h, hq = b.layernorm(out, h, real(channels) + 1, real(channels), q)
        wide = b.linear_u8(
            hq, weight(4 * channels, channels), 128, np.full(4 * channels, 3e-4), real(4 * channels), "gelu", q
        )
        out = b.linear_u8(wide, weight(channels, 4 * channels), 128, scale, real(channels))
        h, hq = b.layernorm(out, h, real(channels) + 1, real(channels), q)
    head = b.linear_of_tokens(h, weight(2, channels), np.full(2, 3e-4), real(2))
    few = np.where(rng.random((3, channels)) < sparsity, 0, real(3, channels))
    pooled = b.linear_f32(b.select(b.dequantize(hq, q)), few, real(3), "tanh")
    return b.done(start=(head, 0), end=(head, 1), hidden=h, pooled=pooled)
