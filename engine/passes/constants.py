"""Computes what depends on constants only, and drops what changes nothing."""

from __future__ import annotations

import math

import numpy as np

from engine.graph import Graph, Node
from engine.ops import evaluate_node, operator
from engine.ops.elementwise import DTYPES
from engine.passes.quantized import float_constant, is_quantized_constant

_MAX_RESULT_ELEMENTS = 1 << 28
_MAX_CHAIN = 10_000
_FLOATS = tuple(number for number, dtype in DTYPES.items() if np.issubdtype(dtype, np.floating))
_COMPARISONS = ("And", "Equal", "Greater", "GreaterOrEqual", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor")
_QUANTIZED = ("DynamicQuantizeLinear", "MatMulInteger", "QLinearMatMul", "QuantizeLinear")
_GIVE_NO_FLOATS = (*_COMPARISONS, *_QUANTIZED, "ConstantOfShape", "Shape", "Size")


def remove_identities(graph: Graph) -> None:
    """Identity, Dropout, Expand or Tile to the shape that is there already, and casts between kinds of floats.

    All floats are computed as float32, those of a float16 model too, so that nothing is rounded between.
    """
    for node in graph.each("Identity", "Dropout", "Expand", "Tile"):
        if node.outputs[0] and not any(node.outputs[1:]) and _keeps_shape(graph, node):
            graph.substitute(node.outputs[0], node.inputs[0])
    for node in graph.each("Cast"):
        if node.integer("to", 0) in _FLOATS and _is_float(graph, node.inputs[0]):
            graph.substitute(node.outputs[0], node.inputs[0])


def _is_float(graph: Graph, value: str) -> bool:
    """True where `value` surely holds floats: most operators give what their first input has."""
    for _ in range(_MAX_CHAIN):
        node, constant = graph.producer(value), graph.constant(value)
        if node is None:
            dtypes = [i.dtype for i in graph.inputs if i.name == value] if constant is None else [constant.dtype]
            return bool(dtypes) and dtypes[0].kind == "f"
        if node.op_type in ("Cast", "DequantizeLinear"):
            return node.op_type != "Cast" or node.integer("to", 0) in _FLOATS
        is_another = value != node.outputs[0] and node.op_type != "Split"
        if operator(node) is None or node.op_type in _GIVE_NO_FLOATS or is_another:
            return False
        value = node.inputs[1 if node.op_type == "Where" else 0]
    return False


def _keeps_shape(graph: Graph, node: Node) -> bool:
    if node.op_type in ("Identity", "Dropout"):
        return True
    x, y = node.inputs[0], node.outputs[0]
    return all(x in shapes and shapes[x] == shapes.get(y) for shapes in graph.shapes)


def fold_constants(graph: Graph) -> None:
    """Replaces nodes over constants by their results; quantized weights stay quantized."""
    for node in graph.nodes:
        if _is_foldable(graph, node):
            values = [graph.constants[name] if name else None for name in node.inputs]
            outputs = evaluate_node(node, values, graph.opset)
            graph.fix(node, dict(zip(node.outputs, outputs, strict=False)))


def fold_quantized_constants(graph: Graph) -> None:
    """Dequantizes the constants that no integer operator has taken."""
    for node in graph.each("DequantizeLinear"):
        if is_quantized_constant(graph, node.key):
            graph.fix(node, {node.key: float_constant(graph, node.key)})


def _is_foldable(graph: Graph, node: Node) -> bool:
    if operator(node) is None or not all(name in graph.constants for name in node.inputs if name):
        return False
    sizes = [math.prod(shapes[o]) for shapes in graph.shapes for o in node.outputs if o in shapes]
    if not sizes or max(sizes) > _MAX_RESULT_ELEMENTS or not node.inputs:
        return False
    return node.op_type != "DequantizeLinear" or graph.constants[node.inputs[0]].ndim < 2
