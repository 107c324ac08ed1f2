"""Integer operators, as the original exporter of sparse-quantized models wrote them, back to quantized floats.

    MatMulInteger(a, b, a_zero, b_zero) [+ int32 bias] -> Cast -> Mul(scale)

becomes a product of dequantized values, which the other passes know. The scale of the product is split: a's own,
known from the QuantizeLinear that made it, and the rest. Where a DynamicQuantizeLinear made it, as ONNX Runtime's
dynamic quantization writes models, the scale is a product of a's own and the weight's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.graph import FUSED, Array, Graph, Node
from engine.passes.match import append, become, split_operands
from engine.passes.quantized import quantized_matrix

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
        _expand_dynamic(graph, node)
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


def _expand_dynamic(graph: Graph, node: Node) -> None:
    """Cast(MatMulInteger(q, w)) * (s * w_scale) where q and s come from DynamicQuantizeLinear(x).

    It becomes MatMul(FakeQuantizeTokens(x), DequantizeLinear(w)): each token gets a scale of its own instead of one for
    all tokens of a batch, so that no request changes another's result. Weights that int8 can't hold less their zero
    point are read as floats, and then x is, too.
    """
    for value, scales in (node.inputs, node.inputs[::-1]):
        cast = graph.made_by(value, "Cast")
        product = graph.made_by(cast.inputs[0], "MatMulInteger") if cast is not None else None
        dynamic = graph.made_by(product.inputs[0], "DynamicQuantizeLinear") if product is not None else None
        if product is None or dynamic is None or product.inputs[2:3] != dynamic.outputs[2:3]:
            continue
        weight_scale = _other_factor(graph, scales, dynamic.outputs[1])
        weight, zero = product.inputs[1], product.inputs[3] if len(product.inputs) > 3 else ""
        if weight_scale is None or weight not in graph.constants or (zero and zero not in graph.constants):
            continue
        names = [weight, graph.add_constant(scales, weight_scale), *([zero] if zero else [])]
        right = append(graph, "DequantizeLinear", names, axis=1)
        left = dynamic.inputs[0]
        if quantized_matrix(graph, right) is not None:
            named = graph.new_name(left)
            fake = Node("FakeQuantizeTokens", (left,), (named,), dynamic.name, FUSED, {})
            left = graph.add(fake, [shapes[left] for shapes in graph.shapes])
        become(graph, node, "MatMul", [left, right])
        return


def _other_factor(graph: Graph, product: str, scale: str) -> Array | None:
    """The constant c where `product` is scale * c, or scale itself; one number or one a column."""
    if product == scale:
        return np.ones((), np.float32)
    made = graph.made_by(product, "Mul")
    if made is None or scale not in made.inputs:
        return None
    array = graph.constant(made.inputs[1 if made.inputs[0] == scale else 0])
    if array is None or array.dtype.kind != "f" or array.ndim > 1:
        return None
    return array.astype(np.float32)


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
