"""Operators that move elements or tell shapes, and compute nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from engine.graph import Array, Shape
from engine.ops.call import VARIADIC, Call, Operator, RuleError, broadcast


def _reshape_shape(call: Call) -> tuple[Shape, ...]:
    source = call.shape(0)
    target = [int(v) for v in call.value(1).reshape(-1)]
    if call.integer("allowzero", 0) == 0:
        if any(v == 0 and i >= len(source) for i, v in enumerate(target)):
            raise RuleError(f"the target {target} copies a dimension that {source} lacks")
        target = [source[i] if v == 0 else v for i, v in enumerate(target)]
    if target.count(-1) > 1 or any(v < -1 for v in target):
        raise RuleError(f"the target shape {target} is impossible")
    size = math.prod(source)
    if -1 in target:
        rest = math.prod(v for v in target if v != -1)
        if rest == 0 or size % rest:
            raise RuleError(f"{source} can't take the shape {target}")
        target[target.index(-1)] = size // rest
    if math.prod(target) != size:
        raise RuleError(f"{source} can't take the shape {target}")
    return (tuple(target),)


def _transpose_perm(call: Call) -> tuple[int, ...]:
    rank = len(call.shape(0))
    perm = call.integers("perm")
    if perm is None:
        return tuple(reversed(range(rank)))
    if sorted(perm) != list(range(rank)):
        raise RuleError(f"the permutation {perm} doesn't fit {rank} dimensions")
    return perm


def _transpose_shape(call: Call) -> tuple[Shape, ...]:
    return (tuple(call.shape(0)[p] for p in _transpose_perm(call)),)


def _unsqueeze_shape(call: Call) -> tuple[Shape, ...]:
    axes = call.axes(1)
    if axes is None:
        raise RuleError("axes are missing")
    rank = len(call.shape(0)) + len(axes)
    places = {call.axis(axis, rank) for axis in axes}
    if len(places) < len(axes):
        raise RuleError(f"axes {axes} repeat")
    rest = iter(call.shape(0))
    return (tuple(1 if i in places else next(rest) for i in range(rank)),)


def _squeeze_shape(call: Call) -> tuple[Shape, ...]:
    shape = call.shape(0)
    axes = call.axes(1)
    if axes is None:
        return (tuple(dim for dim in shape if dim != 1),)
    places = {call.axis(axis, len(shape)) for axis in axes}
    if any(shape[i] != 1 for i in places):
        raise RuleError(f"axes {axes} of {shape} aren't 1")
    return (tuple(dim for i, dim in enumerate(shape) if i not in places),)


def _flatten_shape(call: Call) -> tuple[Shape, ...]:
    shape = call.shape(0)
    axis = call.integer("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    if not 0 <= axis <= len(shape):
        raise RuleError(f"axis {axis} is out of range for {len(shape)} dimensions")
    return ((math.prod(shape[:axis]), math.prod(shape[axis:])),)


def _shape_slice(call: Call) -> Shape:
    shape = call.shape(0)
    start, end = call.integer("start", 0), call.integer("end", len(shape))
    return shape[slice(start, end)]


def _expand_shape(call: Call) -> tuple[Shape, ...]:
    target = tuple(int(v) for v in call.value(1).reshape(-1))
    if any(v < 0 for v in target):
        raise RuleError(f"can't expand to {target}")
    return (broadcast(call.shape(0), target),)


def _concat_shape(call: Call) -> tuple[Shape, ...]:
    shapes = [call.shape(i) for i in range(len(call.shapes))]
    rank = len(shapes[0])
    axis = call.axis(call.integer("axis", 0), rank)
    others = {s[:axis] + s[axis + 1 :] for s in shapes}
    if len(others) != 1 or any(len(s) != rank for s in shapes):
        raise RuleError(f"shapes {shapes} can't be joined at axis {axis}")
    return ((*shapes[0][:axis], sum(s[axis] for s in shapes), *shapes[0][axis + 1 :]),)


def _split_sizes(call: Call) -> tuple[int, tuple[int, ...]]:
    shape = call.shape(0)
    axis = call.axis(call.integer("axis", 0), len(shape))
    sizes = tuple(int(v) for v in call.value(1).reshape(-1)) if call.has(1) else call.integers("split")
    if sizes is None:
        part = -(-shape[axis] // call.outputs)
        sizes = (part,) * (call.outputs - 1) + (shape[axis] - part * (call.outputs - 1),)
    if len(sizes) != call.outputs or sum(sizes) != shape[axis] or min(sizes) < 0:
        raise RuleError(f"axis {axis} of {shape} can't be split into {sizes}")
    return axis, sizes


def _split_shape(call: Call) -> tuple[Shape, ...]:
    axis, sizes = _split_sizes(call)
    shape = call.shape(0)
    return tuple((*shape[:axis], size, *shape[axis + 1 :]) for size in sizes)


def _split(call: Call) -> tuple[Array, ...]:
    axis, sizes = _split_sizes(call)
    return tuple(np.split(call.value(0), np.cumsum(sizes)[:-1], axis=axis))


def slices(call: Call) -> tuple[slice, ...]:
    """The slice of each axis that a `Slice` takes."""
    shape = call.shape(0)
    starts, ends = call.value(1).reshape(-1), call.value(2).reshape(-1)
    axes = call.value(3).reshape(-1) if call.has(3) else np.arange(len(starts))
    steps = call.value(4).reshape(-1) if call.has(4) else np.ones(len(starts), np.int64)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise RuleError("starts, ends, axes and steps don't fit each other")
    result = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = call.axis(int(axis), len(shape))
        result[place] = _clamped(int(start), int(end), int(step), shape[place])
    return tuple(result)


def _clamped(start: int, end: int, step: int, size: int) -> slice:
    start = start + size if start < 0 else start
    end = end + size if end < 0 else end
    if step > 0:
        return slice(min(max(start, 0), size), min(max(end, 0), size), step)
    stop = min(max(end, -1), size - 1)
    return slice(min(max(start, 0), size - 1), None if stop < 0 else stop, step)


def _slice_shape(call: Call) -> tuple[Shape, ...]:
    return (tuple(len(range(*s.indices(dim))) for s, dim in zip(slices(call), call.shape(0), strict=True)),)


def _tile_shape(call: Call) -> tuple[Shape, ...]:
    repeats = tuple(int(v) for v in call.value(1).reshape(-1))
    if len(repeats) != len(call.shape(0)) or any(r < 0 for r in repeats):
        raise RuleError(f"can't repeat {call.shape(0)} {repeats} times")
    return (tuple(d * r for d, r in zip(call.shape(0), repeats, strict=True)),)


def _range_shape(call: Call) -> tuple[Shape, ...]:
    start, limit, delta = (float(call.value(i).reshape(())) for i in range(3))
    if delta == 0 or not all(map(math.isfinite, (start, limit, delta))):
        raise RuleError(f"the range from {start} to {limit} by {delta} has no length")
    return ((max(math.ceil((limit - start) / delta), 0),),)


def _range(call: Call) -> tuple[Array, ...]:
    start, delta = call.value(0).reshape(()), call.value(2).reshape(())
    count = _range_shape(call)[0][0]
    return ((start + np.arange(count) * delta).astype(start.dtype),)


def _constant_of_shape(call: Call) -> tuple[Shape, ...]:
    shape = tuple(int(v) for v in call.value(0).reshape(-1))
    if any(v < 0 for v in shape):
        raise RuleError(f"can't make the shape {shape}")
    return (shape,)


def _filled(call: Call) -> tuple[Array, ...]:
    fill = call.attributes.get("value", np.zeros(1, np.float32))
    if not isinstance(fill, np.ndarray) or fill.size != 1:
        raise RuleError("attribute 'value' must be a tensor of one element")
    return (np.full(_constant_of_shape(call)[0], fill.reshape(-1)[0]),)


def _reshaped(rule: Callable[[Call], tuple[Shape, ...]], fewest: int, most: int) -> Operator:
    return Operator(rule, lambda call: (call.value(0).reshape(rule(call)[0]),), fewest, most)


OPERATORS: dict[str, Operator] = {
    "Reshape": _reshaped(_reshape_shape, 2, 2),
    "Flatten": _reshaped(_flatten_shape, 1, 1),
    "Squeeze": _reshaped(_squeeze_shape, 1, 2),
    "Unsqueeze": _reshaped(_unsqueeze_shape, 1, 2),
    "Transpose": Operator(_transpose_shape, lambda call: (call.value(0).transpose(_transpose_perm(call)),)),
    "Shape": Operator(
        lambda call: ((len(_shape_slice(call)),),),
        lambda call: (np.array(_shape_slice(call), dtype=np.int64),),
    ),
    "Size": Operator(lambda _: ((),), lambda call: (np.array(math.prod(call.shape(0)), dtype=np.int64),)),
    "Expand": Operator(_expand_shape, lambda call: (np.broadcast_to(call.value(0), _expand_shape(call)[0]),), 2, 2),
    "Concat": Operator(
        _concat_shape,
        lambda call: (np.concatenate([call.value(i) for i in range(len(call.shapes))], axis=call.integer("axis", 0)),),
        1,
        VARIADIC,
    ),
    "Split": Operator(_split_shape, _split, 1, 2),
    "Slice": Operator(_slice_shape, lambda call: (call.value(0)[slices(call)],), 3, 5),
    "Tile": Operator(_tile_shape, lambda call: (np.tile(call.value(0), call.value(1).reshape(-1)),), 2, 2),
    "Range": Operator(_range_shape, _range, 3, 3),
    "ConstantOfShape": Operator(_constant_of_shape, _filled),
}
