"""Runs of a model on random tokens, timed one by one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.bench.inputs import check_length, random_inputs, vocabulary
from engine.bench.noise import Noise
from engine.bench.run_times import RunTimes
from engine.cores import default_cores
from engine.errors import PipelineError
from engine.pipelines.backend import Backend, open_backend
from engine.pipelines.model_folder import find_model_folder

Scenario = Literal["sync", "async", "elastic"]
Span = tuple[float, float]
"""When a run began and ended, in seconds of the performance counter."""


@dataclass(frozen=True, slots=True)
class BenchmarkResult(RunTimes):
    """Runs of `batch_size` sequences of `sequence_length` tokens, from the first one's start to the last one's end.

    `others_share` is what other processes took of the processors meanwhile, 0 to 1.
    """

    engine: str
    model_path: str
    batch_size: int
    sequence_length: int
    num_cores: int | None
    scenario: Scenario
    num_streams: int
    seconds: float
    others_share: float


def benchmark(
    model_path: Path | str,
    *,
    batch_size: int = 1,
    sequence_length: int = 384,
    num_cores: int | None = None,
    num_streams: int | None = None,
    scenario: Scenario = "sync",
    seconds: float = 10.0,
    warmup: float = 2.0,
    engine_type: str = "sparrow",
) -> BenchmarkResult:
    """Run the model for `seconds`, at least once, after `warmup` seconds, at least one run.

    Scenario "sync" runs on all cores, one after another; "async" and "elastic" keep `num_streams` runs going (half
    of the cores by default), each on its share of the cores. Tokens are random ids of the model's vocabulary.

    Raises PipelineError for a wrong folder, engine or number, ModelError for a model that can't be run.
    """
    if batch_size < 1 or sequence_length < 1 or not seconds >= 0 or not warmup >= 0:
        raise PipelineError("batch_size and sequence_length must be 1 or more, seconds and warmup 0 or more")
    streams = streams_of(scenario, num_cores, num_streams)
    folder = find_model_folder(model_path)
    check_length(folder, sequence_length)
    backend = open_backend(folder.model, engine_type, num_cores, streams)
    try:
        _refuse_fixed(backend, batch_size, sequence_length)
        inputs = random_inputs(backend.input_names, vocabulary(folder), batch_size, sequence_length)
        _spans(backend, inputs, warmup, streams)
        noise = Noise.start()
        spans = _spans(backend, inputs, seconds, streams)
        others = noise.others_share()
    finally:
        backend.close()
    ran_s = max(end for _, end in spans) - min(begin for begin, _ in spans)
    return BenchmarkResult(
        engine=engine_type,
        model_path=str(folder.model),
        batch_size=batch_size,
        sequence_length=sequence_length,
        num_cores=num_cores,
        scenario=scenario,
        num_streams=streams,
        seconds=ran_s,
        others_share=others,
        **asdict(RunTimes.of([end - begin for begin, end in spans], batch_size, ran_s)),
    )


def streams_of(scenario: Scenario, num_cores: int | None, num_streams: int | None) -> int:
    """How many runs a scenario keeps going. Raises PipelineError for a number that doesn't fit it."""
    if num_streams is not None and num_streams < 1:
        raise PipelineError(f"num_streams is {num_streams}; it must be 1 or more")
    if scenario == "sync":
        if num_streams not in (None, 1):
            raise PipelineError(f"the scenario sync has one stream, not {num_streams}; use --scenario async")
        return 1
    cores = num_cores or default_cores()
    return min(cores, num_streams or max(1, cores // 2))


def _refuse_fixed(backend: Backend, batch: int, sequence: int) -> None:
    fixed = backend.fixed_shape
    if fixed[0] not in (None, batch) or fixed[1] not in (None, sequence):
        raise PipelineError(f"the model file is fixed to batch {fixed[0]} and sequence length {fixed[1]}")


def _spans(backend: Backend, inputs: Mapping[str, NDArray[np.int64]], seconds: float, streams: int) -> Sequence[Span]:
    """All runs of so many callers at once, each at least one."""
    if streams == 1:
        return _timed_runs(backend, inputs, seconds)
    with ThreadPoolExecutor(streams) as pool:
        callers = [pool.submit(_timed_runs, backend, inputs, seconds) for _ in range(streams)]
        return [span for caller in callers for span in caller.result()]


def _timed_runs(backend: Backend, inputs: Mapping[str, NDArray[np.int64]], seconds: float) -> list[Span]:
    spans: list[Span] = []
    begin = start = time.perf_counter()
    while not spans or start - begin < seconds:
        backend.run(inputs)
        end = time.perf_counter()
        spans.append((start, end))
        start = end
    return spans
