"""What an operator's rules are given, and the table in which they stand.

Each operator has two rules: `shape` says the shapes of its outputs from the shapes of its inputs (and from the
values of those that are known, such as a reshape's target), `evaluate` computes it with NumPy as the ONNX
standard defines it. Rules raise `RuleError` for what the standard forbids and `Undetermined` where a value
that decides the shape isn't known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from engine.graph import Array, Attribute, Shape


class RuleError(Exception):
    """The operator can't be applied to these inputs; the caller adds the node's name."""


class Undetermined(Exception):  # noqa: N818 - not an error: the shape depends on data
    """The shape depends on a value that isn't known before the model runs."""


@dataclass(frozen=True)
class Call:
    """One application of an operator: shapes and, where known, values of its inputs (None for an absent one)."""

    op_type: str
    shapes: tuple[Shape | None, ...]
    values: tuple[Array | None, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 13

    def shape(self, index: int) -> Shape:
        """Shape of the input `index`, which must be there."""
        shape = self.shapes[index] if index < len(self.shapes) else None
        if shape is None:
            raise RuleError(f"input {index} is missing")
        return shape

    def has(self, index: int) -> bool:
        """True where the input `index` is there."""
        return index < len(self.shapes) and self.shapes[index] is not None

    def value(self, index: int) -> Array:
        """Value of the input `index`, which must be there."""
        self.shape(index)
        value = self.values[index]
        if value is None:
            raise Undetermined
        return value

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise RuleError(f"attribute {name!r} must be an integer")
        return value

    def number(self, name: str, default: float) -> float:
        """A float attribute."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int | float):
            raise RuleError(f"attribute {name!r} must be a number")
        return float(value)

    def integers(self, name: str) -> tuple[int, ...] | None:
        """A list-of-integers attribute, or None."""
        value = self.attributes.get(name)
        if value is None:
            return None
        if not isinstance(value, tuple) or not all(isinstance(v, int) for v in value):
            raise RuleError(f"attribute {name!r} must be a list of integers")
        return tuple(int(v) for v in value)

    def axis(self, value: int, rank: int) -> int:
        """A valid axis, counted from the front."""
        if not -rank <= value < rank:
            raise RuleError(f"axis {value} is out of range for {rank} dimensions")
        return value % rank

    def axes(self, index: int) -> tuple[int, ...] | None:
        """Axes as opset 13 and later give them (input `index`), or as earlier ones do (attribute `axes`)."""
        if self.has(index):
            return tuple(int(v) for v in self.value(index).reshape(-1))
        return self.integers("axes")


VARIADIC = 10_000
"""The most inputs of an operator that takes any number."""

ShapeRule = Callable[[Call], tuple[Shape, ...]]
Evaluation = Callable[[Call], tuple[Array, ...]]


@dataclass(frozen=True)
class Operator:
    """The rules of one operator, and how many inputs it takes at least and at most."""

    shape: ShapeRule
    evaluate: Evaluation
    fewest: int = 1
    most: int = 1


def broadcast(*shapes: Shape) -> Shape:
    """The shape that NumPy-style broadcasting gives."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise RuleError(f"shapes {', '.join(map(str, shapes))} don't broadcast") from error
