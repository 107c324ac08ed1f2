"""Linear layers: a product with a constant matrix, and the bias added to it."""

from __future__ import annotations

import numpy as np

from engine.graph import Array, Graph, Node
from engine.passes.match import split_operands, vector
from engine.passes.quantized import QuantizedMatrix, float_constant, is_quantized_constant, quantized_matrix
from engine.program import MAX_PRODUCTS
from engine.shapes import channels


def fuse_linears(graph: Graph) -> None:
    """Linear(x, W[N, K], bias[N]){activation}, or LinearInteger(x, W[N, K] int8, scale[N], bias[N]).

    The integer form needs x to be a FakeQuantize or FakeQuantizeTokens, and W int8 with a scale for the tensor or each
    output channel; its `scale` is the weight's alone. Other quantized weights are dequantized, as are those with more
    than `MAX_PRODUCTS` columns.
    """
    for node in graph.each("MatMul"):
        if node.domain == "":
            _fuse(graph, node, transposed=False, alpha=1.0)
    for node in graph.each("Gemm"):
        if not node.integer("transA", 0):
            transposed = bool(node.integer("transB", 0))
            _fuse_gemm(graph, node, transposed)
    for node in graph.each("Add"):
        _absorb_bias(graph, node)


def _fuse_gemm(graph: Graph, node: Node, transposed: bool) -> None:
    size = channels(graph, node.key)
    bias_name = node.inputs[2] if len(node.inputs) > 2 else ""
    bias = vector(graph, bias_name, size) if bias_name and size is not None else None
    if bias_name and bias is None:
        graph.notes[node.key] = "the bias must be a constant with one number a column"
        return
    scaled = None if bias is None else bias * np.float32(node.number("beta", 1.0))
    _fuse(graph, node, transposed, node.number("alpha", 1.0), scaled)


def _fuse(graph: Graph, node: Node, transposed: bool, alpha: float, bias: Array | None = None) -> None:
    x, right = node.inputs[:2]
    integer = quantized_matrix(graph, right, transposed)
    quantized = graph.made_by(x, "FakeQuantize", "FakeQuantizeTokens")
    if integer is not None and quantized is not None and integer.values.shape[1] <= MAX_PRODUCTS:
        _redefine_integer(graph, node, integer, alpha, bias)
        return
    if quantized is not None and quantized.op_type == "FakeQuantizeTokens":
        x = quantized.inputs[0]
    weight = _float_matrix(graph, right)
    if weight is None:
        return
    matrix = weight if transposed else weight.T
    matrix = matrix if alpha == 1.0 else matrix * np.float32(alpha)
    names = [
        x,
        graph.add_constant(right, matrix),
        graph.add_constant(node.key, _bias(bias, matrix.shape[0])),
    ]
    graph.redefine(node, "Linear", names, activation="none")


def _redefine_integer(graph: Graph, node: Node, matrix: QuantizedMatrix, alpha: float, bias: Array | None) -> None:
    scale = matrix.scale if alpha == 1.0 else matrix.scale * np.float32(alpha)
    names = [
        node.inputs[0],
        graph.add_constant(node.inputs[1], matrix.values),
        graph.add_constant(node.inputs[1], scale),
        graph.add_constant(node.key, _bias(bias, matrix.values.shape[0])),
    ]
    graph.redefine(node, "LinearInteger", names, activation="none")


def _float_matrix(graph: Graph, value: str) -> Array | None:
    array = graph.constant(value)
    if array is None and is_quantized_constant(graph, value):
        array = float_constant(graph, value)
    if array is None or array.ndim != 2 or array.dtype.kind != "f":
        return None
    return array.astype(np.float32, copy=False)


def _bias(bias: Array | None, size: int) -> Array:
    return np.zeros(size, np.float32) if bias is None else np.asarray(bias, dtype=np.float32)


def _absorb_bias(graph: Graph, node: Node) -> None:
    """Adds a constant vector to the bias of the linear before it."""
    operands = split_operands(graph, node)
    linear = graph.made_by(operands[0], "Linear", "LinearInteger") if operands else None
    size = channels(graph, node.key)
    if operands is None or linear is None or size is None:
        return
    extra = vector(graph, operands[1], size)
    if extra is None or graph.shapes[0][linear.key] != graph.shapes[0][node.key]:
        return
    bias = graph.constants[linear.inputs[-1]] + extra
    names = [*linear.inputs[:-1], graph.add_constant(operands[1], bias)]
    graph.redefine(node, linear.op_type, names, **linear.attributes)
