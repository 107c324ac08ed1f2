"""Each kernel at the shapes of BERT-base and BERT-Large, on each instruction set, against the machine's peak.

Each is measured as a step of a plan, so what is measured is what runs: threads, packing, epilogue.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from itertools import product
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import cost_model, plan
from engine.bench.explain import step_reports
from engine.bench.kernel_programs import VOCABULARY, linear, linear_program, other_kernels, token_kernels
from engine.bench.noise import Noise
from engine.cost_model import WeightType
from engine.library import runs_code, usable_isas
from engine.program import Layout, LinearF32, LinearU8, Program
from engine.runtime import CompiledModel, Peaks

SHAPES = ((768, 768), (768, 3072), (3072, 768), (1024, 1024), (1024, 4096), (4096, 1024))
TOKENS = (128, 384, 2048)
SPARSITIES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
QUICK_SHAPES, QUICK_TOKENS, QUICK_SPARSITIES = ((768, 768),), (128,), (0.0, 0.5, 0.8)
TOLERANCE = 0.15
"""How much slower than the fastest a choice may seem: times differ that much between runs on a shared machine."""
STEP_TOLERANCE, STEP_SLACK_US = 0.25, 5.0
"""The same for kernels that only move activations: where those lie in memory, and starting a step, count for more."""
_TURNS, _MOST_S, _TRIES = 9, 0.3, 24
"""Runs of each kernel, the seconds after which none is begun, and how often a choice that seems wrong is measured."""
_LONGEST = 384
"""Tokens of the longest sequence; more tokens are a batch of 16 sequences."""


@dataclass(frozen=True)
class KernelRow:
    """One layer: `k` to `n` channels for so many tokens. Times are the best of several runs, in microseconds; `code_us`
    is None where plans hold no machine code.

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
    code_us: float | None
    peak_share: float
    taken: Layout
    loss: float
    is_fastest: bool


@dataclass(frozen=True)
class StepRow:
    """A kernel that is no linear layer: its best time in microseconds on each instruction set, by its name.

    `roofline` is what the kernel of `taken`, the instruction set that the dispatcher takes, reaches of the machine's
    limit; `loss` how much longer it takes than the fastest.
    """

    kernel: str
    shape: str
    tokens: int
    us: Mapping[str, float]
    roofline: float
    taken: str
    loss: float
    is_fastest: bool


@dataclass(frozen=True)
class KernelReport:
    """All rows; `break_even` is, by type and instruction set, the share left at which both kernels were level.

    `others_share` is what other processes took of the processors meanwhile, 0 to 1.
    """

    rows: tuple[KernelRow, ...]
    steps: tuple[StepRow, ...]
    peaks: dict[str, Peaks]
    break_even: dict[str, dict[str, float]]
    others_share: float

    @property
    def is_sound(self) -> bool:
        """Whether the dispatcher took the fastest kernel everywhere, within noise."""
        return all(self._verdicts())

    @property
    def summary(self) -> list[str]:
        """The peaks, and the cost model's numbers beside those measured now."""
        lines = [
            f"{isa}: {peak.s8_products_per_s / 1e9:.0f} G int8 and {peak.f32_products_per_s / 1e9:.0f} G float32 "
            "products a second at most"
            for isa, peak in self.peaks.items()
        ]
        for kind, isas in self.break_even.items():
            for isa, measured in isas.items():
                used = cost_model.break_even("s8" if kind == "s8" else "f32", isa, code=runs_code())
                lines.append(f"{kind} {isa}: sparse and dense level at {measured:.2f} of the weight; used {used:.2f}")
        verdicts = self._verdicts()
        lines.append(f"other processes took {self.others_share:.0%} of the processors")
        return [*lines, f"the dispatcher took the fastest kernel in {sum(verdicts)} of {len(verdicts)} rows"]

    def _verdicts(self) -> list[bool]:
        return [row.is_fastest for row in self.rows] + [row.is_fastest for row in self.steps]


def benchmark_kernels(
    *,
    quick: bool = False,
    num_cores: int | None = None,
    isas: Sequence[str] | None = None,
    kinds: Sequence[WeightType] = ("s8", "f32"),
    progress: Callable[[int, int], None] | None = None,
) -> KernelReport:
    """Measures every kernel on every instruction set that this CPU runs, or those named.

    All numbers of tokens are measured on the best instruction set, which the dispatcher takes; only the fewest on
    the others, which are slower by several times. `quick` takes one shape. Raises ExecutionError for an instruction
    set that isn't there.
    """
    shapes, tokens, sparsities = (
        (QUICK_SHAPES, QUICK_TOKENS, QUICK_SPARSITIES) if quick else (SHAPES, TOKENS, SPARSITIES)
    )
    wanted = _best_first(isas)
    channels = sorted({min(shape) for shape in shapes})
    layers = list(product(kinds, shapes, sparsities))
    noise, peaks = Noise.start(), dict[str, Peaks]()
    rows: list[KernelRow] = []
    steps: list[StepRow] = []
    for done, width in enumerate(channels):
        for program in (other_kernels(width), token_kernels(width)):
            known = {(row.kernel, row.shape, row.tokens) for row in steps}
            found = _measure_steps(program, wanted, tokens, num_cores, peaks)
            steps += [row for row in found if (row.kernel, row.shape, row.tokens) not in known]
        if progress is not None:
            progress(done + 1, len(channels) + len(layers))
    for done, (kind, (k, n), sparsity) in enumerate(layers, len(channels)):
        rows += _measure_layer(linear(kind, k, n, sparsity), kind, sparsity, wanted, tokens, num_cores, peaks)
        if progress is not None:
            progress(done + 1, len(channels) + len(layers))
    return KernelReport(tuple(rows), tuple(steps), peaks, _break_even(rows), noise.others_share())


def _best_first(isas: Sequence[str] | None) -> tuple[str, ...]:
    """The instruction sets, those that aren't there before all, since opening one says so."""
    usable = usable_isas()
    return tuple(sorted(isas, key=lambda isa: usable.index(isa) if isa in usable else -1) if isas else usable)


def _open(encoded: bytes, isa: str, num_cores: int | None) -> CompiledModel:
    with _forced(isa):
        return CompiledModel.from_plan(encoded, num_cores)


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


def _raise_peaks(known: dict[str, Peaks], isa: str, model: CompiledModel) -> None:
    """Measures an instruction set's peaks again; others on the machine only ever lower one, so the highest count."""
    found = model.peaks()
    before = known.get(isa, found)
    known[isa] = Peaks(*(max(getattr(before, f.name), getattr(found, f.name)) for f in fields(Peaks)))


def _shape(tokens: int) -> tuple[int, int]:
    """Batch and sequence length."""
    return (1, tokens) if tokens <= _LONGEST else (16, tokens // 16)


def _best_us(
    models: Sequence[CompiledModel], tokens: int, best: list[NDArray[Any]] | None = None
) -> list[NDArray[Any]]:
    """The best time of each step of each model in microseconds, measured in turns; `best` are those known before."""
    batch, sequence = _shape(tokens)
    inputs = {"ids": (np.arange(tokens) % VOCABULARY).reshape(batch, sequence)}
    best = best or [np.full(len(model.steps), np.inf) for model in models]
    begin = perf_counter()
    for turn in range(_TURNS):
        if turn > 0 and perf_counter() - begin > _MOST_S:
            break
        best = [np.minimum(known, model.profile(inputs) / 1e3) for known, model in zip(best, models, strict=True)]
    return best


def _measure_layer(
    step: LinearU8 | LinearF32,
    kind: WeightType,
    sparsity: float,
    isas: Sequence[str],
    all_tokens: Sequence[int],
    num_cores: int | None,
    peaks: dict[str, Peaks],
) -> Iterator[KernelRow]:
    layouts = {isa: cost_model.layouts(kind, isa, code=runs_code()) for isa in isas}
    encoded = {
        layout: plan.encode(linear_program(replace(step, layout=layout)))
        for layout in dict.fromkeys(layout for named in layouts.values() for layout in named)
    }
    (n, k), filled = step.weight.shape, cost_model.fill(step.weight)
    for isa in isas:
        taken = cost_model.layout(step.weight, isa, code=runs_code())
        with ExitStack() as opened:
            models = {layout: opened.enter_context(_open(encoded[layout], isa, num_cores)) for layout in layouts[isa]}
            if sparsity == 0:
                _raise_peaks(peaks, isa, models["dense"])
            peak = peaks[isa].s8_products_per_s if kind == "s8" else peaks[isa].f32_products_per_s
            index = next(i for i, info in enumerate(models["dense"].steps) if info.k)
            for tokens in all_tokens if isa == isas[0] else all_tokens[:1]:
                us, loss = _contest(models, index, tokens, taken)
                fastest = min(us, key=lambda layout: us[layout])
                products = tokens * k * n * (1.0 if fastest == "dense" else filled)
                share = products / (us[fastest] * 1e-6) / peak
                times = us["dense"], us["sparse"], us.get("code")
                yield KernelRow(kind, isa, k, n, tokens, sparsity, *times, share, taken, loss, loss <= TOLERANCE)


def _contest(
    models: Mapping[Layout, CompiledModel], index: int, tokens: int, taken: Layout
) -> tuple[dict[Layout, float], float]:
    """Each layout's time in step `index`, and by how much the one taken is slower than the fastest."""
    best = None
    for _ in range(_TRIES):
        best = _best_us(list(models.values()), tokens, best)
        us = {layout: float(times[index]) for layout, times in zip(models, best, strict=True)}
        loss = us[taken] / min(us.values()) - 1
        if loss <= TOLERANCE:
            break
    return us, loss


def _measure_steps(
    program: Program, isas: Sequence[str], all_tokens: Sequence[int], num_cores: int | None, peaks: dict[str, Peaks]
) -> Iterator[StepRow]:
    encoded = plan.encode(program)
    with ExitStack() as opened:
        models = [opened.enter_context(_open(encoded, isa, num_cores)) for isa in isas]
        for isa, model in zip(isas, models, strict=True):
            for _ in range(3):
                _raise_peaks(peaks, isa, model)
        for tokens in all_tokens:
            best = _best_us(models, tokens)
            for _ in range(_TRIES - 1):
                if _is_fastest(best).all():
                    break
                best = _best_us(models, tokens, best)
            reports = step_reports(models[0], best[0] * 1e3, *_shape(tokens), peaks[isas[0]])
            for i, report in enumerate(reports):
                if report.kernel == "output":  # the same on every instruction set
                    continue
                us = {isa: float(times[i]) for isa, times in zip(isas, best, strict=True)}
                loss, is_fastest = us[isas[0]] / min(us.values()) - 1, bool(_is_fastest(best)[i])
                yield StepRow(report.kernel, report.shape, tokens, us, report.roofline, isas[0], loss, is_fastest)


def _is_fastest(times_us: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
    """For each step, whether the first instruction set is not slower than another by more than noise."""
    fastest: NDArray[Any] = np.min(times_us, axis=0)
    return np.asarray(times_us[0] <= fastest * (1 + STEP_TOLERANCE) + STEP_SLACK_US)


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
    slope, start = np.polyfit(kept, [row.sparse_us if row.code_us is None else row.code_us for row in group], 1)
    dense = float(np.median([row.dense_us for row in group]))
    return float(np.clip((dense - start) / slope, 0, 1)) if slope > 0 else 1.0
