"""The operators that the compiler understands: a shape rule and a NumPy definition each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from engine.errors import ModelError
from engine.graph import Array, Node, Shape
from engine.ops import elementwise, gather, layout, product, quantize, reduce
from engine.ops.call import Call, Operator, RuleError, Undetermined

OPERATORS: dict[str, Operator] = {
    **elementwise.OPERATORS,
    **layout.OPERATORS,
    **gather.OPERATORS,
    **reduce.OPERATORS,
    **product.OPERATORS,
    **quantize.OPERATORS,
}
"""By operator name, of the default domain."""

MAX_ELEMENTS = 2**31
"""No value of a model may have more."""

_Result = TypeVar("_Result")


def operator(node: Node) -> Operator | None:
    """The rules of the node's operator, or None for an unknown one."""
    return OPERATORS.get(node.op_type) if node.domain == "" else None


def infer_node(
    node: Node, shapes: Sequence[Shape | None], values: Sequence[Array | None], opset: int
) -> tuple[Shape, ...] | None:
    """Shapes of the node's outputs; None where they depend on values that aren't known.

    `shapes` and `values` belong to the node's inputs. Raises ModelError naming the node where the operator
    can't be applied, or where a result would be too large.
    """
    rules = operator(node)
    if rules is None:
        return None
    if not rules.fewest <= len(shapes) <= rules.most:
        raise ModelError(f"{node.label}: has {len(shapes)} inputs, not {rules.fewest} to {rules.most}")
    call = Call(node.op_type, tuple(shapes), tuple(values), node.attributes, len(node.outputs), opset)
    try:
        result = _guarded(node, lambda: rules.shape(call))
    except Undetermined:
        return None
    for shape in result:
        if math.prod(shape) > MAX_ELEMENTS:
            raise ModelError(f"{node.label}: a result of shape {shape} is too large")
    return result


def evaluate_node(
    node: Node, values: Sequence[Array | None], opset: int, limit: int = MAX_ELEMENTS
) -> tuple[Array, ...]:
    """The node's outputs, with NumPy, of at most `limit` elements each.

    Raises ModelError naming the node where that can't be done.
    """
    rules = operator(node)
    if rules is None:
        raise ModelError(f"{node.label}: unknown operator")
    shapes = tuple(None if v is None else v.shape for v in values)
    call = Call(node.op_type, shapes, tuple(values), node.attributes, len(node.outputs), opset)
    expected = infer_node(node, shapes, values, opset) or ()
    if any(math.prod(shape) > limit for shape in expected):
        raise ModelError(f"{node.label}: a result of shape {max(expected, key=math.prod)} is too large")
    with np.errstate(all="ignore"):
        return _guarded(node, lambda: rules.evaluate(call))


def _guarded(node: Node, rule: Callable[[], _Result]) -> _Result:
    try:
        return rule()
    except RuleError as error:
        raise ModelError(f"{node.label}: {error}") from error
    except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as error:
        raise ModelError(f"{node.label}: can't be applied to its inputs ({error})") from error
