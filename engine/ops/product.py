"""Matrix products, and the attention made of them."""

from __future__ import annotations

import math

import numpy as np

from engine.graph import Array, Shape
from engine.ops.call import Call, Operator, RuleError, broadcast
from engine.ops.reduce import softmax


def matmul_shape(a: Shape, b: Shape) -> Shape:
    """The shape of a matrix product, as NumPy's matmul defines it."""
    if not a or not b:
        raise RuleError("a product needs matrices")
    left, right = (1, *a) if len(a) == 1 else a, (*b, 1) if len(b) == 1 else b
    if left[-1] != right[-2]:
        raise RuleError(f"{a} and {b} can't be multiplied")
    shape = (*broadcast(left[:-2], right[:-2]), left[-2], right[-1])
    if len(a) == 1:
        shape = (*shape[:-2], shape[-1])
    return shape[:-1] if len(b) == 1 else shape


def _gemm_sides(call: Call) -> tuple[Shape, Shape]:
    a, b = call.shape(0), call.shape(1)
    if len(a) != 2 or len(b) != 2:
        raise RuleError(f"{a} and {b} are no matrices")
    return (
        a[::-1] if call.integer("transA", 0) else a,
        b[::-1] if call.integer("transB", 0) else b,
    )


def _gemm(call: Call) -> tuple[Array, ...]:
    a, b = call.value(0), call.value(1)
    a = a.T if call.integer("transA", 0) else a
    b = b.T if call.integer("transB", 0) else b
    y = call.number("alpha", 1.0) * (a @ b)
    if call.has(2):
        y = y + call.number("beta", 1.0) * call.value(2)
    return (np.asarray(y, dtype=a.dtype),)


def integer_product(a: Array, b: Array) -> Array:
    """The exact product of integer matrices, as int32 (sums below 2**53 are exact in float64)."""
    return np.asarray(a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64).astype(np.int32)


def _matmul_integer(call: Call) -> tuple[Array, ...]:
    a, b = call.value(0).astype(np.int32), call.value(1).astype(np.int32)
    if call.has(2):
        zero = call.value(2).astype(np.int32)
        a = a - (zero.reshape(-1, 1) if zero.ndim == 1 and zero.size > 1 else zero)
    return (integer_product(a, b - call.value(3).astype(np.int32) if call.has(3) else b),)


def _heads(call: Call, index: int, attribute: str) -> Shape:
    """An attention input as [batch, heads, rows, head_dim], its shape."""
    shape = call.shape(index)
    if len(shape) == 4:
        return shape
    heads = call.integer(attribute, 0)
    if len(shape) != 3 or heads <= 0 or shape[2] % heads:
        raise RuleError(f"input {index} of shape {shape} can't be split into {heads} heads")
    return (shape[0], heads, shape[1], shape[2] // heads)


def _attention_shape(call: Call) -> tuple[Shape, ...]:
    if call.outputs != 1:
        raise RuleError("only the first output of an attention is known here")
    query, value = _heads(call, 0, "q_num_heads"), _heads(call, 2, "kv_num_heads")
    shape = (*query[:3], value[3])
    if len(call.shape(0)) == 4:
        return (shape,)
    return ((shape[0], shape[2], shape[1] * shape[3]),)


def _attention(call: Call) -> tuple[Array, ...]:
    if call.has(4) or call.has(5) or call.integer("is_causal", 0) or call.number("softcap", 0.0):
        raise RuleError("caches, causal masks and softcap aren't known here")
    parts = []
    for index, name in enumerate(("q_num_heads", "kv_num_heads", "kv_num_heads")):
        batch, heads, rows, width = _heads(call, index, name)
        array = call.value(index)
        split = array if array.ndim == 4 else array.reshape(batch, rows, heads, width).swapaxes(1, 2)
        parts.append(split)
    query, key, value = parts
    scale = call.number("scale", 1 / math.sqrt(query.shape[-1]))
    scores = (query @ key.swapaxes(-1, -2)) * np.float32(scale)
    if call.has(3):
        mask = call.value(3)
        scores = np.where(mask, scores, np.float32(-np.inf)) if mask.dtype == np.bool_ else scores + mask
    result = softmax(np.asarray(scores, dtype=query.dtype)) @ value
    if call.value(0).ndim == 4:
        return (result,)
    return (result.swapaxes(1, 2).reshape(_attention_shape(call)[0]),)


OPERATORS: dict[str, Operator] = {
    "MatMul": Operator(
        lambda call: (matmul_shape(call.shape(0), call.shape(1)),),
        lambda call: (np.asarray(call.value(0) @ call.value(1)),),
        2,
        2,
    ),
    "MatMulInteger": Operator(lambda call: (matmul_shape(call.shape(0), call.shape(1)),), _matmul_integer, 2, 4),
    "Gemm": Operator(
        lambda call: (matmul_shape(*_gemm_sides(call)),),
        _gemm,
        2,
        3,
    ),
    "Attention": Operator(_attention_shape, _attention, 3, 7),
}
