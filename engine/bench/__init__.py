"""Measuring a model: how fast it runs, and how well it answers."""

from engine.bench.benchmark import BenchmarkResult, benchmark
from engine.bench.evaluate import evaluate_squad

__all__ = ["BenchmarkResult", "benchmark", "evaluate_squad"]
