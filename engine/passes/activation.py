"""Activations: GELU in its spellings, and the choice to compute an activation inside the linear before it."""

from __future__ import annotations

import numpy as np

from engine.graph import Graph, Node
from engine.ops.elementwise import gelu, gelu_tanh
from engine.probe import evaluate
from engine.shapes import has_same_rows

_FORMS = {"gelu": gelu, "gelu_tanh": gelu_tanh}
_SAMPLES = np.linspace(-8, 8, 513, dtype=np.float32)
_TOLERANCE = 5e-5
"""Of a number's rounding in the file; the two forms of GELU differ by up to 4.7e-4."""
_SCALAR_OPERATORS = ("Add", "Cast", "Div", "Erf", "Mul", "Pow", "Sub", "Tanh")
_MOST_NODES = 16


def fuse_activations(graph: Graph) -> None:
    """Activate(x){activation} for Gelu, Relu and Tanh, and for GELU in smaller operators: by erf or by tanh."""
    for node in graph.each("Mul", "Div"):
        found = _spelled_out(graph, node)
        if found is not None:
            graph.redefine(node, "Activate", [found[0]], activation=found[1])
    for node in graph.each("Gelu", "Relu", "Tanh"):
        if node.domain == "":
            form = "gelu" if node.text("approximate", "none") == "none" else "gelu_tanh"
            graph.redefine(
                node, "Activate", node.inputs[:1], activation=form if node.op_type == "Gelu" else node.op_type.lower()
            )


def _spelled_out(graph: Graph, node: Node) -> tuple[str, str] | None:
    """(x, form) where `node` is a form of GELU of the value x.

    Exporters order its factors and spell its powers in many ways, so what is made of x and numbers alone is found
    first, and then what it computes.
    """
    for x in _factors(graph, node):
        names = _between(graph, node, x)
        if names is not None and names & {"Erf", "Tanh"}:
            found = evaluate(graph, node.key, {x: _SAMPLES})
            for form, function in _FORMS.items():
                if np.allclose(found, function(_SAMPLES), rtol=0, atol=_TOLERANCE):
                    return x, form
    return None


def _factors(graph: Graph, node: Node) -> list[str]:
    """The values of which `node` is a product, those that two multiplications lie between included."""
    level, found = [node], []
    for _ in range(3):
        names = [name for n in level for name in n.inputs if graph.constant(name) is None]
        found += names
        level = [made for name in names if (made := graph.made_by(name, "Mul", "Div")) is not None]
    return found


def _between(graph: Graph, node: Node, x: str) -> set[str] | None:
    """The operators that make `node` of x and of numbers alone; None where it is made of something else too."""
    operators, pending, count = set(), [node.key], 0
    while pending:
        value = pending.pop()
        made = graph.producer(value)
        if value == x or graph.scalar(value) is not None:
            continue
        count += 1
        if made is None or made.op_type not in _SCALAR_OPERATORS or made.domain or count > _MOST_NODES:
            return None
        operators.add(made.op_type)
        pending.extend(made.inputs)
    return operators


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
