"""The picture of sparsity by layer, from a version's report.json, which may hold anything.

The trainer's form: {"sparsity": {"encoder.layer.0.query.weight": {"target": 0.8, "sparsity": 0.8, ...}, ...}}
"""

from __future__ import annotations

import json
from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field, ValidationError

MAX_REPORT_BYTES = 1 << 19
MAX_LAYERS = 512
WIDTH, HEIGHT, LEFT, BOTTOM = 720, 220, 78, 14

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Facts(BaseModel):
    target: Fraction | None = None
    sparsity: Fraction


class _Report(BaseModel):
    sparsity: Annotated[dict[Annotated[str, Field(max_length=200)], _Facts], Field(min_length=1, max_length=MAX_LAYERS)]


class Layer(NamedTuple):
    """One layer's sparsity: what was asked for, and what was reached."""

    name: str
    target: float | None
    achieved: float


class Bar(NamedTuple):
    """A layer's bar in the picture, in its units; `target_y` is None without a target."""

    x: float
    y: float
    width: float
    height: float
    target_y: float | None
    layer: Layer


class Chart(NamedTuple):
    """A picture of `width` x `height`, its bars, and its lines at 0, 25, 50, 75 and 100 percent (label, y)."""

    width: int
    height: int
    left: int
    bars: list[Bar]
    lines: list[tuple[str, float]]


def read_chart(data: bytes) -> Chart | None:
    """The picture of a report, or None if the report has no layers in the form above."""
    try:
        report = _Report.model_validate(json.loads(data))
    except (ValidationError, ValueError, RecursionError):
        return None
    layers = [Layer(name, facts.target, facts.sparsity) for name, facts in report.sparsity.items()]
    pitch = (WIDTH - LEFT) / len(layers)
    width = round(min(max(pitch * 0.72, 0.6), 40), 2)
    bars = [_bar(LEFT + pitch * (index + 0.5) - width / 2, width, layer) for index, layer in enumerate(layers)]
    lines = [(f"{percent} %", _y(percent / 100)) for percent in (0, 25, 50, 75, 100)]
    return Chart(WIDTH, HEIGHT, LEFT, bars, lines)


def _bar(x: float, width: float, layer: Layer) -> Bar:
    y = _y(layer.achieved)
    target_y = None if layer.target is None else _y(layer.target)
    return Bar(round(x, 2), y, width, round(_y(0) - y, 2), target_y, layer)


def _y(fraction: float) -> float:
    return round(BOTTOM + (HEIGHT - 2 * BOTTOM) * (1 - fraction), 2)
