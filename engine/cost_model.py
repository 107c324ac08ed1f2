"""Which kernel runs a linear layer, by measured cost. `zoo benchmark kernels` measures it again.

A sparse kernel takes time for each weight that is left, a dense one for each weight; a product may cost the first more,
because it loads its own activations. So one number decides for each instruction set and type: the share of the weight
at which both take equally long. Where a plan may hold machine code, that is always the faster sparse kernel.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from engine.program import Layout, LinearF32, LinearU8, Program

WeightType = Literal["s8", "f32"]
CODE_ISA: Final = "avx512vnni"
"""The instruction set that `codegen` writes."""
REFERENCE_ISA: Final = "avx512vnni"
"""Whose numbers hold for an instruction set without its own."""
BREAK_EVEN: Final[dict[str, dict[str, float]]] = {
    "s8": {"avx512vnni": 0.94, "avx2": 0.87},
    "s8 code": {CODE_ISA: 0.88},
    "f32": {"avx512vnni": 0.72, "avx2": 0.78},
}
"""The share of 1x4 blocks (s8) or single values (f32) left at which sparse and dense take equally long."""


def fill(weight: NDArray[Any]) -> float:
    """The share of a weight [N, K] that a sparse kernel keeps, 0 to 1: 1x4 blocks of int8, values of float32."""
    if weight.dtype != np.int8:
        return float(np.count_nonzero(weight)) / weight.size
    padded = np.ascontiguousarray(np.pad(weight, ((0, 0), (0, -weight.shape[1] % 4))))
    return float(np.count_nonzero(padded.view(np.uint32))) / (padded.size // 4)


def layouts(kind: WeightType, isa: str, *, code: bool = False) -> tuple[Layout, ...]:
    """The layouts that can run, dense first; `code` says whether plans may hold machine code."""
    return ("dense", "sparse", "code") if code and kind == "s8" and isa == CODE_ISA else ("dense", "sparse")


def break_even(kind: WeightType, isa: str, *, code: bool = False) -> float:
    """The share left below which the last one of `layouts` is the fastest."""
    known = BREAK_EVEN[f"{kind} code" if "code" in layouts(kind, isa, code=code) else kind]
    return known.get(isa, known[REFERENCE_ISA])


def layout(weight: NDArray[Any], isa: str = REFERENCE_ISA, *, code: bool = False) -> Layout:
    """The fastest layout for a weight [N, K], int8 or float32."""
    kind: WeightType = "s8" if weight.dtype == np.int8 else "f32"
    return layouts(kind, isa, code=code)[-1] if fill(weight) < break_even(kind, isa, code=code) else "dense"


def choose(program: Program, isa: str, *, code: bool = False) -> Program:
    """The program with a layout for each linear layer that has none yet."""
    steps = tuple(
        replace(step, layout=layout(step.weight, isa, code=code))
        if isinstance(step, LinearU8 | LinearF32) and step.layout is None
        else step
        for step in program.steps
    )
    return replace(program, steps=steps)
