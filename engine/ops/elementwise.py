"""Operators that act element by element, with broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from engine.graph import Array, Shape
from engine.ops.call import VARIADIC, Call, Operator, RuleError, broadcast

DTYPES: dict[int, type[np.generic]] = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
    12: np.uint32,
    13: np.uint64,
}
"""TensorProto.DataType numbers, as `Cast` names them."""

_ERF_TERMS = 72


def erf(x: Array) -> Array:
    """The error function, computed in float64 and rounded once.

    erf(x) = 2 / sqrt(pi) exp(-x^2) sum of 2^n x^(2n+1) / (1 3 5 ... (2n+1)): all terms have the sign of x, and
    beyond |x| = 5 the function is 1 to 12 digits. (Abramowitz and Stegun, 7.1.6.)
    """
    wide = np.clip(x.astype(np.float64), -5.0, 5.0)
    square = wide * wide
    term = wide.copy()
    total = term.copy()
    for n in range(1, _ERF_TERMS):
        term *= 2.0 * square / (2 * n + 1)
        total += term
    return np.asarray(2.0 / math.sqrt(math.pi) * np.exp(-square) * total).astype(x.dtype)


def gelu(x: Array) -> Array:
    """x/2 (1 + erf(x / sqrt 2)) in float32."""
    half = np.float32(0.5)
    return np.asarray(half * x * (1 + erf(x / np.float32(math.sqrt(2)))), dtype=x.dtype)


def gelu_tanh(x: Array) -> Array:
    """x/2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), in the dtype of x."""
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return np.asarray(0.5 * x * (1 + np.tanh(inner)), dtype=x.dtype)


def _gelu(call: Call) -> tuple[Array, ...]:
    x = call.value(0)
    return (gelu(x) if call.attributes.get("approximate", "none") == "none" else gelu_tanh(x),)


def _clip(call: Call) -> tuple[Array, ...]:
    low = call.value(1) if call.has(1) else None
    high = call.value(2) if call.has(2) else None
    return (call.value(0) if low is None and high is None else np.clip(call.value(0), low, high),)


def _divide(a: Array, b: Array) -> Array:
    if np.issubdtype(a.dtype, np.floating):
        return np.asarray(a / b)
    quotient = np.abs(a) // np.abs(b)
    return np.asarray(np.sign(a) * np.sign(b) * quotient).astype(a.dtype)


def _dropout(call: Call) -> tuple[Array, ...]:
    x = call.value(0)
    return (x, np.ones(x.shape, np.bool_))[: call.outputs]


def cast_dtype(call: Call) -> np.dtype[Any]:
    """The element type that a `Cast` makes."""
    number = call.integer("to", 0)
    if number not in DTYPES:
        raise RuleError(f"casts to element type {number}")
    return np.dtype(DTYPES[number])


def _broadcast_shape(call: Call) -> tuple[Shape, ...]:
    return (broadcast(*(call.shape(i) for i in range(len(call.shapes)))),)


def _same_shape(call: Call) -> tuple[Shape, ...]:
    return (call.shape(0),)


def _unary(function: Callable[[Array], Any]) -> Operator:
    return Operator(_same_shape, lambda call: (np.asarray(function(call.value(0))),))


def _binary(function: Callable[[Array, Array], Any]) -> Operator:
    return Operator(_broadcast_shape, lambda call: (np.asarray(function(call.value(0), call.value(1))),), 2, 2)


def _many(function: Callable[[Array, Array], Any]) -> Operator:
    def evaluate(call: Call) -> tuple[Array, ...]:
        result = call.value(0)
        for index in range(1, len(call.shapes)):
            result = np.asarray(function(result, call.value(index)))
        return (result,)

    return Operator(_broadcast_shape, evaluate, 1, VARIADIC)


def _power(a: Array, b: Array) -> Array:
    return np.asarray(np.power(a, b)).astype(a.dtype)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)), dtype=x.dtype)


OPERATORS: dict[str, Operator] = {
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Div": _binary(_divide),
    "Pow": _binary(_power),
    "And": _binary(np.logical_and),
    "Or": _binary(np.logical_or),
    "Xor": _binary(np.logical_xor),
    "Equal": _binary(np.equal),
    "Greater": _binary(np.greater),
    "GreaterOrEqual": _binary(np.greater_equal),
    "Less": _binary(np.less),
    "LessOrEqual": _binary(np.less_equal),
    "Max": _many(np.maximum),
    "Min": _many(np.minimum),
    "Where": Operator(_broadcast_shape, lambda call: (np.where(call.value(0), call.value(1), call.value(2)),), 3, 3),
    "Not": _unary(np.logical_not),
    "Neg": _unary(np.negative),
    "Abs": _unary(np.abs),
    "Sqrt": _unary(np.sqrt),
    "Reciprocal": _unary(np.reciprocal),
    "Exp": _unary(np.exp),
    "IsNaN": _unary(np.isnan),
    "Erf": _unary(erf),
    "Tanh": _unary(np.tanh),
    "Relu": _unary(lambda x: np.maximum(x, 0)),
    "Sigmoid": _unary(_sigmoid),
    "Gelu": Operator(_same_shape, _gelu),
    "Clip": Operator(_same_shape, _clip, 1, 3),
    "Cast": Operator(_same_shape, lambda call: (call.value(0).astype(cast_dtype(call)),)),
    "Log": _unary(np.log),
    "Identity": _unary(lambda x: x),
    "Dropout": Operator(lambda call: (call.shape(0),) * min(call.outputs, 2), _dropout, 1, 3),
}
