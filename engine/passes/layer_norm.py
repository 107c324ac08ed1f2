"""Layer normalization, as one operator or as the chain of ten that earlier exporters wrote."""

from __future__ import annotations

import math

from engine.errors import ModelError
from engine.graph import Array, Graph, Node
from engine.passes.match import split_operands, vector, with_scalar
from engine.shapes import channels


def fuse_layer_norm(graph: Graph) -> None:
    """LayerNorm(x, gamma, beta){epsilon} over the last axis."""
    for node in graph.each("LayerNormalization"):
        _from_operator(graph, node)
    for node in graph.each("Add"):
        _from_chain(graph, node)


def _from_operator(graph: Graph, node: Node) -> None:
    x = node.inputs[0]
    size = channels(graph, x)
    rank = len(graph.shapes[0].get(x, ()))
    if size is None or any(node.outputs[1:]) or node.integer("axis", -1) not in (-1, rank - 1):
        graph.notes[node.key] = "only the last axis, of fixed size, can be normalized"
        return
    gamma = vector(graph, node.inputs[1], size)
    beta_name = node.inputs[2] if len(node.inputs) > 2 else ""
    if gamma is None or (beta_name and vector(graph, beta_name, size) is None):
        graph.notes[node.key] = f"scale and bias must be constants of {size} numbers"
        return
    if not _is_epsilon(node.number("epsilon", 1e-5)):
        raise ModelError(f"{node.label}: epsilon must be a finite number of at least 0")
    names = [x, node.inputs[1], beta_name] if beta_name else [x, node.inputs[1]]
    graph.redefine(node, "LayerNorm", names, epsilon=node.number("epsilon", 1e-5))


def _from_chain(graph: Graph, node: Node) -> None:
    """beta + gamma * (x - mean) / sqrt(mean((x - mean)^2) + epsilon)."""
    shifted = split_operands(graph, node)
    scaled = graph.made_by(shifted[0], "Mul") if shifted else None
    operands = split_operands(graph, scaled) if scaled else None
    quotient = graph.made_by(operands[0], "Div") if operands else None
    if shifted is None or operands is None or quotient is None:
        return
    centred = graph.made_by(quotient.inputs[0], "Sub")
    epsilon = _deviation(graph, quotient.inputs[1], quotient.inputs[0])
    if centred is None or epsilon is None or not _is_epsilon(epsilon):
        return
    if not _is_mean(graph, centred.inputs[1], centred.inputs[0]):
        return
    x = centred.inputs[0]
    size = channels(graph, x)
    if size is None or not _fit(graph, size, operands[1], shifted[1]):
        return
    graph.redefine(node, "LayerNorm", [x, operands[1], shifted[1]], epsilon=epsilon)


def _is_epsilon(number: float) -> bool:
    return math.isfinite(number) and number >= 0


def _fit(graph: Graph, size: int, *names: str) -> bool:
    arrays: list[Array | None] = [vector(graph, name, size) for name in names]
    return all(array is not None for array in arrays)


def _is_mean(graph: Graph, value: str, of: str) -> bool:
    """True where `value` is the mean of `of` over its last axis, which it keeps."""
    node = graph.made_by(value, "ReduceMean")
    if node is None or node.inputs[0] != of or node.integer("keepdims", 1) != 1:
        return False
    return all(shapes[value] == (*shapes[of][:-1], 1) for shapes in graph.shapes)


def _deviation(graph: Graph, value: str, centred: str) -> float | None:
    """The epsilon where `value` is sqrt(mean(centred^2) + epsilon), else None."""
    root = graph.made_by(value, "Sqrt")
    total = with_scalar(graph, graph.producer(root.inputs[0]), "Add") if root else None
    mean = graph.made_by(total[0], "ReduceMean") if total else None
    if total is None or mean is None or not _is_mean(graph, total[0], mean.inputs[0]):
        return None
    square = graph.producer(mean.inputs[0])
    if square is None:
        return None
    is_power = square.op_type == "Pow" and graph.scalar(square.inputs[1]) == 2.0
    is_square = is_power and square.inputs[0] == centred
    is_product = square.op_type == "Mul" and square.inputs == (centred, centred)
    return total[1] if is_square or is_product else None
