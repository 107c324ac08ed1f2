"""Finds out what a part of a graph computes by running it.

The ways in which exporters spell a mask or a row of positions are endless, but the value depends on little: on
shapes, and on one input. `influences` says on which inputs' values a value depends, so that the rest follows
from evaluating it for several sizes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.errors import ModelError
from engine.graph import Array, Graph, Node
from engine.ops import evaluate_node, operator
from engine.shapes import Probe, fix, input_shape, probes_of

_SHAPE_ONLY = ("Shape", "Size")
_MAX_NODES = 1000
_MAX_ELEMENTS = 1 << 26


def influences(graph: Graph, value: str) -> set[str] | None:
    """Names of the inputs whose values (not only shapes) decide `value`; None where that can't be evaluated."""
    inputs = {entry.name for entry in graph.inputs}
    found: set[str] = set()
    seen: set[str] = set()
    pending = [value]
    while pending:
        name = pending.pop()
        if name in seen or not name:
            continue
        seen.add(name)
        node = graph.producer(name)
        if name in inputs:
            found.add(name)
        elif node is not None:
            if operator(node) is None or len(seen) > _MAX_NODES:
                return None
            pending.extend(() if node.op_type in _SHAPE_ONLY else node.inputs)
    return found


def evaluate(graph: Graph, value: str, feeds: Mapping[str, Array]) -> Array:
    """Computes `value` from the model's inputs. Raises ModelError where an operator can't be applied."""
    known: dict[str, Array] = {**graph.constants, **feeds}
    for node in _needed(graph, value, known):
        outputs = evaluate_node(node, [known[n] if n else None for n in node.inputs], graph.opset, _MAX_ELEMENTS)
        known.update((name, array) for name, array in zip(node.outputs, outputs, strict=False) if name)
    return known[value]


def _needed(graph: Graph, value: str, known: Mapping[str, Array]) -> list[Node]:
    """The nodes that make `value`, in the order in which they can run."""
    order: list[Node] = []
    done: set[str] = set()
    pending = [(value, False)]
    while pending:
        name, ready = pending.pop()
        node = graph.producer(name)
        if name in known or node is None or node.key in done:
            continue
        if ready:
            done.add(node.key)
            order.append(node)
        else:
            pending.append((name, True))
            pending.extend((n, False) for n in reversed(node.inputs) if n)
    return order


def feeds(graph: Graph, probe: Probe, **given: Array) -> dict[str, Array]:
    """Zeros for every input, of the probe's sizes, but for those that are given."""
    fixed = fix(graph, probe)
    zeros = {i.name: np.zeros(input_shape(i, fixed), i.dtype) for i in graph.inputs}
    return {**zeros, **given}


def row_numbers(graph: Graph, value: str) -> tuple[str, int] | None:
    """How `value`, indices for an embedding, is made from shapes alone: ("position" or "constant", offset).

    None where it is neither the token's place plus an offset nor one number for all tokens.
    """
    if influences(graph, value) != set():
        return None
    answers = {_row_kind(graph, value, fix(graph, probe)) for probe in probes_of(graph)}
    if len(answers) != 1:
        return None
    answer = answers.pop()
    larger = [fix(graph, probe) for probe in _LARGER_PROBES]
    return answer if all(_row_kind(graph, value, p) in (answer, None) for p in larger) else None


_LARGER_PROBES = (Probe(1, 8), Probe(2, 17), Probe(1, 300))
"""A table of positions may be too short for these."""


def _row_kind(graph: Graph, value: str, probe: Probe) -> tuple[str, int] | None:
    try:
        found = evaluate(graph, value, feeds(graph, probe))
    except ModelError:
        return None
    if found.ndim == 0 or found.shape[-1] not in (1, probe.sequence) or found.size == 0:
        return None
    first = int(found.reshape(-1)[0])
    if (found == first).all() and probe.sequence > 1:
        return "constant", first
    places = np.arange(first, first + probe.sequence)
    if found.shape[-1] == probe.sequence and (found == places).all():
        return "position", first
    return None
