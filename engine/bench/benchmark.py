"""Runs of a model on random tokens, timed one by one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import PipelineError
from engine.pipelines.backend import Backend, open_backend
from engine.pipelines.model_folder import ModelFolder, find_model_folder

_PERCENTILES = (25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """Times of single runs in milliseconds, each of `batch_size` sequences of `sequence_length` tokens.

    `items_per_second` is sequences over the time from the first run's start to the last run's end.
    `percentiles_ms` maps "50.0%" and its like to the run time that so many runs stayed within.
    """

    engine: str
    model_path: str
    batch_size: int
    sequence_length: int
    num_cores: int | None
    seconds: float
    iterations: int
    items_per_second: float
    mean_ms: float
    median_ms: float
    std_ms: float
    percentiles_ms: Mapping[str, float]


def benchmark(
    model_path: Path | str,
    *,
    batch_size: int = 1,
    sequence_length: int = 384,
    num_cores: int | None = None,
    seconds: float = 10.0,
    warmup: float = 2.0,
    engine_type: str = "sparrow",
) -> BenchmarkResult:
    """Run the model for `seconds`, at least once, after `warmup` seconds, at least one run.

    Tokens are random ids of the model's vocabulary, none of them padding.

    Raises PipelineError for a wrong folder, engine or number, ModelError for a model that can't be run.
    """
    if batch_size < 1 or sequence_length < 1 or not seconds >= 0 or not warmup >= 0:
        raise PipelineError("batch_size and sequence_length must be 1 or more, seconds and warmup 0 or more")
    folder = find_model_folder(model_path)
    reach = folder.longest_sequence
    if reach is not None and sequence_length > reach:
        raise PipelineError(f"sequence length {sequence_length} is more than the model's {reach}")
    backend = open_backend(folder.model, engine_type, num_cores)
    try:
        inputs = _random_inputs(backend, _vocabulary(folder), batch_size, sequence_length)
        _timed_runs(backend, inputs, warmup)
        times_s, ran_s = _timed_runs(backend, inputs, seconds)
    finally:
        backend.close()
    times_ms = times_s * 1000
    ranks = np.percentile(times_ms, _PERCENTILES)
    return BenchmarkResult(
        engine=engine_type,
        model_path=str(folder.model),
        batch_size=batch_size,
        sequence_length=sequence_length,
        num_cores=num_cores,
        seconds=ran_s,
        iterations=len(times_ms),
        items_per_second=batch_size * len(times_ms) / ran_s,
        mean_ms=float(times_ms.mean()),
        median_ms=float(np.median(times_ms)),
        std_ms=float(times_ms.std()),
        percentiles_ms={f"{rank}%": float(value) for rank, value in zip(_PERCENTILES, ranks, strict=True)},
    )


def _vocabulary(folder: ModelFolder) -> int:
    stated = folder.config.get("vocab_size")
    if isinstance(stated, int) and not isinstance(stated, bool) and stated > 0:
        return stated
    return folder.tokenizer().get_vocab_size()


def _random_inputs(backend: Backend, vocabulary: int, batch: int, sequence: int) -> dict[str, NDArray[np.int64]]:
    fixed = backend.fixed_shape
    if fixed[0] not in (None, batch) or fixed[1] not in (None, sequence):
        raise PipelineError(f"the model file is fixed to batch {fixed[0]} and sequence length {fixed[1]}")
    makers = {
        "input_ids": np.random.default_rng(0).integers(0, vocabulary, (batch, sequence), np.int64),
        "attention_mask": np.ones((batch, sequence), np.int64),
        "token_type_ids": np.zeros((batch, sequence), np.int64),
    }
    unknown = [name for name in backend.input_names if name not in makers]
    if unknown:
        raise PipelineError(f"the model wants inputs {unknown}; a benchmark can make {list(makers)}")
    return {name: makers[name] for name in backend.input_names}


def _timed_runs(
    backend: Backend, inputs: Mapping[str, NDArray[np.int64]], seconds: float
) -> tuple[NDArray[np.float64], float]:
    """Return each run's seconds, at least one, and the seconds of all of them with what lies between."""
    times: list[float] = []
    begin = start = time.perf_counter()
    while not times or start - begin < seconds:
        backend.run(inputs)
        end = time.perf_counter()
        times.append(end - start)
        start = end
    return np.array(times), start - begin
