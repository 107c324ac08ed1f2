"""Integer operators, as the original exporter of sparse-quantized models wrote them, back to quantized floats.

    MatMulInteger(a, b, a_zero, b_zero) [+ int32 bias] -> Cast -> Mul(scale)

becomes a product of dequantized values, which the other passes know. The scale of the product is split: a's own,
known from the QuantizeLinear that made it, and the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.graph import Array, Graph, Node
from engine.passes.match import append, become, split_operands

_LAYOUT = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")
_SAME_SCALE = 1e-6


@dataclass(frozen=True)
class _Operand:
    """A quantized activation: its value, and the names of the scale and zero point that made it."""

    value: str
    scale_name: str
    zero_name: str
    scale: float
    zero: int


def expand_integer_products(graph: Graph) -> None:
    """MatMulInteger chains and QLinearMatMul become MatMul over DequantizeLinear."""
    for node in graph.each("Mul"):
        _expand_chain(graph, node)
    for node in graph.each("QLinearMatMul"):
        if node.domain == "" and len(node.inputs) == 8:
            a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.inputs
            left = append(graph, "DequantizeLinear", [a, a_scale, a_zero])
            right = append(graph, "DequantizeLinear", [b, b_scale, b_zero])
            product = append(graph, "MatMul", [left, right])
            become(graph, node, "QuantizeLinear", [product, y_scale, y_zero])


def _expand_chain(graph: Graph, node: Node) -> None:
    operands = split_operands(graph, node)
    cast = graph.made_by(operands[0], "Cast") if operands else None
    if operands is None or cast is None:
        return
    product, bias = _product_and_bias(graph, cast.inputs[0])
    left = _activation(graph, product.inputs[0]) if product is not None else None
    if product is None or left is None:
        return
    scale = graph.constants[operands[1]].astype(np.float32)
    a_zero = _zero(graph, product, 2)
    if product.inputs[1] in graph.constants:
        _expand_weight(graph, node, product, left, scale, bias, a_zero)
    elif bias is None and scale.size == 1 and a_zero == left.zero:
        _expand_activations(graph, node, product, left, float(scale.reshape(-1)[0]))


def _product_and_bias(graph: Graph, value: str) -> tuple[Node | None, Array | None]:
    """The MatMulInteger above `value` and the constant added to it."""
    total = graph.made_by(value, "Add")
    operands = split_operands(graph, total) if total else None
    if operands is None:
        return graph.made_by(value, "MatMulInteger"), None
    return graph.made_by(operands[0], "MatMulInteger"), graph.constants[operands[1]]


def _zero(graph: Graph, node: Node, index: int) -> int | None:
    """A scalar zero point; 0 where it is left out, None where it isn't one constant number."""
    if len(node.inputs) <= index or not node.inputs[index]:
        return 0
    number = graph.scalar(node.inputs[index])
    return None if number is None else int(number)


def _activation(graph: Graph, value: str) -> _Operand | None:
    """Where a quantized value comes from, through layout operators."""
    node = graph.producer(value)
    while node is not None and node.op_type in _LAYOUT:
        node = graph.producer(node.inputs[0])
    if node is None or node.op_type != "QuantizeLinear" or len(node.inputs) < 3:
        return None
    scale, zero = graph.scalar(node.inputs[1]), graph.scalar(node.inputs[2])
    if scale is None or zero is None:
        return None
    return _Operand(value, node.inputs[1], node.inputs[2], scale, int(zero))


def _dequantized(graph: Graph, operand: _Operand) -> str:
    return append(graph, "DequantizeLinear", [operand.value, operand.scale_name, operand.zero_name])


def _expand_weight(
    graph: Graph, node: Node, product: Node, left: _Operand, scale: Array, bias: Array | None, a_zero: int | None
) -> None:
    stored = graph.constants[product.inputs[1]]
    b_zero = _zero(graph, product, 3)
    if a_zero is None or b_zero is None or stored.ndim != 2 or scale.size not in (1, stored.shape[1]):
        return
    weight = stored.astype(np.int32) - b_zero
    if weight.min(initial=0) < -128 or weight.max(initial=0) > 127:
        graph.notes[product.key] = "the zero point moves weights out of int8"
        return
    offset = (left.zero - a_zero) * weight.sum(axis=0, dtype=np.int64) + (0 if bias is None else bias)
    weight_scale = np.asarray(scale.reshape(-1) / np.float32(left.scale), dtype=np.float32)
    if weight_scale.size == 1:
        weight_scale = weight_scale.reshape(())
    right = append(
        graph,
        "DequantizeLinear",
        [
            graph.add_constant(product.inputs[1], weight.astype(np.int8)),
            graph.add_constant(product.inputs[1], weight_scale),
        ],
        axis=1,
    )
    total = append(graph, "MatMul", [_dequantized(graph, left), right])
    real_bias = np.asarray(offset * scale.reshape(-1).astype(np.float64), dtype=np.float32).reshape(-1)
    become(graph, node, "Add", [total, graph.add_constant(node.key, real_bias)])


def _expand_activations(graph: Graph, node: Node, product: Node, left: _Operand, scale: float) -> None:
    right = _activation(graph, product.inputs[1])
    if right is None or _zero(graph, product, 3) != right.zero:
        return
    values = [_dequantized(graph, left), _dequantized(graph, right)]
    rest = scale / (left.scale * right.scale)
    if abs(rest - 1) <= _SAME_SCALE:
        become(graph, node, "MatMul", values)
    else:
        total = append(graph, "MatMul", values)
        become(graph, node, "Mul", [total, graph.add_constant(node.key, np.array(rest, np.float32))])
