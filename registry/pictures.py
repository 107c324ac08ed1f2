"""Pictures as numbers: where a page's SVG draws what. Units are those of the picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from registry.family import Member
from zoo.schedule import ScheduleRow

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 72, 34, 14, 34


class Tick(NamedTuple):
    """A line across the picture, and what it says."""

    at: float
    label: str


class Dot(NamedTuple):
    """A point with its number in the legend."""

    x: float
    y: float
    number: int
    member: Member


class Scatter(NamedTuple):
    """Latency, left is faster, against F1, up is better."""

    dots: list[Dot]
    x_ticks: list[Tick]
    y_ticks: list[Tick]


class Band(NamedTuple):
    """A stretch of the schedule in which something is in force."""

    x: float
    width: float
    label: str
    epoch: float


class Schedule(NamedTuple):
    """A run's epochs from left to right: the learning rate, the target of each group of parameters, two lanes."""

    x_ticks: list[Tick]
    learning_rate: str
    rate_label: str
    sparsities: list[tuple[str, str, float | None]]
    quantization: list[Band]
    distillation: list[Band]
    events: list[tuple[float, float, str]]


def scatter(members: Sequence[Member]) -> Scatter | None:
    """Latency against F1 of those that have both; None with fewer than two."""
    known = [(m.latency_ms, m.f1, m) for m in members if m.latency_ms is not None and m.f1 is not None]
    if len(known) < 2:
        return None
    x, x_ticks = _axis([latency for latency, _, _ in known], LEFT, WIDTH - RIGHT, "ms")
    y, y_ticks = _axis([f1 for _, f1, _ in known], HEIGHT - BOTTOM, TOP, "")
    dots = [Dot(x(latency), y(f1), number, member) for number, (latency, f1, member) in enumerate(known, 1)]
    return Scatter(dots, x_ticks, y_ticks)


def _axis(values: Sequence[float], first: float, last: float, unit: str) -> tuple[Callable[[float], float], list[Tick]]:
    """A linear scale that holds the values, and about five round ticks on it."""
    low, high = min(values), max(values)
    span = high - low
    if span < abs(high) * 1e-5:  # the six digits of a label couldn't tell them apart
        span = abs(high)
    step = _round_step(span / 4 or 1)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    high = high if high > low else low + step

    def place(value: float) -> float:
        return round(first + (last - first) * (value - low) / (high - low), 2)

    count = round((high - low) / step)
    return place, [Tick(place(low + n * step), f"{low + n * step:.6g} {unit}".rstrip()) for n in range(count + 1)]


def _round_step(step: float) -> float:
    scale = 10.0 ** math.floor(math.log10(step))
    return next(round_step * scale for round_step in (1, 2, 2.5, 5, 10) if round_step * scale >= step * 0.999)


def schedule(rows: Sequence[ScheduleRow]) -> Schedule:
    """The picture of a run's plan, which has at least one row."""
    end = rows[-1].epoch or 1

    def x(epoch: float) -> float:
        return round(LEFT + (WIDTH - RIGHT - LEFT) * epoch / end, 2)

    def y(share: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share, 2)

    peak = max((row.learning_rate or 0 for row in rows), default=0)
    rates = [(row.epoch, row.learning_rate / peak) for row in rows if peak and row.learning_rate is not None]
    groups = list(dict.fromkeys(group for row in rows for group in row.sparsity))
    step = _round_step(end / 6)
    ticks = [Tick(x(n * step), f"{n * step:g}") for n in range(int(end / step + 1e-9) + 1)]
    return Schedule(
        x_ticks=ticks,
        learning_rate=_path([(x(epoch), y(share)) for epoch, share in rates]),
        rate_label=f"{peak:.3g}" if peak else "the optimizer's own",
        sparsities=[_sparsity(rows, group, x, y) for group in groups],
        quantization=_bands(rows, lambda row: None if row.quantization == "off" else row.quantization, x),
        distillation=_bands(rows, lambda row: f"hardness {row.distillation[0]:g}" if row.distillation else None, x),
        events=[(x(row.epoch), row.epoch, event) for row in rows for event in row.events],
    )


def _sparsity(
    rows: Sequence[ScheduleRow], group: str, x: Callable[[float], float], y: Callable[[float], float]
) -> tuple[str, str, float | None]:
    known = [(row.epoch, target) for row in rows if (target := row.sparsity.get(group)) is not None]
    return group, _path([(x(epoch), y(target)) for epoch, target in known]), known[-1][1] if known else None


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{'M' if place == 0 else 'L'}{x:g} {y:g}" for place, (x, y) in enumerate(points))


def _bands(
    rows: Sequence[ScheduleRow], state: Callable[[ScheduleRow], str | None], x: Callable[[float], float]
) -> list[Band]:
    """Stretches of rows with the same state, each up to where the next begins."""
    bands: list[Band] = []
    start = 0
    for place in range(1, len(rows) + 1):
        if place == len(rows) or state(rows[place]) != state(rows[start]):
            label = state(rows[start])
            end = rows[min(place, len(rows) - 1)].epoch
            if label is not None and end > rows[start].epoch:
                bands.append(
                    Band(x(rows[start].epoch), round(x(end) - x(rows[start].epoch), 2), label, rows[start].epoch)
                )
            start = place
    return bands
