"""Activations: GELU in its spellings, and the choice to compute an activation inside the linear before it."""

from __future__ import annotations

import math

from engine.graph import Graph, Node
from engine.passes.match import factor, with_scalar
from engine.shapes import has_same_rows

_TOLERANCE = 1e-4


def fuse_activations(graph: Graph) -> None:
    """Activate(x){activation} for Gelu, Relu and Tanh, and for the erf form of GELU."""
    for node in graph.each("Gelu", "Relu", "Tanh"):
        if node.op_type == "Gelu" and node.text("approximate", "none") != "none":
            graph.notes[node.key] = "only the exact GELU can be run, not its tanh approximation"
        elif node.domain == "":
            graph.redefine(node, "Activate", node.inputs[:1], activation=node.op_type.lower())
    for node in graph.each("Mul"):
        x = _gelu_input(graph, node)
        if x is not None:
            graph.redefine(node, "Activate", [x], activation="gelu")


def _gelu_input(graph: Graph, node: Node) -> str | None:
    """x where `node` is 0.5 * x * (1 + erf(x / sqrt 2)), the three factors in any order."""
    factors, number = _factors(graph, node)
    if len(factors) != 2 or not math.isclose(number, 0.5, rel_tol=_TOLERANCE):
        return None
    for x, gate in (factors, factors[::-1]):
        shifted = with_scalar(graph, graph.producer(gate), "Add")
        erf = graph.made_by(shifted[0], "Erf") if shifted and shifted[1] == 1.0 else None
        inner = factor(graph, graph.producer(erf.inputs[0])) if erf else None
        if inner and inner[0] == x and math.isclose(inner[1], math.sqrt(0.5), rel_tol=_TOLERANCE):
            return x
    return None


def _factors(graph: Graph, node: Node) -> tuple[list[str], float]:
    """The variable factors of a product of at most three, and the product of the constant ones."""
    names: list[str] = []
    number = 1.0
    pending = [(name, 0) for name in node.inputs]
    while pending:
        name, depth = pending.pop()
        scalar = graph.scalar(name)
        inner = graph.made_by(name, "Mul")
        if scalar is not None:
            number *= scalar
        elif inner is not None and depth < 1 and len(graph.consumers(name)) == 1:
            pending.extend((n, depth + 1) for n in inner.inputs)
        else:
            names.append(name)
    return names, number


def absorb_activations(graph: Graph) -> None:
    """Activate(Linear(x)) becomes Linear(x){activation} where nobody else reads the linear's result."""
    for node in graph.each("Activate"):
        linear = graph.made_by(node.inputs[0], "Linear", "LinearInteger")
        if linear is None or linear.text("activation") != "none" or not _only_reader(graph, node):
            continue
        attributes = {**linear.attributes, "activation": node.attributes["activation"]}
        graph.redefine(node, linear.op_type, linear.inputs, **attributes)


def absorb_residuals(graph: Graph) -> None:
    """LayerNorm(a + b) becomes LayerNorm(a, residual b) where nobody else reads the sum."""
    for node in graph.each("LayerNorm"):
        total = graph.made_by(node.inputs[0], "Add")
        if total is None or "residual" in node.attributes or not _only_reader(graph, node):
            continue
        if has_same_rows(graph, total.key, *total.inputs) and not any(n in graph.constants for n in total.inputs):
            names = [total.inputs[0], *node.inputs[1:], total.inputs[1]]
            graph.redefine(node, "LayerNorm", names, epsilon=node.number("epsilon"), residual=1)


def _only_reader(graph: Graph, node: Node) -> bool:
    value = node.inputs[0]
    return len(graph.consumers(value)) == 1 and not graph.is_output(value)
