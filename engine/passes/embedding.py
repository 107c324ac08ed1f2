"""Embeddings: a sum of rows gathered from constant tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.graph import Array, Graph, Node
from engine.passes.quantized import float_constant, quantized_matrix
from engine.probe import Rows, row_numbers
from engine.shapes import is_tokens, probes_of

MAX_TABLES = 4


@dataclass(frozen=True)
class _Leaf:
    table: str
    rows: Rows


def fuse_embeddings(graph: Graph) -> None:
    """Embed(table, ...){scales, kinds, sources, offsets}: the sum of one row of each table, a token.

    `kinds`, `sources` and `offsets` hold the `Rows` of each table. A table is a float32 constant, or an int8 one times
    its scale.
    """
    for node in reversed(graph.nodes):
        if node.op_type not in ("Add", "Gather") or node.domain or graph.producer(node.key) is not node:
            continue
        if any(reader.op_type == "Add" and _leaves(graph, reader) for reader in graph.consumers(node.key)):
            continue
        leaves = _leaves(graph, node) if is_tokens(graph, node.key) else None
        if leaves and any(leaf.rows.kind == "input" for leaf in leaves):
            stored = [_stored(graph, leaf.table) for leaf in leaves]
            graph.redefine(
                node,
                "Embed",
                [name for name, _ in stored],
                scales=tuple(scale for _, scale in stored),
                kinds=tuple(leaf.rows.kind for leaf in leaves),
                sources=tuple(leaf.rows.source for leaf in leaves),
                offsets=tuple(leaf.rows.offset for leaf in leaves),
            )


def _stored(graph: Graph, table: str) -> tuple[str, float]:
    """The constant that holds a table, and its scale (1.0 for a float one)."""
    constant = graph.constant(table)
    if constant is not None:
        return graph.add_constant(table, constant.astype(np.float32, copy=False)), 1.0
    matrix = quantized_matrix(graph, table, transposed=True)
    if matrix is not None and (matrix.scale == matrix.scale[0]).all():
        return graph.add_constant(table, matrix.values), float(matrix.scale[0])
    return graph.add_constant(table, float_constant(graph, table)), 1.0


def _leaves(graph: Graph, root: Node) -> list[_Leaf] | None:
    """The tables under a tree of sums, the deeper side first; None if anything else is summed."""
    values, pending = [], [root.key]
    while pending:
        value = pending.pop()
        node = graph.producer(value)
        if node is not None and node.op_type == "Add" and not node.domain:
            left, right = node.inputs
            deeper = graph.made_by(right, "Add") is not None
            pending.extend((left, right) if deeper else (right, left))
        else:
            values.append(value)
        if len(values) + len(pending) > MAX_TABLES:
            return None
    leaves = [_leaf(graph, value, root.key) for value in values]
    return [leaf for leaf in leaves if leaf is not None] if None not in leaves else None


def _leaf(graph: Graph, value: str, total: str) -> _Leaf | None:
    constant = graph.constant(value)
    if constant is not None:
        return _constant_leaf(graph, value, constant, total)
    node = graph.producer(value)
    if node is None or node.op_type != "Gather" or node.integer("axis", 0) != 0:
        return None
    table, indices = node.inputs
    shape = table_shape(graph, table)
    cast = graph.made_by(indices, "Cast")
    indices = cast.inputs[0] if cast is not None else indices
    if shape is None or len(shape) != 2:
        return None
    if any(i.name == indices and i.dtype.kind == "i" and len(i.shape) == 2 for i in graph.inputs):
        return _Leaf(table, Rows("input", indices))
    found = row_numbers(graph, indices)
    if found is None or not 0 <= found.offset < shape[0]:
        return None
    return _Leaf(table, found)


def _constant_leaf(graph: Graph, value: str, constant: Array, total: str) -> _Leaf | None:
    """A constant [(1,) sequence, channels] of a model with a fixed sequence, or [(1, 1,) channels]."""
    size = graph.shapes[0][total][-1]
    rows = constant.reshape(-1, constant.shape[-1]) if constant.ndim else constant.reshape(1, 1)
    lengths = {probe.sequence for probe in probes_of(graph)}
    if rows.shape[1] != size or (constant.ndim == 3 and constant.shape[0] != 1) or constant.ndim > 3:
        return None
    if rows.shape[0] == 1:
        return _Leaf(graph.add_constant(value, rows.astype(np.float32)), Rows("constant"))
    if lengths != {rows.shape[0]}:
        return None
    return _Leaf(graph.add_constant(value, rows.astype(np.float32)), Rows("position"))


def table_shape(graph: Graph, table: str) -> tuple[int, ...] | None:
    """The shape of a constant table, or of the one behind a DequantizeLinear; None if it is neither."""
    node = graph.made_by(table, "DequantizeLinear")
    array = graph.constant(node.inputs[0] if node is not None else table)
    return None if array is None else array.shape
