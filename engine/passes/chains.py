"""Chains that only move or pick elements, recognised by what they do to numbered elements.

Exporters spell "the same tensor again", "the first token" and "one channel" in many ways. The chain is followed
up to where it starts, and run over elements numbered from 0, for both probes; what comes out tells what it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engine.errors import ModelError
from engine.graph import Array, Graph, Node
from engine.ops import evaluate_node
from engine.probe import evaluate, feeds, influences
from engine.shapes import channels, has_same_rows, is_tokens, probes_of, rows

LAYOUT = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")
_PICKS = (*LAYOUT, "Gather", "Slice", "Split")
_MAX_CHAIN = 16


@dataclass(frozen=True)
class Chain:
    """Operators from `source` to a value, first one first; `ends` names the value after each."""

    source: str
    nodes: tuple[Node, ...]
    ends: tuple[str, ...]


def follow(graph: Graph, value: str) -> Chain:
    """The chain above `value`, up to where it starts."""
    nodes: list[Node] = []
    ends: list[str] = []
    while len(nodes) < _MAX_CHAIN:
        node = graph.producer(value)
        if node is None or node.op_type not in _PICKS or node.domain:
            break
        nodes.append(node)
        ends.append(value)
        value = node.inputs[0]
    return Chain(value, tuple(reversed(nodes)), tuple(reversed(ends)))


def run(graph: Graph, chain: Chain, numbered: Array, probe: int) -> Array | None:
    """What the chain makes of `numbered`, of the source's shape; None where that depends on data."""
    array = numbered
    for node, end in zip(chain.nodes, chain.ends, strict=True):
        if node.op_type in ("Reshape", "Squeeze", "Unsqueeze", "Flatten"):
            array = array.reshape(graph.shapes[probe][end])
            continue
        arguments = [array, *[_argument(graph, name, probe) for name in node.inputs[1:]]]
        if any(a is None for a, name in zip(arguments, node.inputs, strict=True) if name):
            return None
        try:
            array = evaluate_node(node, arguments, graph.opset)[node.outputs.index(end)]
        except ModelError:
            return None
    return array


def _argument(graph: Graph, name: str, probe: int) -> Array | None:
    if not name or name in graph.constants:
        return graph.constants.get(name)
    if influences(graph, name) != set():
        return None
    return evaluate(graph, name, feeds(graph, probes_of(graph)[probe]))


def numbered(graph: Graph, value: str, probe: int) -> Array:
    """0, 1, 2 ... in the shape of `value`."""
    shape = graph.shapes[probe][value]
    return np.arange(math.prod(shape)).reshape(shape)


def recognise_chains(graph: Graph) -> None:
    """Drops chains that come back to where they started; makes Select and Column of those that pick."""
    for node in graph.nodes:
        if node.op_type not in _PICKS or node.domain:
            continue
        for end in node.outputs:
            if end and end in graph.shapes[0] and graph.producer(node.key) is node:
                _recognise(graph, node, end)


def _recognise(graph: Graph, node: Node, end: str) -> None:
    chain = follow(graph, end)
    if rows(graph, chain.source) is None or graph.producer(chain.source) is None:
        return
    pairs = []
    for probe in range(len(graph.shapes)):
        before = numbered(graph, chain.source, probe)
        after = run(graph, chain, before, probe)
        if after is None or after.shape != graph.shapes[probe][end]:
            return
        pairs.append((before, after))
    if _is_same_matrix(graph, chain.source, end, pairs):
        if is_tokens(graph, end):
            for shapes in graph.shapes:
                shapes[chain.source] = shapes[end]
        graph.substitute(end, chain.source)
    elif len(node.outputs) == 1:
        _pick(graph, node, chain.source, pairs)


def _is_same_matrix(graph: Graph, source: str, end: str, pairs: list[tuple[Array, Array]]) -> bool:
    """True where `end` has the numbers of `source` in the same rows, even if rows are counted otherwise.

    Where they are, tokens end up counted as [batch, sequence], so the caller must not see the other value.
    """
    if graph.shapes[0][source] != graph.shapes[0][end] and (
        graph.is_output(source if is_tokens(graph, end) else end) or not has_same_rows(graph, source, end)
    ):
        return False
    return all(np.array_equal(before.reshape(-1), after.reshape(-1)) for before, after in pairs)


def _pick(graph: Graph, node: Node, source: str, pairs: list[tuple[Array, Array]]) -> None:
    if is_tokens(graph, source) and all(np.array_equal(b[:, 0, :], a) for b, a in pairs):
        graph.redefine(node, "Select", [source])
        return
    size = channels(graph, source) or 0
    first = pairs[0][1].reshape(-1)
    column = int(first[0]) % size if first.size and size else 0
    if all(np.array_equal(b[..., column], a) for b, a in pairs):
        graph.redefine(node, "Column", [source], column=column)
