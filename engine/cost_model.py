"""Which of two kernels runs a linear layer, by measured cost. `zoo benchmark kernels` measures it again.

A sparse kernel takes time for each weight that is left, a dense one for each weight; a product costs the first more,
because it loads its own activations. So one number decides for each instruction set and type: the share of the
weight at which both take equally long.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from engine.program import Layout, LinearF32, LinearU8, Program

BREAK_EVEN: Final[dict[str, dict[str, float]]] = {
    "s8": {"avx512vnni": 0.94, "avx2": 0.87},
    "f32": {"avx512vnni": 0.72, "avx2": 0.78},
}
"""The share of 1x4 blocks (s8) or single values (f32) left at which sparse and dense take equally long."""
CODE_ISA: Final = "avx512vnni"
"""The instruction set that `codegen` writes."""
REFERENCE_ISA: Final = "avx512vnni"
"""Whose numbers hold for an instruction set without its own."""


def fill(weight: NDArray[Any]) -> float:
    """The share of a weight [N, K] that a sparse kernel keeps, 0 to 1: 1x4 blocks of int8, values of float32."""
    if weight.dtype != np.int8:
        return float(np.count_nonzero(weight)) / weight.size
    padded = np.ascontiguousarray(np.pad(weight, ((0, 0), (0, -weight.shape[1] % 4))))
    return float(np.count_nonzero(padded.view(np.uint32))) / (padded.size // 4)


def break_even(weight_type: Literal["s8", "f32"], isa: str) -> float:
    """The share left below which the sparse kernel is the faster one."""
    known = BREAK_EVEN[weight_type]
    return known.get(isa, known[REFERENCE_ISA])


def sparse_layout(kind: Literal["s8", "f32"], isa: str, code: bool) -> Layout:
    """The faster one of the layouts without zeros; `code` says whether plans may hold machine code."""
    return "code" if code and kind == "s8" and isa == CODE_ISA else "sparse"


def layout(weight: NDArray[Any], isa: str = REFERENCE_ISA, *, code: bool = False) -> Layout:
    """The fastest layout for a weight [N, K], int8 or float32."""
    kind: Literal["s8", "f32"] = "s8" if weight.dtype == np.int8 else "f32"
    return sparse_layout(kind, isa, code) if fill(weight) < break_even(kind, isa) else "dense"


def choose(program: Program, isa: str, *, code: bool = False) -> Program:
    """The program with a layout for each linear layer that has none yet."""
    steps = tuple(
        replace(step, layout=layout(step.weight, isa, code=code))
        if isinstance(step, LinearU8 | LinearF32) and step.layout is None
        else step
        for step in program.steps
    )
    return replace(program, steps=steps)
