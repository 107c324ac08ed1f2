"""Measuring a model: how fast it runs, where its time goes, and how well it answers."""

from engine.bench.benchmark import BenchmarkResult, benchmark
from engine.bench.compare import Comparison, compare
from engine.bench.evaluate import (
    Evaluation,
    compare_argmax,
    evaluate_labels,
    evaluate_squad,
    evaluate_tags,
    evaluation_of,
)
from engine.bench.explain import Explanation, explain
from engine.bench.kernels import KernelReport, benchmark_kernels

__all__ = [
    "BenchmarkResult",
    "Comparison",
    "Evaluation",
    "Explanation",
    "KernelReport",
    "benchmark",
    "benchmark_kernels",
    "compare",
    "compare_argmax",
    "evaluate_labels",
    "evaluate_squad",
    "evaluate_tags",
    "evaluation_of",
    "explain",
]
