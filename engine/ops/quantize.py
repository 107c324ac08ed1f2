"""Quantization as the ONNX standard defines it: real = (q - zero_point) * scale."""

from __future__ import annotations

import numpy as np

from engine.graph import Array, Shape
from engine.ops.call import Call, Operator, RuleError
from engine.ops.product import integer_product, matmul_shape

_DTYPES = (np.uint8, np.int8)


def _along(call: Call, parameter: Array, shape: Shape) -> Array:
    """A scale or zero point, shaped so that it broadcasts over `shape`."""
    if parameter.size == 1:
        return np.asarray(parameter.reshape(()))
    axis = call.axis(call.integer("axis", 1), len(shape))
    if parameter.ndim != 1 or parameter.size != shape[axis]:
        raise RuleError(f"{parameter.shape} parameters don't fit axis {axis} of {shape}")
    return np.asarray(parameter.reshape([-1 if i == axis else 1 for i in range(len(shape))]))


def quantize(x: Array, scale: Array, zero_point: Array) -> Array:
    """clamp(rint(x / scale) + zero_point), ties to even, in the zero point's dtype."""
    limits = np.iinfo(zero_point.dtype)
    rounded = np.rint(x / scale) + zero_point.astype(np.float32)
    return np.asarray(np.clip(rounded, limits.min, limits.max)).astype(zero_point.dtype)


def _quantize(call: Call) -> tuple[Array, ...]:
    x, scale = call.value(0), call.value(1)
    zero = call.value(2) if call.has(2) else np.zeros(scale.shape, np.uint8)
    if zero.dtype not in _DTYPES:
        raise RuleError(f"quantizes to {zero.dtype.name}")
    return (quantize(x, _along(call, scale, x.shape), _along(call, zero, x.shape)),)


def by_range(low: Array, high: Array) -> tuple[Array, Array]:
    """The scale and zero point (both float32) by which bytes span [low, high] and zero: DynamicQuantizeLinear's."""
    low, high = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
    scale = (high - low) / np.float32(255)
    scale = np.where(scale < np.finfo(np.float32).tiny, np.float32(1), scale)
    return scale, np.rint(-low / scale)


def _dynamic_quantize(call: Call) -> tuple[Array, ...]:
    x = call.value(0)
    scale, zero = (np.asarray(v) for v in by_range(x.min(initial=0), x.max(initial=0)))
    zero = zero.astype(np.uint8)
    return quantize(x, scale, zero), scale, zero


def _dequantize(call: Call) -> tuple[Array, ...]:
    q, scale = call.value(0), call.value(1)
    if not np.issubdtype(q.dtype, np.integer):
        raise RuleError(f"dequantizes {q.dtype.name}")
    real = q.astype(np.int32)
    if call.has(2):
        real = real - _along(call, call.value(2).astype(np.int32), q.shape)
    return ((real * _along(call, scale, q.shape)).astype(scale.dtype),)


def _qlinear_matmul(call: Call) -> tuple[Array, ...]:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (call.value(i) for i in range(8))
    product = integer_product(a.astype(np.int32) - a_zero, b.astype(np.int32) - b_zero)
    return (quantize(product * (a_scale * b_scale), y_scale, y_zero),)


OPERATORS: dict[str, Operator] = {
    "DynamicQuantizeLinear": Operator(lambda call: (call.shape(0), (), ()), _dynamic_quantize),
    "QuantizeLinear": Operator(lambda call: (call.shape(0),), _quantize, 2, 3),
    "DequantizeLinear": Operator(lambda call: (call.shape(0),), _dequantize, 2, 3),
    "QLinearMatMul": Operator(lambda call: (matmul_shape(call.shape(0), call.shape(3)),), _qlinear_matmul, 8, 8),
}
