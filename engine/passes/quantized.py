"""Quantized values: fake quantization of activations, and constants that stay int8."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import ModelError
from engine.graph import Array, Graph, Node
from engine.ops import evaluate_node
from engine.passes.match import append, become

_LAYOUT = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")
_MAX_CHAIN = 16


@dataclass(frozen=True)
class QuantizedMatrix:
    """A constant int8 matrix `[N, K]`, real = values * scale, `scale` float32 [N]."""

    values: NDArray[np.int8]
    scale: NDArray[np.float32]


def pair_quantization(graph: Graph) -> None:
    """DequantizeLinear(QuantizeLinear(x)) becomes FakeQuantize(x){scale, zero_point}, for uint8.

    Layout operators between the two are moved behind them. int8 becomes uint8 with a zero point 128 higher,
    which is the same rounding and the same clamping.
    """
    for node in graph.each("DequantizeLinear"):
        chain = _chain_to_quantize(graph, node)
        if chain is None:
            continue
        quantize, layouts = chain
        parameters = activation_parameters(graph, quantize)
        if parameters is None or activation_parameters(graph, node) != parameters:
            graph.notes[node.key] = "activations need one scale and zero point, the same on both sides"
            continue
        value = quantize.inputs[0]
        for layout in reversed(layouts):
            value = move(graph, layout, value)
        graph.redefine(node, "FakeQuantize", [value], scale=parameters[0], zero_point=parameters[1])


def sink_quantization(graph: Graph) -> None:
    """Layout(FakeQuantize(x)) becomes FakeQuantize(Layout(x)), so that layouts meet and cancel."""
    for node in graph.nodes:
        if node.op_type not in _LAYOUT or node.domain:
            continue
        fake = graph.made_by(node.inputs[0], "FakeQuantize")
        if fake is not None:
            value = move(graph, node, fake.inputs[0])
            graph.redefine(node, "FakeQuantize", [value], **fake.attributes)


def move(graph: Graph, layout: Node, value: str) -> str:
    """Applies a copy of the layout operator to `value`, of the shape of its own first input."""
    names = [value, *layout.inputs[1:]]
    return append(graph, layout.op_type, names, layout.key, **layout.attributes)


def _chain_to_quantize(graph: Graph, node: Node) -> tuple[Node, list[Node]] | None:
    """The QuantizeLinear above `node`, and the layout operators between, nearest first."""
    layouts: list[Node] = []
    above = graph.producer(node.inputs[0])
    while above is not None and above.op_type in _LAYOUT and len(layouts) < _MAX_CHAIN:
        layouts.append(above)
        above = graph.producer(above.inputs[0])
    return (above, layouts) if above is not None and above.op_type == "QuantizeLinear" else None


def activation_parameters(graph: Graph, node: Node) -> tuple[float, int] | None:
    """(scale, zero point as of uint8) of a per-tensor QuantizeLinear or DequantizeLinear, else None."""
    scale = graph.scalar(node.inputs[1])
    named = node.inputs[2] if len(node.inputs) > 2 else ""
    zero = graph.constant(named)
    if scale is None or (named and zero is None):
        return None
    if zero is None:
        signed = node.integer("output_dtype", 2) == 3
        return scale, 128 if signed else 0
    if zero.size != 1 or zero.dtype not in (np.uint8, np.int8):
        return None
    return scale, int(zero.reshape(-1)[0]) + (128 if zero.dtype == np.int8 else 0)


def normalize_quantized_constants(graph: Graph) -> None:
    """Moves Transpose and Gather of a quantized constant, so that it is dequantized right where it is stored."""
    for node in graph.each("Transpose"):
        inner = graph.made_by(node.inputs[0], "DequantizeLinear")
        if inner is not None and inner.inputs[0] in graph.constants:
            _transpose_constant(graph, node, inner)
    for node in graph.each("DequantizeLinear"):
        inner = graph.made_by(node.inputs[0], "Gather")
        if inner is not None and inner.inputs[0] in graph.constants:
            _gather_dequantized(graph, node, inner)


def _transpose_constant(graph: Graph, node: Node, inner: Node) -> None:
    array = graph.constants[inner.inputs[0]]
    perm = node.attributes.get("perm", tuple(reversed(range(array.ndim))))
    if not isinstance(perm, tuple) or sorted(perm) != list(range(array.ndim)):
        raise ModelError(f"{node.label}: the permutation {perm} doesn't fit {array.ndim} dimensions")
    moved = graph.add_constant(inner.inputs[0], array.transpose([int(p) for p in perm]))
    axis = inner.integer("axis", 1) % max(array.ndim, 1)
    become(graph, node, "DequantizeLinear", [moved, *inner.inputs[1:]], axis=perm.index(axis))


def _gather_dequantized(graph: Graph, node: Node, inner: Node) -> None:
    scale = graph.scalar(node.inputs[1])
    if scale is None or inner.integer("axis", 0) != 0:
        return
    table = append(graph, "DequantizeLinear", [inner.inputs[0], *node.inputs[1:]])
    become(graph, node, "Gather", [table, inner.inputs[1]], axis=0)


def quantized_matrix(graph: Graph, value: str, transposed: bool = False) -> QuantizedMatrix | None:
    """The int8 matrix behind a DequantizeLinear of a constant [K, N] ([N, K] where `transposed`), or None.

    None too where the scale varies along K, or where the zero point moves a weight out of int8.
    """
    node = graph.made_by(value, "DequantizeLinear")
    array = graph.constant(node.inputs[0]) if node is not None else None
    if node is None or array is None or array.ndim != 2 or array.dtype not in (np.int8, np.uint8):
        return None
    output_axis = 0 if transposed else 1
    scale, zero = graph.constant(node.inputs[1]), _zero_point(graph, node)
    if scale is None or zero is None:
        return None
    if max(scale.size, zero.size) > 1 and node.integer("axis", 1) % 2 != output_axis:
        return None
    columns = array.T if transposed else array
    spread = np.broadcast_to(scale.reshape(-1).astype(np.float32), columns.shape[1:])
    if array.dtype == np.int8 and not zero.any():
        return QuantizedMatrix(columns.T, spread)
    real = columns.astype(np.int16) - zero.astype(np.int16)
    if real.min(initial=0) < -128 or real.max(initial=0) > 127:
        return None
    return QuantizedMatrix(real.T.astype(np.int8), spread)


def is_quantized_constant(graph: Graph, value: str) -> bool:
    """True where `value` is a DequantizeLinear of constants."""
    node = graph.made_by(value, "DequantizeLinear")
    return node is not None and all(name in graph.constants for name in node.inputs if name)


def float_constant(graph: Graph, value: str) -> Array:
    """The float32 numbers of a quantized constant."""
    node = graph.producer(value)
    if node is None:
        raise ModelError(f"{value!r} is no quantized constant")
    inputs = [graph.constant(name) if name else None for name in node.inputs]
    return evaluate_node(node, inputs, graph.opset)[0].astype(np.float32, copy=False)


def _zero_point(graph: Graph, node: Node) -> Array | None:
    if len(node.inputs) < 3 or not node.inputs[2]:
        return np.zeros(1, np.int8)
    zero = graph.constant(node.inputs[2])
    return None if zero is None else zero.reshape(-1)
