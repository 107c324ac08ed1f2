"""Runs a graph or a program with NumPy, one plain line for each rule: what the C engine is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.graph import Array, Graph
from engine.ops import evaluate_node
from engine.ops.elementwise import gelu, gelu_tanh
from engine.ops.product import integer_product
from engine.ops.quantize import by_range, quantize
from engine.ops.reduce import layer_norm, softmax
from engine.program import (
    Activate,
    Activation,
    Add,
    Attention,
    BufferId,
    Counted,
    Dequantize,
    Embed,
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


def run_graph(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of a graph of standard ONNX operators. Raises ModelError naming the node that fails."""
    known: dict[str, Array] = {**graph.constants, **inputs}
    missing = [entry.name for entry in graph.inputs if entry.name not in inputs]
    if missing:
        raise InputError(f"inputs are missing: {', '.join(missing)}")
    for node in graph.nodes:
        outputs = evaluate_node(node, [known[n] if n else None for n in node.inputs], graph.opset)
        known.update((name, array) for name, array in zip(node.outputs, outputs, strict=False) if name)
    return {name: known[value] for name, value in graph.outputs.items()}


def run_program(program: Program, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """The outputs of a program for integer `inputs` [batch, sequence].

    Integer steps are exact; float32 steps round after each operation. Buffers are [batch, sequence, channels]
    or [batch, channels] here, without padding. Raises InputError for a missing input or a row number beyond
    its table.
    """
    missing = [entry.name for entry in program.inputs if entry.name not in inputs]
    if missing:
        raise InputError(f"inputs are missing: {', '.join(missing)}")
    run = _Run([np.asarray(inputs[entry.name]) for entry in program.inputs])
    for step in program.steps:
        run.step(step)
    return run.outputs


class _Run:
    def __init__(self, inputs: list[Array]) -> None:
        self.inputs = inputs
        self.buffers: dict[BufferId, Array] = {}
        self.outputs: dict[str, NDArray[np.float32]] = {}

    def step(self, step: Step) -> None:
        match step:
            case Embed():
                self.buffers[step.out] = self._embed(step)
            case LayerNorm():
                self._layer_norm(step)
            case Quantize() | QuantizeTokens() | Dequantize() | Rescale():
                self._convert(step)
            case LinearF32():
                y = self.buffers[step.input] @ step.weight.T + step.bias
                self.buffers[step.out] = activate(y, step.activation)
            case LinearU8():
                self.buffers[step.out] = self._linear_u8(step)
            case Attention():
                self.buffers[step.out] = self._attention(step)
            case Add():
                self.buffers[step.out] = self.buffers[step.left] + self.buffers[step.right]
            case Activate():
                self.buffers[step.out] = activate(self.buffers[step.input], step.activation)
            case Select():
                self.buffers[step.out] = self.buffers[step.input][:, 0]
            case Output():
                array = self.buffers[step.input]
                self.outputs[step.name] = array if step.column is None else array[..., step.column]

    def _embed(self, step: Embed) -> Array:
        total: Array | None = None
        for table in step.tables:
            row = self._rows(step.name, table)
            total = row if total is None else total + row
        if total is None:
            raise InputError(f"{step.name} has no tables")
        return total

    def _rows(self, name: str, table: Table) -> Array:
        batch, sequence = self.inputs[0].shape
        if isinstance(table.source, int):
            numbers = self.inputs[table.source] + table.offset
        elif isinstance(table.source, Counted):
            is_token = self.inputs[table.source.input] != table.offset
            numbers = np.cumsum(is_token, axis=1) * is_token + table.offset
        else:
            places = np.arange(sequence) if table.source == "position" else np.zeros(sequence, np.int64)
            numbers = np.broadcast_to(places + table.offset, (batch, sequence))
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(table.values):
            raise InputError(f"{name}: a row number is beyond the {len(table.values)} rows of its table")
        rows = table.values[numbers]
        return np.asarray(rows if rows.dtype == np.float32 else rows.astype(np.float32) * np.float32(table.scale))

    def _layer_norm(self, step: LayerNorm) -> None:
        x = self.buffers[step.input]
        x = x if step.residual is None else x + self.buffers[step.residual]
        y = layer_norm(x, step.gamma, step.beta, step.epsilon)
        if step.out is not None:
            self.buffers[step.out] = y
        if step.out_quantized is not None and step.quantization is not None:
            self.buffers[step.out_quantized] = _quantized(y, step.quantization)

    def _convert(self, step: Quantize | QuantizeTokens | Dequantize | Rescale) -> None:
        x = self.buffers[step.input]
        match step:
            case Quantize():
                self.buffers[step.out] = _quantized(x, step.quantization)
            case QuantizeTokens():
                scale, zero = by_range(x.min(axis=-1, keepdims=True), x.max(axis=-1, keepdims=True))
                self.buffers[step.out] = np.clip(np.rint(x * (np.float32(1) / scale)) + zero, 0, 255).astype(np.uint8)
                self.buffers[step.scales] = np.concatenate([scale, zero - np.float32(128)], axis=-1)
            case Dequantize():
                self.buffers[step.out] = _dequantized(x, step.quantization)
            case Rescale():
                scale, zero = np.split(self.buffers[step.scales], 2, axis=-1)
                y = (x - zero * step.offset) * scale + step.bias
                self.buffers[step.out] = activate(y, step.activation)

    def _linear_u8(self, step: LinearU8) -> Array:
        x = self.buffers[step.input].astype(np.int32) - step.zero_point
        product = integer_product(x, step.weight.T).astype(np.float32)
        y = activate(product * step.scale + step.bias, step.activation)
        if step.residual is not None:
            y = y + self.buffers[step.residual]
        return y if step.quantization is None else _quantized(y, step.quantization)

    def _attention(self, step: Attention) -> Array:
        query, key, value = (
            self.buffers[name].reshape(*self.inputs[0].shape, step.heads, step.head_dim).swapaxes(1, 2)
            for name in (step.query, step.key, step.value)
        )
        scores = _product(query, step.query_quantization, key.swapaxes(-1, -2), step.key_quantization, step.scale)
        if step.mask is not None:
            hidden = self.inputs[step.mask][:, None, None, :] == 0
            scores = scores + np.where(hidden, np.float32(step.mask_value), np.float32(0))
        if step.bias is not None:
            places = np.arange(scores.shape[-1])
            scores = scores + step.bias[:, step.bias.shape[1] // 2 + places[None, :] - places[:, None]]
        weights = softmax(scores)
        if step.probability_quantization is not None:
            weights = _quantized(weights, step.probability_quantization)
        result = _product(weights, step.probability_quantization, value, step.value_quantization, 1.0)
        merged = result.swapaxes(1, 2).reshape(*self.inputs[0].shape, step.heads * step.head_dim)
        return merged if step.quantization is None else _quantized(merged, step.quantization)


def _product(
    left: Array, left_by: Quantization | None, right: Array, right_by: Quantization | None, scale: float
) -> Array:
    """The product of two float32 arrays, or of two uint8 ones with their quantizations, times `scale`."""
    if left_by is None or right_by is None:
        return np.asarray((left @ right) * np.float32(scale), dtype=np.float32)
    exact = integer_product(left.astype(np.int32) - left_by.zero_point, right.astype(np.int32) - right_by.zero_point)
    return exact.astype(np.float32) * np.float32(left_by.scale * right_by.scale * scale)


def _quantized(x: Array, by: Quantization) -> Array:
    return quantize(x, np.array(by.scale, np.float32), np.array(by.zero_point, np.uint8))


def _dequantized(q: Array, by: Quantization) -> Array:
    return np.asarray((q.astype(np.int32) - by.zero_point).astype(np.float32) * np.float32(by.scale))


def activate(x: Array, activation: Activation) -> Array:
    """The activation of float32 `x`."""
    match activation:
        case "gelu":
            return gelu(x)
        case "gelu_tanh":
            return gelu_tanh(x)
        case "relu":
            return np.maximum(x, np.float32(0))
        case "tanh":
            return np.asarray(np.tanh(x))
        case "none":
            return x
