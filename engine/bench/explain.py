"""Where a model's time goes: each step of its plan, measured, against what the machine can do at most."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import engine
from engine.bench.inputs import check_length, random_inputs, vocabulary
from engine.bench.noise import Noise
from engine.errors import PipelineError
from engine.pipelines.model_folder import find_model_folder
from engine.runtime import CompiledModel, Peaks, StepInfo

_TILE = 16
_INTEGER = ("gemm_s8", "spmm_s8", "code_s8", "attention_u8")
_FLOAT = ("gemm_f32", "spmm_f32", "attention_f32")
_FEW_TOKENS = 64
_SMALL_SHARE = 0.005
_GOOD_ROOFLINE = 0.6


@dataclass(frozen=True)
class StepReport:
    """One step. `sparsity` is the share of its weight that is left out, 0 to 1, None for a step without a weight.

    `products` are multiply-adds that are computed, `roofline` is the time that the machine needs at least over the
    time taken, `bound` what that least time is for, and `why` says in words what limits it, where it matters.
    """

    name: str
    kernel: str
    shape: str
    sparsity: float | None
    products: int
    bytes: int
    microseconds: float
    share: float
    roofline: float
    bound: str
    why: str


@dataclass(frozen=True)
class KernelTotal:
    """All steps of one kernel and shape together."""

    kernel: str
    shape: str
    steps: int
    sparsity: float | None
    microseconds: float
    share: float
    roofline: float
    why: str


@dataclass(frozen=True)
class Explanation:
    """What `explain` measured. The shares of all steps add up to 1; `run_ms` is a whole run's median."""

    model_path: str
    isa: str
    num_cores: int
    batch_size: int
    sequence_length: int
    runs: int
    run_ms: float
    steps_ms: float
    others_share: float
    peaks: Peaks
    totals: tuple[KernelTotal, ...]
    steps: tuple[StepReport, ...]


def explain(
    model_path: Path | str,
    *,
    batch_size: int = 1,
    sequence_length: int = 128,
    num_cores: int | None = None,
    runs: int = 15,
) -> Explanation:
    """Runs the model `runs` times with each step timed, and takes the median for each.

    Raises PipelineError for wrong numbers or a wrong folder, ModelError for a model that can't be run.
    """
    if batch_size < 1 or sequence_length < 1 or runs < 1:
        raise PipelineError("batch_size, sequence_length and runs must be 1 or more")
    folder = find_model_folder(model_path)
    check_length(folder, sequence_length)
    with engine.compile(folder.model, num_cores) as model:
        inputs = random_inputs(model.input_names, vocabulary(folder), batch_size, sequence_length)
        model.run(inputs)
        noise = Noise.start()
        times_ns = np.array([model.profile(inputs) for _ in range(runs)], np.float64)
        others, peaks = noise.others_share(), model.peaks()
        reports = step_reports(model, np.median(times_ns, axis=0), batch_size, sequence_length, peaks)
        return Explanation(
            model_path=str(folder.model),
            isa=model.isa,
            num_cores=model.num_cores,
            batch_size=batch_size,
            sequence_length=sequence_length,
            runs=runs,
            run_ms=float(np.median(times_ns.sum(axis=1))) / 1e6,
            steps_ms=sum(step.microseconds for step in reports) / 1e3,
            others_share=others,
            peaks=peaks,
            totals=_totals(reports),
            steps=reports,
        )


def step_reports(
    model: CompiledModel, times_ns: np.ndarray, batch: int, sequence: int, peaks: Peaks
) -> tuple[StepReport, ...]:
    """What each step of the model reaches, given the nanoseconds that it takes."""
    whole = max(float(times_ns.sum()), 1.0)
    return tuple(
        _report(step, float(taken), float(taken) / whole, batch, sequence, peaks)
        for step, taken in zip(model.steps, times_ns, strict=True)
    )


def _report(step: StepInfo, taken_ns: float, share: float, batch: int, sequence: int, peaks: Peaks) -> StepReport:
    tiles = -(-batch // _TILE) if step.per_batch else batch * -(-sequence // _TILE)
    products = _products(step, tiles, batch, sequence)
    moved = step.constant_bytes + tiles * (step.tile_bytes_read + step.tile_bytes_written)
    rate = peaks.s8_products_per_s if step.kernel in _INTEGER else peaks.f32_products_per_s
    least = {
        "products": products / rate,
        "bytes": (moved if products == 0 else step.constant_bytes) / peaks.bytes_per_s,
    }
    bound = max(least, key=lambda kind: least[kind])
    roofline = min(1.0, least[bound] / max(taken_ns * 1e-9, 1e-9))
    return StepReport(
        name=step.name,
        kernel=step.kernel,
        shape=_shape(step),
        sparsity=_sparsity(step),
        products=products,
        bytes=moved,
        microseconds=taken_ns / 1e3,
        share=share,
        roofline=roofline,
        bound=bound,
        why=_why(step, roofline, bound, batch * sequence),
    )


def _products(step: StepInfo, tiles: int, batch: int, sequence: int) -> int:
    """Multiply-adds, those of padded lanes included."""
    if step.kernel.startswith("attention"):
        padded = -(-sequence // _TILE) * _TILE
        return 2 * batch * padded * sequence * step.heads * step.head_dim
    size = 4 if step.kernel in _FLOAT else 1
    return step.weight_bytes // size * tiles * _TILE


def _shape(step: StepInfo) -> str:
    if step.k:
        return f"{step.k} to {step.n}"
    return f"{step.heads} heads of {step.head_dim}" if step.heads else str(step.channels)


def _sparsity(step: StepInfo) -> float | None:
    if not step.k:
        return None
    size = 4 if step.kernel in _FLOAT else 1
    return max(0.0, 1 - step.weight_bytes / (step.k * step.n * size))


def _why(step: StepInfo, roofline: float, bound: str, tokens: int) -> str:
    """What limits a step, in words."""
    if roofline >= _GOOD_ROOFLINE:
        return "near the machine's limit"
    if step.kernel not in _INTEGER + _FLOAT:
        return "moves activations and computes little: bound by caches and by what it costs to start a step"
    if bound == "bytes":
        return (
            f"reads {step.constant_bytes / 1e6:.1f} MB of weights for {tokens} tokens: more tokens use each read more"
        )
    if tokens % _TILE and tokens < _FEW_TOKENS:
        return f"{tokens} tokens fill {tokens / (-(-tokens // _TILE) * _TILE):.0%} of the lanes"
    if tokens < _FEW_TOKENS:
        return f"{tokens} tokens are few: weights are loaded and the threads started for little work"
    if step.kernel == "code_s8":
        return "products wait while results are scaled, activated and stored, and for code and weights from memory"
    if step.kernel.startswith("spmm"):
        return "each product loads its own activations, so loads limit it before products do; then storing the results"
    if step.kernel.startswith("attention"):
        return "softmax between the two products takes float work that the products' peak doesn't count"
    return "results are scaled, rounded and stored between products; short rows of products leave their latency open"


def _totals(steps: Iterable[StepReport]) -> tuple[KernelTotal, ...]:
    groups: dict[tuple[str, str], list[StepReport]] = {}
    for step in steps:
        groups.setdefault((step.kernel, step.shape), []).append(step)
    totals = [_total(kernel, shape, members) for (kernel, shape), members in groups.items()]
    return tuple(sorted(totals, key=lambda total: -total.share))


def _total(kernel: str, shape: str, members: list[StepReport]) -> KernelTotal:
    taken = sum(step.microseconds for step in members)
    sparsities = [step.sparsity for step in members if step.sparsity is not None]
    slowest = max(members, key=lambda step: step.microseconds)
    return KernelTotal(
        kernel=kernel,
        shape=shape,
        steps=len(members),
        sparsity=float(np.mean(sparsities)) if sparsities else None,
        microseconds=taken,
        share=sum(step.share for step in members),
        roofline=sum(step.roofline * step.microseconds for step in members) / max(taken, 1e-9),
        why=slowest.why if sum(step.share for step in members) >= _SMALL_SHARE else "",
    )
