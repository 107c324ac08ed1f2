"""Padding masks, recognised by evaluating the part of the graph that builds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from engine.errors import ModelError
from engine.graph import Array, Graph, Shape
from engine.probe import evaluate, feeds, influences
from engine.shapes import Probe, fix, probes_of

LOWEST = float(np.finfo(np.float32).min)
_LONGEST = 1024
"""Windows of attention are narrower than this in the models that have them; a mask of queries x keys is squared."""


@dataclass(frozen=True)
class Mask:
    """`value` is added to the scores of the tokens for which the input named `input` is 0."""

    input: str | None
    value: float


def find_mask(
    graph: Graph, value: str, scores: Shape, replaced: float | None = None, inverted: bool = False
) -> Mask | None:
    """The mask that `value` is for scores of shape `scores` (of the first probe), or None if it is none.

    `value` is added to the scores if it is a float, and keeps those that are true if it is a bool. With
    `replaced`, that number takes the place of the scores where `value` is false (true where `inverted`).
    An infinite mask value becomes the lowest float32: a sequence of padding alone then attends evenly,
    where the model would give NaN or 0.
    """
    names = influences(graph, value)
    if names is None or len(names) > 1:
        return None
    name = next(iter(names), None)
    if name is not None and not _is_token_mask(graph, name):
        return None
    found: set[float] = set()
    for probe in (*probes_of(graph), Probe(2, 8), Probe(1, longest(graph))):
        size = fix(graph, probe)
        for mask in _masks(size):
            try:
                array = evaluate(graph, value, _feeds(graph, size, name, mask))
                numbers = _added(array, replaced, inverted)
                found.add(_masked_value(numbers, mask, name, scores[1]))
            except (ModelError, ValueError):
                return None
    found.discard(0.0)
    if not found:
        return Mask(None, 0.0)
    return Mask(name, max(found.pop(), LOWEST)) if len(found) == 1 and name is not None else None


def _is_token_mask(graph: Graph, name: str) -> bool:
    return any(i.name == name and i.dtype.kind == "i" and len(i.shape) == 2 for i in graph.inputs)


def longest(graph: Graph) -> int:
    """The tokens that the position tables allow, up to `_LONGEST`: a mask may hide what is further away than some."""
    sizes = [_LONGEST]
    for node in graph.each("Embed"):
        kinds = cast("tuple[str, ...]", node.attributes["kinds"])
        offsets = cast("tuple[int, ...]", node.attributes["offsets"])
        for name, kind, offset in zip(node.inputs, kinds, offsets, strict=True):
            if kind in ("position", "counted"):
                sizes.append(len(graph.constants[name]) - offset - (kind == "counted"))
    return min(sizes)


def _masks(probe: Probe) -> list[Array]:
    """Masks of every kind but one: no sequence is all padding, for what comes of that isn't defined."""
    shape = (probe.batch, probe.sequence)
    random = np.random.default_rng(7).integers(0, 2, shape)
    random[:, 0] = 1
    last, first = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    last[:, -1] = 1
    first[:, 0] = 1
    return [np.ones(shape, np.int64), random, first, last]


def _feeds(graph: Graph, probe: Probe, name: str | None, mask: Array) -> dict[str, Array]:
    if name is None:
        return feeds(graph, probe)
    dtype = next(i.dtype for i in graph.inputs if i.name == name)
    return feeds(graph, probe, **{name: mask.astype(dtype)})


def _added(array: Array, replaced: float | None, inverted: bool) -> Array:
    if array.dtype != np.bool_:
        if replaced is not None:
            raise ValueError
        return array.astype(np.float64)
    keep = ~array if inverted else array
    return np.where(keep, 0.0, float("-inf") if replaced is None else replaced)


def _masked_value(numbers: Array, mask: Array, name: str | None, heads: int) -> float:
    """The number for masked tokens (0.0 where none is masked). Raises ValueError for any other pattern."""
    batch, length = mask.shape
    full = np.broadcast_to(numbers, (batch, heads, length, length))
    hidden = mask == 0
    value = 0.0
    if name is not None and hidden.any():
        sequence, token = np.argwhere(hidden)[0]
        value = float(full[sequence, 0, 0, token])
        if value >= 0:
            raise ValueError
    if np.any(numbers != np.where(hidden, value, 0.0)[:, None, None, :]):
        raise ValueError
    return value
