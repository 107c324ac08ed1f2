"""Measurements as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from engine.bench.benchmark import BenchmarkResult
from engine.bench.compare import Comparison
from engine.bench.explain import Explanation
from engine.bench.kernels import KernelReport, KernelRow, StepRow


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], width: int = 150) -> str:
    """A table as text; columns that start with "-" are numbers, to the right."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.lstrip("-"), justify="right" if column.startswith("-") else "left")
    for row in rows:
        table.add_row(*row)
    console = Console(width=width, no_color=True, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def explanation_text(found: Explanation) -> str:
    """The totals of each kernel and shape, and the slowest steps."""
    peaks = found.peaks
    what = (
        f"{found.model_path}: {found.run_ms:.2f} ms at batch {found.batch_size}, {found.sequence_length} tokens, "
        f"{found.num_cores} cores, {found.isa}"
    )
    limits = (
        f"peaks measured in this run: {peaks.s8_products_per_s / 1e9:.0f} G int8 and "
        f"{peaks.f32_products_per_s / 1e9:.0f} G float32 products a second, {peaks.bytes_per_s / 1e9:.0f} GB/s; "
        f"other processes took {found.others_share:.0%} of the processors"
    )
    rows = [
        (
            t.kernel,
            t.shape,
            str(t.steps),
            _percent(t.sparsity),
            f"{t.microseconds / 1e3:.2f}",
            f"{t.share:.1%}",
            _percent(t.roofline),
            t.why,
        )
        for t in found.totals
    ]
    columns = ("kernel", "shape", "-steps", "-sparsity", "-ms", "-share", "-roofline", "why")
    slowest = sorted(found.steps, key=lambda step: -step.microseconds)[:5]
    tail = [
        f"  {step.microseconds / 1e3:8.3f} ms  {step.roofline:4.0%}  {step.kernel}  {step.name}" for step in slowest
    ]
    return "\n".join([what, limits, "", _table(columns, rows), "", "slowest steps", *tail])


def benchmark_text(found: BenchmarkResult) -> str:
    """The lines that users of the originals know, and the percentiles."""
    ranks = "  ".join(f"{rank} {value:.2f}" for rank, value in found.percentiles_ms.items())
    return "\n".join(
        [
            f"Original Model Path: {found.model_path}",
            f"Batch Size: {found.batch_size}",
            f"Sequence Length: {found.sequence_length}",
            f"Scenario: {found.scenario}, {found.num_streams} streams, {found.num_cores or 'all'} cores",
            f"Throughput (items/sec): {found.items_per_second:.4f}",
            f"Latency Mean (ms/batch): {found.mean_ms:.4f}",
            f"Latency Median (ms/batch): {found.median_ms:.4f}",
            f"Latency Std (ms/batch): {found.std_ms:.4f}",
            f"Latency percentiles (ms/batch): {ranks}",
            f"Iterations: {found.iterations}",
            f"Other processes took {found.others_share:.0%} of the processors.",
        ]
    )


def comparison_text(found: Comparison) -> str:
    """One row an engine."""
    rows = [
        (
            row.engine,
            f"{row.median_ms:.2f}",
            *(f"{row.percentiles_ms[rank]:.2f}" for rank in ("90.0%", "95.0%", "99.0%")),
            f"{row.items_per_second:.2f}",
            f"{row.time_over_ours:.2f}",
            f"{row.load_s:.1f}",
            f"{row.peak_mb:.0f}",
            "" if row.agreement is None else f"{row.agreement.max_difference:.2g}",
            "" if row.agreement is None else f"{row.agreement.same_argmax:.1%}",
            f"{row.others_share:.0%}",
        )
        for row in found.rows
    ]
    columns = (
        "engine",
        "-median ms",
        "-p90",
        "-p95",
        "-p99",
        "-items/s",
        "-time/ours",
        "-load s",
        "-peak MB",
        "-max difference",
        "-same argmax",
        "-others",
    )
    head = (
        f"{found.model_path}: batch {found.batch_size}, {found.sequence_length} tokens, {found.num_cores} cores, "
        f"{found.num_streams} streams, {found.rounds} alternating rounds"
    )
    missing = [f"{name}: {how}" for name, how in found.missing.items()]
    return "\n".join([head, "", _table(columns, rows), *missing])


def kernels_text(found: KernelReport) -> str:
    """One row a layer and one for each other kernel, with what the dispatcher takes marked."""
    rows = [
        (
            row.kind,
            row.isa,
            f"{row.k} to {row.n}",
            str(row.tokens),
            f"{row.sparsity:.0%}",
            f"{row.dense_us:.0f}",
            f"{row.sparse_us:.0f}",
            "" if row.code_us is None else f"{row.code_us:.0f}",
            _percent(row.peak_share),
            row.taken,
            _slower(row),
        )
        for row in found.rows
    ]
    columns = (
        "type",
        "isa",
        "layer",
        "-tokens",
        "-sparsity",
        "-dense us",
        "-sparse us",
        "-code us",
        "-of peak",
        "taken",
        "",
    )
    isas = list(found.peaks)
    others = [
        (
            row.kernel,
            row.shape,
            str(row.tokens),
            *(f"{row.us[isa]:.1f}" for isa in isas),
            _percent(row.roofline),
            row.taken,
            _slower(row),
        )
        for row in found.steps
    ]
    times = [f"-{isa} us" for isa in isas]
    other_columns = ("kernel", "shape", "-tokens", *times, "-of limit", "taken", "")
    return "\n".join([_table(columns, rows), "", _table(other_columns, others), "", *found.summary])


def _slower(row: KernelRow | StepRow) -> str:
    return "" if row.is_fastest else f"SLOWER by {row.loss:.0%}"
