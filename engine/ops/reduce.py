"""Reductions, and the operators made of them: softmax and layer normalization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.graph import Array, Shape
from engine.ops.call import Call, Operator, RuleError


def reduced_axes(call: Call) -> tuple[int, ...]:
    """The axes that a reduction runs over, counted from the front."""
    rank = len(call.shape(0))
    axes = call.axes(1)
    if not axes:
        return () if call.integer("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted({call.axis(axis, rank) for axis in axes}))


def _reduced_shape(call: Call) -> tuple[Shape, ...]:
    axes, keep = reduced_axes(call), call.integer("keepdims", 1)
    shape = call.shape(0)
    return (tuple(1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes),)


def _reduction(function: Callable[..., Any]) -> Operator:
    def evaluate(call: Call) -> tuple[Array, ...]:
        keep = bool(call.integer("keepdims", 1))
        x = call.value(0)
        return (np.asarray(function(x, axis=reduced_axes(call), keepdims=keep), dtype=x.dtype),)

    return Operator(_reduced_shape, evaluate, 1, 2)


def softmax(x: Array, axis: int = -1) -> Array:
    """exp(x - max) / sum, in the dtype of x."""
    shifted = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=axis, keepdims=True), dtype=x.dtype)


def _softmax(call: Call) -> tuple[Array, ...]:
    x = call.value(0)
    if call.opset >= 13:
        return (softmax(x, call.axis(call.integer("axis", -1), x.ndim)),)
    axis = call.axis(call.integer("axis", 1), x.ndim)
    rows = int(np.prod(x.shape[:axis]))
    return (softmax(x.reshape(rows, -1)).reshape(x.shape),)


def layer_norm(x: Array, gamma: Array, beta: Array | None, epsilon: float) -> Array:
    """Normalization over the last axis in float32: variance of the differences from the mean."""
    x = x.astype(np.float32)
    centred = x - x.mean(axis=-1, keepdims=True, dtype=np.float32)
    variance = np.mean(centred * centred, axis=-1, keepdims=True, dtype=np.float32)
    y = centred / np.sqrt(variance + np.float32(epsilon)) * gamma
    return np.asarray(y if beta is None else y + beta, dtype=np.float32)


def _layer_norm_shape(call: Call) -> tuple[Shape, ...]:
    shape = call.shape(0)
    call.shape(1)
    axis = call.axis(call.integer("axis", -1), len(shape))
    statistics = shape[:axis] + (1,) * (len(shape) - axis)
    return (shape, statistics, statistics)[: call.outputs]


def _layer_norm(call: Call) -> tuple[Array, ...]:
    x = call.value(0)
    if call.axis(call.integer("axis", -1), x.ndim) != x.ndim - 1 or call.outputs != 1:
        raise RuleError("only layer normalization over the last axis can be evaluated")
    beta = call.value(2) if call.has(2) else None
    return (layer_norm(x, call.value(1), beta, call.number("epsilon", 1e-5)),)


def _cumsum(call: Call) -> tuple[Array, ...]:
    x = call.value(0)
    axis = call.axis(int(call.value(1).reshape(())), x.ndim)
    if call.integer("reverse", 0):
        x = np.flip(x, axis)
    sums = np.cumsum(x, axis, dtype=x.dtype)
    if call.integer("exclusive", 0):
        sums = sums - x
    return (np.flip(sums, axis) if call.integer("reverse", 0) else sums,)


def _same_shape(call: Call) -> tuple[Shape, ...]:
    call.axis(call.integer("axis", -1), len(call.shape(0)))
    return (call.shape(0),)


OPERATORS: dict[str, Operator] = {
    "ReduceMean": _reduction(np.mean),
    "ReduceSum": _reduction(np.sum),
    "ReduceMax": _reduction(np.max),
    "ReduceMin": _reduction(np.min),
    "ReduceProd": _reduction(np.prod),
    "CumSum": Operator(lambda call: (call.shape(0),), _cumsum, 2, 2),
    "Softmax": Operator(_same_shape, _softmax),
    "LayerNormalization": Operator(_layer_norm_shape, _layer_norm, 2, 3),
}
