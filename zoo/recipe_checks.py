"""What is wrong with a recipe as a whole, when each of its modifiers is right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from zoo.modifiers import (
    ConstantPruningModifier,
    DistillationModifier,
    EpochRangeModifier,
    GradualPruningModifier,
    LearningRateFunctionModifier,
    Modifier,
    PerLayerDistillationModifier,
    QuantizationModifier,
)
from zoo.parameter_names import ALL, ALL_PRUNABLE

Level = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """Something to know about a recipe. An error stops it from loading; a warning may be meant; info is a report."""

    level: Level
    message: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.level}: " + (f"line {self.line}: " if self.line else "") + self.message


@dataclass(frozen=True)
class Placed:
    """A modifier with the line where it stands."""

    modifier: Modifier
    line: int | None

    def finding(self, level: Level, message: str) -> Finding:
        """A finding about this modifier."""
        return Finding(level, f"{self.modifier.name} {message}", self.line)


def max_epochs(modifiers: Iterable[Modifier]) -> float:
    """The latest start or end of all modifiers, in epochs; 0 where none names an epoch."""
    return max((epoch for m in modifiers for epoch in (m.start_epoch, m.end_epoch, 0.0)), default=0.0)


def check(placed: Sequence[Placed]) -> list[Finding]:
    """All findings, in the order of the recipe."""
    found = [finding for rule in RULES for finding in rule(placed)]
    return sorted(found, key=lambda finding: finding.line or 0)


def _without_effect(placed: Sequence[Placed]) -> Iterator[Finding]:
    for item in placed:
        for field, reason in item.modifier.without_effect.items():
            if field in item.modifier.model_fields_set:
                yield item.finding("info", f"ignores {field}: {reason}")


def _length(placed: Sequence[Placed]) -> Iterator[Finding]:
    if not placed:
        yield Finding("warning", "the recipe has no modifiers")
    elif all(item.modifier.end_epoch == -1 for item in placed):
        yield Finding("info", "no modifier has an end: the trainer's own number of epochs holds")
    ranges = [item.modifier.end for item in placed if isinstance(item.modifier, EpochRangeModifier)]
    for item in placed:
        if ranges and item.modifier.end_epoch > max(ranges):
            end = item.modifier.end_epoch
            yield item.finding(
                "warning", f"ends at {end:g}, beyond EpochRangeModifier's {max(ranges):g}: the run is longer"
            )


def _never_acts(placed: Sequence[Placed]) -> Iterator[Finding]:
    if all(item.modifier.end_epoch == -1 for item in placed):
        return
    last = max_epochs(item.modifier for item in placed)
    for item in placed:
        modifier = item.modifier
        if modifier.start >= last > 0:
            needed = isinstance(modifier, QuantizationModifier | DistillationModifier | PerLayerDistillationModifier)
            level: Level = "error" if needed else "warning"
            yield item.finding(level, f"starts at epoch {modifier.start:g}, when the run of {last:g} epochs has ended")
        elif isinstance(modifier, QuantizationModifier) and last < modifier.freeze_epoch < float("inf"):
            freeze = modifier.freeze_epoch
            yield item.finding("warning", f"would freeze its observers at epoch {freeze:g}, after the run of {last:g}")


def _one_quantization(placed: Sequence[Placed]) -> Iterator[Finding]:
    for item in [item for item in placed if isinstance(item.modifier, QuantizationModifier)][1:]:
        yield item.finding("error", "stands a second time: a model is quantized once")


def _zeros_are_kept(placed: Sequence[Placed]) -> Iterator[Finding]:
    quantized = any(isinstance(item.modifier, QuantizationModifier) for item in placed)
    constant = any(isinstance(item.modifier, ConstantPruningModifier) for item in placed)
    for item in placed:
        if isinstance(item.modifier, GradualPruningModifier) and not item.modifier.leave_enabled and not constant:
            after = "quantized training" if quantized else "training after it"
            level: Level = "error" if quantized else "warning"
            yield item.finding(
                level,
                f"has leave_enabled off, so {after} would fill the zeros again: turn leave_enabled on, or add a "
                "ConstantPruningModifier",
            )


def _overlaps(placed: Sequence[Placed]) -> Iterator[Finding]:
    for first, second in combinations(placed, 2):
        a, b = first.modifier, second.modifier
        if not (a.start < b.end and b.start < a.end):
            continue
        if isinstance(a, LearningRateFunctionModifier) and isinstance(b, LearningRateFunctionModifier):
            yield second.finding("warning", f"overlaps with the one{_in_line(first)}; the one that starts later counts")
        shared = _shared_params(a, b)
        if shared:
            both_gradual = isinstance(a, GradualPruningModifier) and isinstance(b, GradualPruningModifier)
            yield second.finding(
                "error" if both_gradual else "warning",
                f"prunes {shared} at the same time as {a.name}{_in_line(first)}",
            )


def _in_line(item: Placed) -> str:
    return f" in line {item.line}" if item.line else ""


def _shared_params(a: Modifier, b: Modifier) -> str:
    """An entry of `params` that both prune; nothing where the entries differ or both only keep zeros."""
    if isinstance(a, ConstantPruningModifier) and isinstance(b, ConstantPruningModifier):
        return ""
    ours, theirs = _params(a), _params(b)
    for mine, other in ((ours, theirs), (theirs, ours)):
        everything = mine & {ALL, ALL_PRUNABLE}
        if everything and other:
            return min(everything)
    return min(ours & theirs, default="")


def _params(modifier: Modifier) -> frozenset[str]:
    if isinstance(modifier, GradualPruningModifier):
        return frozenset(param for _, params in modifier.targets for param in params)
    return frozenset(modifier.params) if isinstance(modifier, ConstantPruningModifier) else frozenset()


def _updates(placed: Sequence[Placed]) -> Iterator[Finding]:
    for item in placed:
        modifier = item.modifier
        if isinstance(modifier, GradualPruningModifier) and modifier.update_frequency > modifier.end - modifier.start:
            yield item.finding(
                "warning", "has an update_frequency longer than its epochs: it prunes at its end at once"
            )


RULES: tuple[Callable[[Sequence[Placed]], Iterator[Finding]], ...] = (
    _length,
    _never_acts,
    _one_quantization,
    _zeros_are_kept,
    _overlaps,
    _updates,
    _without_effect,
)
