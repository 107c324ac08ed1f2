"""Measuring a model: how fast it runs, and how well it answers."""

from engine.bench.benchmark import BenchmarkResult, benchmark
from engine.bench.evaluate import compare_argmax, evaluate_squad

__all__ = ["BenchmarkResult", "benchmark", "compare_argmax", "evaluate_squad"]
