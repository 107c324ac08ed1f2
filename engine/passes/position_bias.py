"""Numbers added to attention's scores for how far a key is from its query, as MPNet and T5 do."""

from __future__ import annotations

import numpy as np

from engine.errors import ModelError
from engine.graph import Array, Graph
from engine.passes.masks import longest
from engine.probe import evaluate, feeds, influences
from engine.shapes import Probe, fix, probes_of


def find_position_bias(graph: Graph, value: str, heads: int) -> Array | None:
    """float32 [heads, 2 L - 1] where `value` is a bias that depends on no input, for up to L tokens; else None.

    The score of query q and key k gets element L - 1 + k - q of its head.
    """
    if influences(graph, value) != set():
        return None
    try:
        whole = _squared(graph, value, fix(graph, Probe(1, longest(graph))), heads)
        table = np.concatenate([whole[:, ::-1, 0], whole[:, 0, 1:]], axis=1)
        for probe in (*probes_of(graph), Probe(2, 8), Probe(1, whole.shape[1])):
            found = _squared(graph, value, fix(graph, probe), heads)
            if found.shape[1] > whole.shape[1] or not np.array_equal(found, _spread(table, found.shape[1])):
                return None
    except (ModelError, ValueError):
        return None
    return table


def _squared(graph: Graph, value: str, probe: Probe, heads: int) -> Array:
    """The bias as [heads, queries, keys]. Raises ValueError where sequences differ, or it has another shape."""
    found = evaluate(graph, value, feeds(graph, probe)).astype(np.float32, copy=False)
    full = np.broadcast_to(found, (probe.batch, heads, probe.sequence, probe.sequence))
    if (full != full[:1]).any():
        raise ValueError
    return np.asarray(full[0])


def _spread(table: Array, length: int) -> Array:
    """The bias of `length` tokens, [heads, queries, keys], from a table of at least as many."""
    places = np.arange(length)
    return np.asarray(table[:, table.shape[1] // 2 + places[None, :] - places[:, None]])
