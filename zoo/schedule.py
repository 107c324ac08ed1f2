"""The plan of a recipe as a table: at which epoch and step what happens to a run.

Rows stand at every whole epoch and wherever a modifier starts, ends or freezes; in long runs whole epochs are thinned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from zoo.errors import RecipeError
from zoo.modifier_fields import EPOCH_TOLERANCE, FROM_PARAM, MAX_EPOCH
from zoo.modifiers import (
    ConstantPruningModifier,
    DistillationModifier,
    GradualPruningModifier,
    Modifier,
    QuantizationModifier,
    learning_rate_at,
    sparsity_at,
)
from zoo.recipe import Recipe

MAX_WHOLE_EPOCHS = 200
QuantizationState = Literal["off", "observing", "frozen"]


@dataclass(frozen=True)
class ScheduleRow:
    """State of a run at one moment.

    `learning_rate` is None while the optimizer's own holds. `sparsity` maps each group of parameters to its target in
    [0, 1), or to None where it is the parameters' own. `distillation` is (hardness, temperature) while active.
    """

    epoch: float
    step: int
    learning_rate: float | None
    sparsity: dict[str, float | None]
    quantization: QuantizationState
    distillation: tuple[float, float] | None
    events: tuple[str, ...]


def step_at(epoch: float, steps_per_epoch: float) -> int:
    """The first step at or after `epoch`: the smallest whole number with step / steps_per_epoch >= epoch."""
    return math.ceil(epoch * steps_per_epoch - steps_per_epoch * EPOCH_TOLERANCE)


def plan(recipe: Recipe, steps_per_epoch: int, num_epochs: float | None = None) -> list[ScheduleRow]:
    """The rows of a run of `num_epochs` (None: as long as the recipe says), first to last.

    Raises RecipeError where steps_per_epoch is less than 1, or the length is unknown or out of bounds.
    """
    if steps_per_epoch < 1:
        raise RecipeError(f"steps_per_epoch must be at least 1, not {steps_per_epoch}")
    length = recipe.max_epochs if num_epochs is None else num_epochs
    if not 0 < length <= MAX_EPOCH:
        raise RecipeError(
            f"a plan needs more than 0 and at most {MAX_EPOCH:.0f} epochs, not {length:g}; give num_epochs "
            "(--num_epochs of the command)"
        )
    events = _events(recipe.modifiers)
    stride = max(1, math.ceil(length / MAX_WHOLE_EPOCHS))
    epochs = {float(epoch) for epoch in range(0, math.floor(length) + 1, stride)} | {length}
    epochs |= {epoch for epoch in events if epoch <= length}
    return [_row(recipe.modifiers, epoch, steps_per_epoch, events.get(epoch, ())) for epoch in sorted(epochs)]


def _row(modifiers: Sequence[Modifier], epoch: float, steps_per_epoch: int, events: Sequence[str]) -> ScheduleRow:
    teachers = [m for m in modifiers if isinstance(m, DistillationModifier) and m.active(epoch)]
    return ScheduleRow(
        epoch=epoch,
        step=step_at(epoch, steps_per_epoch),
        learning_rate=learning_rate_at(modifiers, epoch),
        sparsity=_sparsities(modifiers, epoch),
        quantization=_quantization(modifiers, epoch),
        distillation=(teachers[-1].hardness, teachers[-1].temperature) if teachers else None,
        events=tuple(events),
    )


def _sparsities(modifiers: Sequence[Modifier], epoch: float) -> dict[str, float | None]:
    """Later pruners of a group take over when they start."""
    sparsities: dict[str, float | None] = {}
    for modifier in modifiers:
        if isinstance(modifier, GradualPruningModifier):
            for final, params in modifier.targets:
                group = _group(params)
                if modifier.started(epoch):
                    sparsities[group] = _target(modifier, epoch, final)
                else:
                    sparsities.setdefault(group, None)
        elif isinstance(modifier, ConstantPruningModifier):
            sparsities.setdefault(_group(modifier.params), None)
    return sparsities


def _target(modifier: GradualPruningModifier, epoch: float, final: float) -> float | None:
    own = modifier.init_sparsity == FROM_PARAM
    return None if own and not modifier.ended(epoch) else sparsity_at(modifier, epoch, final)


def _group(params: Sequence[str]) -> str:
    return params[0] if len(params) == 1 else f"{params[0]} and {len(params) - 1} more"


def _quantization(modifiers: Sequence[Modifier], epoch: float) -> QuantizationState:
    started = [m for m in modifiers if isinstance(m, QuantizationModifier) and m.started(epoch)]
    if not started:
        return "off"
    return "frozen" if epoch >= started[-1].freeze_epoch - EPOCH_TOLERANCE else "observing"


def _events(modifiers: Sequence[Modifier]) -> dict[float, list[str]]:
    """What starts, ends and freezes, by epoch."""
    events: dict[float, list[str]] = {}
    for modifier in modifiers:
        events.setdefault(modifier.start, []).append(f"{modifier.name} starts")
        if modifier.end < math.inf:
            events.setdefault(modifier.end, []).append(f"{modifier.name} ends")
        if isinstance(modifier, QuantizationModifier) and modifier.freeze_epoch < math.inf:
            events.setdefault(modifier.freeze_epoch, []).append("observers freeze")
    return events


def render(rows: Sequence[ScheduleRow]) -> str:
    """The rows as a text table; groups of parameters are numbered, and named below it."""
    groups = list(dict.fromkeys(group for row in rows for group in row.sparsity))
    heads = [f"sparsity {number}" if len(groups) > 1 else "sparsity" for number in range(1, len(groups) + 1)]
    table = [["epoch", "step", "learning rate", *heads, "quantization", "distillation", "events"]]
    table += [_cells(row, groups) for row in rows]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(table[0]))]
    table.insert(1, ["-" * width for width in widths])
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in table
    ]
    legend = [f"{head}: {group}" for head, group in zip(heads, groups, strict=True)]
    return "\n".join([*lines, *([""] if legend else []), *legend]) + "\n"


def _cells(row: ScheduleRow, groups: Sequence[str]) -> list[str]:
    rate = "optimizer's" if row.learning_rate is None else f"{row.learning_rate:.3g}"
    targets = [row.sparsity.get(group) for group in groups]
    sparsities = ["own" if target is None else f"{target:.4f}" for target in targets]
    teacher = "off" if row.distillation is None else "hardness {:g}, T {:g}".format(*row.distillation)
    return [f"{row.epoch:g}", str(row.step), rate, *sparsities, row.quantization, teacher, "; ".join(row.events)]
