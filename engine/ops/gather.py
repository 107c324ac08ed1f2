"""Operators that pick elements by computed indices."""

from __future__ import annotations

import numpy as np

from engine.graph import Array, Shape
from engine.ops.call import Call, Operator, RuleError


def _axis(call: Call) -> int:
    return call.axis(call.integer("axis", 0), len(call.shape(0)))


def _indices(call: Call, size: int) -> Array:
    """Indices counted from the front; raises RuleError for one beyond `size`."""
    indices = call.value(1)
    if not np.issubdtype(indices.dtype, np.integer):
        raise RuleError("indices must be integers")
    if indices.size and not -size <= int(indices.min()) <= int(indices.max()) < size:
        raise RuleError(f"an index from {indices.min()} to {indices.max()} is beyond {size} entries")
    return np.asarray(np.where(indices < 0, indices + size, indices))


def _gather_shape(call: Call) -> tuple[Shape, ...]:
    data, axis = call.shape(0), _axis(call)
    return (data[:axis] + call.shape(1) + data[axis + 1 :],)


def _gather(call: Call) -> tuple[Array, ...]:
    axis = _axis(call)
    return (np.take(call.value(0), _indices(call, call.shape(0)[axis]), axis=axis),)


def _gather_elements(call: Call) -> tuple[Array, ...]:
    axis = _axis(call)
    indices = _indices(call, call.shape(0)[axis])
    return (np.take_along_axis(call.value(0), indices, axis=axis),)


def _gather_nd_shape(call: Call) -> tuple[Shape, ...]:
    data, indices, batch = call.shape(0), call.shape(1), call.integer("batch_dims", 0)
    if not indices or not 0 <= batch < min(len(data), len(indices)) or data[:batch] != indices[:batch]:
        raise RuleError(f"{batch} batch dimensions don't fit {data} and {indices}")
    if indices[-1] > len(data) - batch:
        raise RuleError(f"indices of {indices[-1]} numbers don't fit {data}")
    return (indices[:-1] + data[batch + indices[-1] :],)


def _gather_nd(call: Call) -> tuple[Array, ...]:
    (shape,) = _gather_nd_shape(call)
    data, batch = call.value(0), call.integer("batch_dims", 0)
    indices = call.value(1)
    width = indices.shape[-1]
    limits = np.array(data.shape[batch : batch + width])
    if ((indices < -limits) | (indices >= limits)).any():
        raise RuleError(f"an index is beyond the shape {data.shape}")
    indices = np.where(indices < 0, indices + limits, indices)
    rows = data.reshape(-1, *data.shape[batch:])
    picks = indices.reshape(rows.shape[0], -1, width)
    picked = [row[tuple(pick.T)] for row, pick in zip(rows, picks, strict=True)]
    return (np.array(picked).reshape(shape),)


OPERATORS: dict[str, Operator] = {
    "Gather": Operator(_gather_shape, _gather, 2, 2),
    "GatherElements": Operator(lambda call: (call.shape(1),), _gather_elements, 2, 2),
    "GatherND": Operator(_gather_nd_shape, _gather_nd, 2, 2),
}
