"""Moves a LayerNorm's addition into the integer layer that it follows.

That layer adds while its multipliers are busy, and the LayerNorm, which is bound by what it reads, reads half as much.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from engine import memory
from engine.program import LayerNorm, LinearU8, Program


def fold_residuals(program: Program) -> Program:
    """The same program, whose LayerNorms add no residual where an integer layer before them can."""
    steps = list(program.steps)
    readers = Counter(buffer for step in steps for buffer in memory.reads(step))
    written = {buffer: index for index, step in enumerate(steps) for buffer in memory.writes(step)}
    for index, step in enumerate(program.steps):
        if not isinstance(step, LayerNorm) or step.residual is None:
            continue
        for own, other in ((step.input, step.residual), (step.residual, step.input)):
            layer = steps[written[own]]
            if isinstance(layer, LinearU8) and _can_add(layer) and readers[own] == 1 and written[other] < written[own]:
                steps[written[own]] = replace(layer, residual=other)
                steps[index] = replace(step, input=own, residual=None)
                break
    return replace(program, steps=tuple(steps))


def _can_add(step: LinearU8) -> bool:
    return step.quantization is None and step.activation == "none" and step.residual is None
