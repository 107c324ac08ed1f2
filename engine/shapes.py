"""Shapes of all values, by trying two sizes.

The batch and the sequence length are free. Instead of symbolic algebra, the shape rules run with plain integers
for two choices of both (`PROBES`): a dimension that stays the same is fixed, one that follows the batch or the
sequence is that. Values that follow from shapes alone, such as the target of a reshape, are computed on the
way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.errors import ModelError, UnsupportedModelError, UnsupportedNode
from engine.graph import Array, Graph, GraphInput, Node, Shape
from engine.ops import evaluate_node, infer_node, operator

_SMALL_ELEMENTS = 1 << 16
_MAX_TOKENS = 1 << 16


@dataclass(frozen=True)
class Probe:
    """One choice of the free dimensions; a model that fixes one keeps it."""

    batch: int
    sequence: int


PROBES = (Probe(batch=3, sequence=2), Probe(batch=5, sequence=3))


def annotate(graph: Graph) -> None:
    """Sets `graph.shapes`, one mapping a probe, for all values.

    Results of unknown operators are taken to have the shape of their first input, so that the rest of the graph
    can still be judged. Raises ModelError where an operator can't be applied to its inputs, and
    UnsupportedModelError where that may be the guess's fault, or where a shape depends on data.
    """
    unknown = [node for node in graph.nodes if operator(node) is None]
    try:
        graph.shapes = tuple(infer(graph, probe) for probe in probes_of(graph))
    except ModelError as error:
        if not unknown:
            raise
        raise UnsupportedModelError([complaint(node, "unknown operator") for node in unknown]) from error
    loose = [node for node in graph.nodes if not all(o in graph.shapes[0] for o in node.outputs if o)]
    causes = [node for node in loose if all(i in graph.shapes[0] for i in node.inputs if i)]
    if causes:
        found = [complaint(node, "unknown operator") for node in unknown]
        found += [complaint(node, "the shape of its result depends on data") for node in causes if node not in unknown]
        raise UnsupportedModelError(found)


def complaint(node: Node, reason: str) -> UnsupportedNode:
    """A node with the reason why it can't be run."""
    op_type = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return UnsupportedNode(node.name or node.key, op_type, reason)


def probes_of(graph: Graph) -> tuple[Probe, Probe]:
    """The probes, with the dimensions that the model's inputs fix."""
    return fix(graph, PROBES[0]), fix(graph, PROBES[1])


def fix(graph: Graph, probe: Probe) -> Probe:
    """`probe` with the sizes that the model's inputs fix."""
    batches = {i.shape[0] for i in graph.inputs if len(i.shape) == 2} - {None}
    sequences = {i.shape[1] for i in graph.inputs if len(i.shape) == 2} - {None}
    if len(batches) > 1 or len(sequences) > 1:
        raise ModelError("the inputs of the model have fixed shapes that don't agree")
    fixed = Probe(next(iter(batches), None) or probe.batch, next(iter(sequences), None) or probe.sequence)
    if fixed.batch * fixed.sequence > _MAX_TOKENS:
        raise ModelError(f"the inputs of the model are fixed to {fixed.batch} sequences of {fixed.sequence} tokens")
    return fixed


def input_shape(entry: GraphInput, probe: Probe) -> Shape:
    """The shape of an input for one probe: the first free dimension is the batch, any other the sequence."""
    free = (probe.batch, *[probe.sequence] * len(entry.shape))
    return tuple(free[i] if dim is None else dim for i, dim in enumerate(entry.shape))


def infer(graph: Graph, probe: Probe) -> dict[str, Shape]:
    """The shapes of all values for one probe."""
    shapes = {entry.name: input_shape(entry, probe) for entry in graph.inputs}
    shapes.update((name, array.shape) for name, array in graph.constants.items())
    values: dict[str, Array] = dict(graph.constants)
    for node in graph.nodes:
        if all(name in shapes for name in node.inputs if name):
            _infer_into(node, graph.opset, shapes, values)
    return shapes


def _infer_into(node: Node, opset: int, shapes: dict[str, Shape], values: dict[str, Array]) -> None:
    if operator(node) is None:
        first = next((shapes[name] for name in node.inputs if name), ())
        shapes.update((name, first) for name in node.outputs if name)
        return
    arguments = [values.get(name) if name else None for name in node.inputs]
    result = infer_node(node, [shapes[n] if n else None for n in node.inputs], arguments, opset)
    if result is None:
        return
    if len(result) < len(node.outputs):
        raise ModelError(f"{node.label}: has {len(node.outputs)} outputs, {len(result)} expected")
    shapes.update((name, shape) for name, shape in zip(node.outputs, result, strict=False) if name)
    known = node.op_type in ("Shape", "Size") or all(n in values for n in node.inputs if n)
    known = known and node.op_type not in ("QuantizeLinear", "DequantizeLinear")  # no size follows from these
    if known and _is_small(shapes, node):
        if node.op_type in ("Shape", "Size"):
            arguments = [np.broadcast_to(np.False_, shapes[node.inputs[0]])]
        outputs = evaluate_node(node, arguments, opset)
        values.update((name, v) for name, v in zip(node.outputs, outputs, strict=False) if name)


def _is_small(shapes: Mapping[str, Shape], node: Node) -> bool:
    names = [n for n in node.outputs if n]
    if node.op_type not in ("Shape", "Size"):
        names += [n for n in node.inputs if n]
    return all(math.prod(shapes[name]) <= _SMALL_ELEMENTS for name in names)


def shape_at(graph: Graph, value: str, probe: Probe) -> Shape | None:
    """The shape of `value` for any sizes; None where a dimension is neither fixed nor the batch nor the sequence."""
    first, second = (shapes.get(value) for shapes in graph.shapes)
    if first is None or second is None or len(first) != len(second):
        return None
    p, q = probes_of(graph)
    sizes = {(p.sequence, q.sequence): probe.sequence, (p.batch, q.batch): probe.batch}
    found = [a if a == b else sizes.get((a, b)) for a, b in zip(first, second, strict=True)]
    return tuple(d for d in found if d is not None) if None not in found else None


def describe(graph: Graph, value: str) -> str:
    """The shape as people write it, such as [batch, sequence, 768]."""
    if any(value not in shapes for shapes in graph.shapes):
        return "[unknown]"
    first, second = (shapes[value] for shapes in graph.shapes)
    if len(first) != len(second):
        return "[unknown]"
    return f"[{', '.join(_dimension(pair) for pair in zip(first, second, strict=True))}]"


def _dimension(pair: tuple[int, int]) -> str:
    if pair[0] == pair[1]:
        return str(pair[0])
    names = {(p.batch, q.batch): "batch" for p, q in [PROBES]}
    names.update({(p.sequence, q.sequence): "sequence" for p, q in [PROBES]})
    return names.get(pair, "?")


def channels(graph: Graph, value: str) -> int | None:
    """The last dimension of `value` if it is fixed, else None."""
    last = {shapes[value][-1] if shapes.get(value) else None for shapes in graph.shapes}
    return last.pop() if len(last) == 1 else None


def is_tokens(graph: Graph, value: str) -> bool:
    """True where `value` is [batch, sequence, channels] with fixed channels."""
    return channels(graph, value) is not None and all(
        shapes[value][:-1] == (probe.batch, probe.sequence)
        for shapes, probe in zip(graph.shapes, probes_of(graph), strict=True)
    )


def rows(graph: Graph, value: str) -> str | None:
    """ "tokens" or "batch": what one row is where `value` is read as a matrix with rows of its last dimension."""
    if channels(graph, value) is None:
        return None
    counts = [math.prod(shapes[value][:-1]) for shapes in graph.shapes]
    probes = probes_of(graph)
    if counts == [p.batch * p.sequence for p in probes] and len(graph.shapes[0][value]) > 1:
        return "tokens"
    return "batch" if counts == [p.batch for p in probes] and len(graph.shapes[0][value]) == 2 else None


def has_same_rows(graph: Graph, *values: str) -> bool:
    """True where all `values` are matrices of as many rows and channels, even if rows are counted otherwise."""
    return rows(graph, values[0]) is not None and all(
        (rows(graph, v), channels(graph, v)) == (rows(graph, values[0]), channels(graph, values[0])) for v in values
    )
