"""What the rewrites have in common: looking at operands, and making nodes."""

from __future__ import annotations

import numpy as np

from engine.errors import ModelError
from engine.graph import Array, Attribute, Graph, Node
from engine.ops import infer_node


def split_operands(graph: Graph, node: Node) -> tuple[str, str] | None:
    """(variable, constant) of a commutative operator with one operand of each kind, or None."""
    if len(node.inputs) != 2:
        return None
    left, right = node.inputs
    if (graph.constant(left) is None) == (graph.constant(right) is None):
        return None
    return (right, left) if graph.constant(left) is not None else (left, right)


def with_scalar(graph: Graph, node: Node | None, op_type: str) -> tuple[str, float] | None:
    """(variable, number) where `node` is `op_type` of a variable and a constant of one element, or None."""
    operands = split_operands(graph, node) if node is not None and node.op_type == op_type else None
    if operands is None:
        return None
    number = graph.scalar(operands[1])
    return None if number is None else (operands[0], number)


def factor(graph: Graph, node: Node | None) -> tuple[str, float] | None:
    """(x, c) where `node` computes x * c as a product or a quotient, or None."""
    product = with_scalar(graph, node, "Mul")
    if product is not None or node is None or node.op_type != "Div":
        return product
    divisor = graph.scalar(node.inputs[1])
    return None if not divisor else (node.inputs[0], 1.0 / divisor)


def vector(graph: Graph, value: str, size: int) -> Array | None:
    """The constant `value` as float32 [size], spread out if it has one element; None if it doesn't fit."""
    array = graph.constant(value)
    if array is None or array.dtype.kind != "f" or array.size not in (1, size):
        return None
    if array.size > 1 and array.shape[-1] != size:
        return None
    return np.broadcast_to(array.reshape(-1).astype(np.float32), (size,))


def append(graph: Graph, op_type: str, inputs: list[str], like: str | None = None, **attributes: Attribute) -> str:
    """Adds a standard operator and returns the name of its output.

    Its shape is that of the value `like`, or follows from `inputs`, whose shapes must be known.
    """
    name = graph.new_name(inputs[0])
    node = Node(op_type, tuple(inputs), (name,), name, "", attributes)
    if like is not None:
        return graph.add(node, [shapes[like] for shapes in graph.shapes])
    values = [graph.constant(i) for i in inputs]
    found = [infer_node(node, [shapes[i] for i in inputs], values, graph.opset) for shapes in graph.shapes]
    shapes = [result[0] for result in found if result is not None]
    if len(shapes) < len(found):
        raise ModelError(f"{node.label}: its shape depends on data")
    return graph.add(node, shapes)


def become(graph: Graph, node: Node, op_type: str, inputs: list[str], **attributes: Attribute) -> Node:
    """Lets a standard operator over `inputs` make the values of `node`."""
    return graph.replace(node, Node(op_type, tuple(inputs), node.outputs, node.name, "", attributes))
