"""Linear kernels at the shapes of BERT-base and BERT-Large, sparse against dense, against the machine's peak.

Each is measured as a step of a plan of its own, so what is measured is what runs: threads, packing, epilogue.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np

from engine import cost_model, plan
from engine.program import (
    Buffer,
    Dequantize,
    Embed,
    Input,
    Layout,
    LinearF32,
    LinearU8,
    Output,
    Program,
    Quantization,
    Quantize,
    Step,
    Table,
)
from engine.runtime import CompiledModel, Peaks, usable_isas

SHAPES = ((768, 768), (768, 3072), (3072, 768), (1024, 1024), (1024, 4096), (4096, 1024))
TOKENS = (128, 384, 2048)
SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)
QUICK_SHAPES, QUICK_TOKENS, QUICK_SPARSITIES = ((768, 768),), (128,), (0.0, 0.5, 0.8)
NOISE = 0.05
_ROWS = 256
"""Rows of the table that the activations come from."""

WeightType = Literal["s8", "f32"]


@dataclass(frozen=True)
class KernelRow:
    """One layer: `k` to `n` channels for so many tokens. Times are the best of several runs, in microseconds.

    `peak_share` is what the faster kernel reaches of the peak, counting only products that it computes; `loss` is how
    much longer the dispatcher's choice takes than the fastest, 0 for the fastest itself.
    """

    kind: WeightType
    isa: str
    k: int
    n: int
    tokens: int
    sparsity: float
    dense_us: float
    sparse_us: float
    peak_share: float
    taken: Layout
    loss: float
    is_fastest: bool


@dataclass(frozen=True)
class KernelReport:
    """All rows; `break_even` is, by type and instruction set, the share left at which both kernels were level."""

    rows: tuple[KernelRow, ...]
    peaks: dict[str, dict[str, float]]
    break_even: dict[str, dict[str, float]]

    @property
    def is_sound(self) -> bool:
        """Whether the dispatcher took the fastest kernel everywhere, within noise."""
        return all(row.is_fastest for row in self.rows)

    @property
    def summary(self) -> list[str]:
        """The peaks, and the cost model's numbers beside those measured now."""
        lines = [
            f"{isa}: {peak['s8'] / 1e9:.0f} G int8 and {peak['f32'] / 1e9:.0f} G float32 products a second at most"
            for isa, peak in self.peaks.items()
        ]
        for kind, isas in self.break_even.items():
            for isa, measured in isas.items():
                used = cost_model.break_even("s8" if kind == "s8" else "f32", isa)
                lines.append(f"{kind} {isa}: sparse and dense level at {measured:.2f} of the weight; used {used:.2f}")
        right = sum(row.is_fastest for row in self.rows)
        return [*lines, f"the dispatcher took the fastest kernel for {right} of {len(self.rows)} layers"]


def benchmark_kernels(
    *,
    quick: bool = False,
    num_cores: int | None = None,
    isas: Sequence[str] | None = None,
    kinds: Sequence[WeightType] = ("s8", "f32"),
    progress: Callable[[int, int], None] | None = None,
) -> KernelReport:
    """Measures every layer on every instruction set that this CPU runs, or those named.

    `quick` takes one shape. Raises ExecutionError for an instruction set that isn't there.
    """
    shapes, tokens, sparsities = (
        (QUICK_SHAPES, QUICK_TOKENS, QUICK_SPARSITIES) if quick else (SHAPES, TOKENS, SPARSITIES)
    )
    wanted = tuple(isas or usable_isas())
    layers = list(product(wanted, kinds, shapes, sparsities))
    rows: list[KernelRow] = []
    peaks: dict[str, dict[str, float]] = {}
    for done, (isa, kind, (k, n), sparsity) in enumerate(layers):
        with _forced(isa):
            rows += _measure(isa, kind, k, n, sparsity, tokens, num_cores, peaks)
        if progress is not None:
            progress(done + 1, len(layers))
    return KernelReport(tuple(rows), peaks, _break_even(rows))


@contextmanager
def _forced(isa: str) -> Iterator[None]:
    before = os.environ.get("SPARROW_ISA")
    os.environ["SPARROW_ISA"] = isa
    try:
        yield
    finally:
        if before is None:
            del os.environ["SPARROW_ISA"]
        else:
            os.environ["SPARROW_ISA"] = before


def _measure(
    isa: str,
    kind: WeightType,
    k: int,
    n: int,
    sparsity: float,
    all_tokens: Sequence[int],
    num_cores: int | None,
    peaks: dict[str, dict[str, float]],
) -> Iterator[KernelRow]:
    step = _layer(kind, k, n, sparsity)
    taken = cost_model.layout(step.weight, isa)
    dense, sparse = (
        CompiledModel.from_plan(plan.encode(_program(replace(step, layout=layout), k, n)), num_cores)
        for layout in ("dense", "sparse")
    )
    with dense, sparse:
        if sparsity == 0:
            _raise_peaks(peaks.setdefault(isa, {"s8": 0.0, "f32": 0.0}), dense.peaks())
        for tokens in all_tokens:
            us = _alternate((dense, sparse), tokens)
            chosen = us[0 if taken == "dense" else 1]
            best = min(us)
            products = tokens * k * n * (1.0 if us[0] <= us[1] else cost_model.fill(step.weight))
            loss = chosen / best - 1
            yield KernelRow(
                kind, isa, k, n, tokens, sparsity, us[0], us[1],
                products / (best * 1e-6) / peaks[isa][kind], taken, loss, loss <= NOISE,
            )  # fmt: skip


def _raise_peaks(known: dict[str, float], found: Peaks) -> None:
    """Others on the machine only ever lower a peak: the highest one counts."""
    known["s8"] = max(known["s8"], found.s8_products_per_s)
    known["f32"] = max(known["f32"], found.f32_products_per_s)


def _alternate(models: tuple[CompiledModel, CompiledModel], tokens: int) -> tuple[float, float]:
    """The best time of each model's layer in microseconds, measured in turns."""
    ids = {"ids": (np.arange(tokens) % _ROWS)[None]}
    index = next(i for i, step in enumerate(models[0].steps) if step.k)
    best = [float("inf"), float("inf")]
    for _ in range(9):
        for place, model in enumerate(models):
            best[place] = min(best[place], float(model.profile(ids)[index]) / 1e3)
    return best[0], best[1]


def _layer(kind: WeightType, k: int, n: int, sparsity: float) -> LinearU8 | LinearF32:
    """A layer with random weights, of which 1x4 blocks (s8) or values (f32) are zero."""
    random = np.random.default_rng(k + n)
    bias = np.zeros(n, np.float32)
    if kind == "f32":
        values = random.standard_normal((n, k), np.float32) * (random.random((n, k)) >= sparsity)
        return LinearF32("layer", 0, values.astype(np.float32), bias, "none", 1)
    kept = (random.random((n, k // 4)) >= sparsity).repeat(4, axis=1)
    weight = (random.integers(1, 128, (n, k)) * kept).astype(np.int8)
    scale = np.full(n, 1e-4, np.float32)
    return LinearU8("layer", 1, 128, weight, scale, bias, "none", 2, Quantization(0.05, 128))


def _program(step: LinearU8 | LinearF32, k: int, n: int) -> Program:
    """Embeds ids, quantizes where the layer wants bytes, runs the layer and gives out one column."""
    table = np.random.default_rng(0).standard_normal((_ROWS, k)).astype(np.float32)
    embed = Embed("rows", (Table(table, 0),), 0)
    steps: tuple[Step, ...]
    buffers: tuple[Buffer, ...]
    if isinstance(step, LinearF32):
        buffers = (Buffer("x", k, "f32"), Buffer("y", n, "f32"))
        steps = (embed, step, Output("y", 1, 0))
    else:
        buffers = (Buffer("x", k, "f32"), Buffer("q", k, "u8"), Buffer("y", n, "u8"), Buffer("z", n, "f32"))
        quantize = Quantize("quantize", 0, 1, Quantization(0.05, 128))
        shown = Dequantize("shown", 2, 3, Quantization(0.05, 128))
        steps = (embed, quantize, step, shown, Output("y", 3, 0))
    return Program((Input("ids"),), buffers, steps)


def _break_even(rows: Sequence[KernelRow]) -> dict[str, dict[str, float]]:
    """The share left at which both kernels are level: dense time over what a whole weight would take sparse."""
    found: dict[str, dict[str, float]] = {}
    for kind, isa in sorted({(row.kind, row.isa) for row in rows}):
        mine = [row for row in rows if (row.kind, row.isa) == (kind, isa)]
        found.setdefault(kind, {})[isa] = float(np.median([_level(group) for group in _groups(mine)]))
    return found


def _groups(rows: Sequence[KernelRow]) -> list[list[KernelRow]]:
    keys: dict[Any, list[KernelRow]] = {}
    for row in rows:
        keys.setdefault((row.k, row.n, row.tokens), []).append(row)
    return list(keys.values())


def _level(group: Sequence[KernelRow]) -> float:
    """Where the straight line through the sparse times meets the dense time, 0 to 1."""
    kept = np.array([1 - row.sparsity for row in group])
    slope, start = np.polyfit(kept, [row.sparse_us for row in group], 1)
    dense = float(np.median([row.dense_us for row in group]))
    return float(np.clip((dense - start) / slope, 0, 1)) if slope > 0 else 1.0
