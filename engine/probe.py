"""Finds out what a part of a graph computes by running it.

The ways in which exporters spell a mask or a row of positions are endless, but the value depends on little: on
shapes, and on one input. `influences` says on which inputs' values a value depends, so that the rest follows
from evaluating it for several sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.errors import ModelError
from engine.graph import Array, Graph, Node
from engine.ops import evaluate_node, operator
from engine.shapes import PROBES, Probe, fix, input_shape, probes_of, shape_at

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
    """Computes `value` from the model's inputs. Raises ModelError where an operator can't be applied.

    A value of which only the shape is asked for isn't computed: it may be made by a node that isn't ONNX's.
    """
    known: dict[str, Array] = {**graph.constants, **feeds}
    blanks = _Blanks(graph, feeds)
    for node in _needed(graph, value, known, blanks):
        blank = blanks.read_by(node)
        arguments = [known[n] if n else None for n in node.inputs] if blank is None else [blank]
        outputs = evaluate_node(node, arguments, graph.opset, _MAX_ELEMENTS)
        known.update((name, array) for name, array in zip(node.outputs, outputs, strict=False) if name)
    return known[value]


class _Blanks:
    """Arrays that have the shapes of values, without their elements, for the sizes of `feeds`."""

    def __init__(self, graph: Graph, feeds: Mapping[str, Array]) -> None:
        self._graph = graph
        self._probe = next((Probe(*array.shape) for array in feeds.values() if array.ndim == 2), None)

    def read_by(self, node: Node) -> Array | None:
        """What `node` may read instead of its input, if it only asks for the shape and that is known."""
        if node.op_type not in _SHAPE_ONLY or self._probe is None:
            return None
        shape = shape_at(self._graph, node.inputs[0], self._probe)
        return None if shape is None else np.broadcast_to(np.False_, shape)


def _needed(graph: Graph, value: str, known: Mapping[str, Array], blanks: _Blanks) -> list[Node]:
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
            inputs = node.inputs if blanks.read_by(node) is None else ()
            pending.extend((n, False) for n in reversed(inputs) if n)
    return order


def feeds(graph: Graph, probe: Probe, **given: Array) -> dict[str, Array]:
    """Zeros for every input, of the probe's sizes, but for those that are given."""
    fixed = fix(graph, probe)
    zeros = {i.name: np.zeros(input_shape(i, fixed), i.dtype) for i in graph.inputs}
    return {**zeros, **given}


@dataclass(frozen=True)
class Rows:
    """Where an embedding's row numbers come from.

    kind: "input" (the input `source` holds them), "position" (the token's place plus `offset`), "constant" (`offset`
    for all tokens), or "counted" (tokens of the input `source` are counted from `offset` + 1, and those whose id is
    `offset`, which are padding, take that row).
    """

    kind: Literal["input", "position", "constant", "counted"]
    source: str = ""
    offset: int = 0


def row_numbers(graph: Graph, value: str) -> Rows | None:
    """How `value`, indices for an embedding, is made from shapes or by counting tokens; None for any other way."""
    number = _uniform(graph, value)
    if number is not None:
        return Rows("constant", offset=number)
    names = influences(graph, value)
    if names:
        return _counted(graph, value, names.pop()) if len(names) == 1 else None
    if names is None:
        return None
    answers = {_row_kind(graph, value, fix(graph, probe)) for probe in probes_of(graph)}
    if len(answers) != 1:
        return None
    answer = answers.pop()
    larger = [fix(graph, probe) for probe in _LARGER_PROBES]
    return answer if all(_row_kind(graph, value, p) in (answer, None) for p in larger) else None


_LARGER_PROBES = (Probe(1, 8), Probe(2, 17), Probe(1, 300))
"""A table of positions may be too short for these."""
_MOVING = ("Expand", "Gather", "GatherElements", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


def _uniform(graph: Graph, value: str) -> int | None:
    """The integer that all elements of `value` are, whatever the inputs hold; None where that can't be told."""
    node = graph.producer(value)
    while node is not None and node.op_type in _MOVING and not node.domain:
        value = node.inputs[0]
        node = graph.producer(value)
    array = graph.constant(value)
    if array is None or array.dtype.kind != "i" or not array.size or (array != array.flat[0]).any():
        return None
    return int(array.flat[0])


def _row_kind(graph: Graph, value: str, probe: Probe) -> Rows | None:
    try:
        found = evaluate(graph, value, feeds(graph, probe))
    except ModelError:
        return None
    if found.ndim == 0 or found.shape[-1] not in (1, probe.sequence) or found.size == 0:
        return None
    first = int(found.reshape(-1)[0])
    if (found == first).all() and probe.sequence > 1:
        return Rows("constant", offset=first)
    places = np.arange(first, first + probe.sequence)
    if found.shape[-1] == probe.sequence and (found == places).all():
        return Rows("position", offset=first)
    return None


def _counted(graph: Graph, value: str, name: str) -> Rows | None:
    """Rows that count the tokens of the input `name`, as RoBERTa's `create_position_ids_from_input_ids` does."""
    probes = [fix(graph, probe) for probe in (*PROBES, *_LARGER_PROBES)]
    entry = next(i for i in graph.inputs if i.name == name)
    if entry.dtype.kind != "i" or len(entry.shape) != 2:
        return None
    try:
        padding = _padding(evaluate(graph, value, feeds(graph, probes[0])))
        if padding < 0:
            return None
        for seed, probe in enumerate(probes):
            ids = _some_padded(np.random.default_rng(seed), probe, padding).astype(entry.dtype)
            is_token = ids != padding
            expected = np.cumsum(is_token, axis=1) * is_token + padding
            if not np.array_equal(evaluate(graph, value, feeds(graph, probe, **{name: ids})), expected):
                return None
    except ModelError:
        return None
    return Rows("counted", name, padding)


def _padding(of_zeros: Array) -> int:
    """The id of padding, from the rows that tokens 0 get: all its own where that is padding, else the next, counted."""
    return 0 if (of_zeros == 0).all() else int(of_zeros.flat[0]) - 1


def _some_padded(random: np.random.Generator, probe: Probe, padding: int) -> Array:
    shape = (probe.batch, probe.sequence)
    return np.where(random.random(shape) < 0.3, padding, random.integers(0, padding + 5, shape))
