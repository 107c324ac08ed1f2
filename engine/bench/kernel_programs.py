"""Small programs that run single kernels as models run them: threads, packing and epilogue included."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

import numpy as np

from engine.cost_model import WeightType
from engine.program import (
    Activate,
    Add,
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
    Step,
    Table,
)

VOCABULARY: Final = 256
"""Rows of the table that the activations come from."""
_QUANTIZATION = Quantization(0.05, 128)


def linear(kind: WeightType, k: int, n: int, sparsity: float) -> LinearU8 | LinearF32:
    """A layer with random weights, of which 1x4 blocks (s8) or values (f32) are zero; GELU where it widens."""
    random = np.random.default_rng(k + n)
    bias = np.zeros(n, np.float32)
    activation: Literal["gelu", "none"] = "gelu" if n > k else "none"
    if kind == "f32":
        values = random.standard_normal((n, k), np.float32) * (random.random((n, k)) >= sparsity)
        return LinearF32("layer", 0, values.astype(np.float32), bias, activation, 1)
    kept = (random.random((n, k // 4)) >= sparsity).repeat(4, axis=1)
    weight = (random.integers(1, 128, (n, k)) * kept).astype(np.int8)
    scale = np.full(n, 1e-4, np.float32)
    return LinearU8("layer", 1, 128, weight, scale, bias, activation, 2, _QUANTIZATION)


def linear_program(step: LinearU8 | LinearF32) -> Program:
    """Embeds ids, quantizes where the layer wants bytes, runs the layer and gives out one column."""
    n, k = step.weight.shape
    steps: tuple[Step, ...]
    buffers: tuple[Buffer, ...]
    if isinstance(step, LinearF32):
        buffers = (Buffer("x", k, "f32"), Buffer("y", n, "f32"))
        steps = (_embed(k), step, Output("y", 1, 0))
    else:
        buffers = (Buffer("x", k, "f32"), Buffer("q", k, "u8"), Buffer("y", n, "u8"), Buffer("z", n, "f32"))
        quantize = Quantize("quantize", 0, 1, _QUANTIZATION)
        shown = Dequantize("shown", 2, 3, _QUANTIZATION)
        steps = (_embed(k), quantize, step, shown, Output("y", 3, 0))
    return Program((Input("ids"),), buffers, steps)


def other_kernels(channels: int) -> Program:
    """Every kernel that is no linear layer but those of `token_kernels`, once, on heads of 64 channels."""
    names = ("embedded", "normalised", "bytes", "attended", "attended_bytes", "dequantized", "activated", "added")
    place = {name: i for i, name in enumerate(names)}
    buffers = tuple(Buffer(name, channels, "u8" if "bytes" in name else "f32") for name in names)
    x, q = place["normalised"], place["bytes"]
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    attention = Attention("attention_f32", x, x, x, channels // 64, 64, 0.125, None, 0.0, place["attended"])
    integer_attention = replace(
        attention,
        name="attention_u8",
        query=q,
        key=q,
        value=q,
        out=place["attended_bytes"],
        query_quantization=_QUANTIZATION,
        key_quantization=_QUANTIZATION,
        value_quantization=_QUANTIZATION,
        probability_quantization=Quantization(1 / 255, 0),
        quantization=_QUANTIZATION,
    )
    steps: tuple[Step, ...] = (
        _embed(channels),
        LayerNorm("layernorm", 0, 0, ones, zeros, 1e-5, x, None, None),
        Quantize("quantize", x, q, _QUANTIZATION),
        attention,
        integer_attention,
        Dequantize("dequantize", place["attended_bytes"], place["dequantized"], _QUANTIZATION),
        Activate("activate", place["dequantized"], "gelu", place["activated"]),
        Add("add", place["activated"], place["attended"], place["added"]),
        Output("y", place["added"], 0),
    )
    return Program((Input("ids"),), buffers, steps)


def token_kernels(channels: int) -> Program:
    """The two kernels around a layer whose activations are quantized token by token; what is embedded is rescaled."""
    sizes = {"embedded": channels, "bytes": channels, "scales": 2, "rescaled": channels}
    buffers = tuple(Buffer(name, size, "u8" if name == "bytes" else "f32") for name, size in sizes.items())
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    steps: tuple[Step, ...] = (
        _embed(channels),
        QuantizeTokens("quantize_tokens", 0, 1, 2),
        Rescale("rescale", 0, 2, ones, zeros, "none", 3),
        Output("y", 3, 0),
    )
    return Program((Input("ids"),), buffers, steps)


def _embed(channels: int) -> Embed:
    table = np.random.default_rng(0).standard_normal((VOCABULARY, channels)).astype(np.float32)
    return Embed("embed", (Table(table, 0),), 0)
