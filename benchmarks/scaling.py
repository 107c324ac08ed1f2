"""How a model's time grows with its tokens, shrinks with sparsity, and is divided among threads.

    python -m benchmarks.scaling base_qdq.onnx [--tokens 16,64,128,384] [--sparsities 0,0.5,0.8] [--threads 1,2]

`base_qdq.onnx` is a dense, quantized model: for each sparsity, that share of the 1x4 blocks of every linear layer is
set to zero at random, and the engine chooses its kernels as it always does. All are timed in turns. It prints one JSON
document and, on standard error, the tables of docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from engine import cost_model, plan
from engine.bench.noise import Noise
from engine.compiler import compile_onnx
from engine.library import default_isa, runs_code
from engine.program import LinearU8, Program
from engine.runtime import CompiledModel

Times = dict[tuple[float, int, int], float]
"""Median milliseconds by sparsity, threads and tokens."""


def pruned(program: Program, sparsity: float) -> Program:
    """The program with that share of the 1x4 blocks of each integer layer zero; kernels chosen anew."""
    random = np.random.default_rng(0)
    steps = []
    for step in program.steps:
        if isinstance(step, LinearU8) and sparsity > 0:
            n, k = step.weight.shape
            kept = random.random((n, -(-k // 4))) >= sparsity
            step = replace(step, weight=step.weight * kept.repeat(4, axis=1)[:, :k], layout=None)
        steps.append(step)
    return cost_model.choose(replace(program, steps=tuple(steps)), default_isa(), code=runs_code())


def measure(
    model: Path, sparsities: Sequence[float], threads: Sequence[int], tokens: Sequence[int], turns: int
) -> tuple[Times, float]:
    """The times, and the share of the processors that other processes took meanwhile."""
    program = compile_onnx(model)
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        models = {}
        for sparsity in sparsities:
            path = folder / f"{sparsity}.plan"
            path.write_bytes(plan.encode(pruned(program, sparsity)))
            for count in threads:
                models[sparsity, count] = opened.enter_context(CompiledModel.from_plan(path, count))
            print(f"compiled at {sparsity:.0%}", file=sys.stderr)
        noise = Noise.start()
        times: Times = {}
        for length in tokens:
            taken: dict[tuple[float, int], list[float]] = {key: [] for key in models}
            for turn, (key, compiled) in product(range(turns + 1), models.items()):
                inputs = {name: np.ones((1, length), np.int64) for name in compiled.input_names}
                begin = time.perf_counter()
                compiled.run(inputs)
                if turn > 0:
                    taken[key].append(time.perf_counter() - begin)
            times |= {(*key, length): statistics.median(seconds) * 1e3 for key, seconds in taken.items()}
        return times, noise.others_share()


def tables(times: Times) -> str:
    """Milliseconds by sparsity and tokens, one table for each number of threads, and what threads gain."""
    threads = sorted({count for _, count, _ in times})
    shown = [_table(f"ms, threads: {count}", times, lambda s, n, c=count: f"{times[s, c, n]:.1f}") for count in threads]
    for count in threads[1:]:
        title = f"{threads[0]} thread's time over that of {count}"
        shown.append(_table(title, times, lambda s, n, c=count: f"{times[s, threads[0], n] / times[s, c, n]:.2f}"))
    return "\n\n".join(shown)


def _table(title: str, times: Times, cell: Callable[[float, int], str]) -> str:
    tokens = sorted({length for _, _, length in times})
    sparsities = sorted({sparsity for sparsity, _, _ in times})
    lines = [
        [title, *(f"{length} tokens" for length in tokens)],
        ["---"] * (len(tokens) + 1),
        *([f"{sparsity:.0%} gone", *(cell(sparsity, length) for length in tokens)] for sparsity in sparsities),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Reads the command line and prints the result."""

    def whole(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    def shares(text: str) -> list[float]:
        return [float(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=whole, default=[16, 64, 128, 256, 384])
    parser.add_argument("--sparsities", type=shares, default=[0, 0.5, 0.7, 0.8, 0.9, 0.95])
    parser.add_argument("--threads", type=whole, default=[1, 2])
    parser.add_argument("--turns", type=int, default=7)
    given = parser.parse_args()
    times, others = measure(given.model, given.sparsities, given.threads, given.tokens, given.turns)
    rows = [{"sparsity": s, "threads": t, "tokens": n, "ms": round(ms, 3)} for (s, t, n), ms in times.items()]
    print(tables(times), file=sys.stderr)
    print(json.dumps({"model": str(given.model), "others_share": round(others, 3), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
