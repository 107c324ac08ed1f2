"""What `zoo benchmark` does with its options: those of the originals' command, and comparisons."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, get_args

import zoo
from engine.bench.benchmark import BenchmarkResult, Scenario, benchmark, streams_of
from engine.bench.compare import compare, peer
from engine.bench.kernels import benchmark_kernels
from engine.bench.tables import benchmark_text, comparison_text, kernels_text
from engine.errors import PipelineError
from zoo.terminal import Output, counting_bar, plain

EXIT_SLOWER: Final = 1
_SCHEDULERS = {"sync": "single_stream", "async": "multi_stream", "elastic": "elastic"}


def run_kernels(*, quick: bool, isa: str | None, num_cores: int | None, quiet: bool) -> int:
    """Measures the kernels and prints them; returns the exit code: not 0 where a slower kernel would be taken."""
    isas = [name.strip() for name in isa.split(",")] if isa else None
    with _progress("kernels", quiet) as progress:
        found = benchmark_kernels(quick=quick, isas=isas, num_cores=num_cores, progress=progress)
    Output.emit({**plain(found), "is_sound": found.is_sound}, kernels_text(found))
    return 0 if found.is_sound else EXIT_SLOWER


def run_benchmark(
    model: str,
    *,
    input_shapes: str | None,
    batch_size: int,
    sequence_length: int,
    num_cores: int | None,
    scenario: str,
    num_streams: int | None,
    seconds: float,
    warmup: float,
    engine_type: str,
    compare_with: str | None,
    peer_pythons: Sequence[str],
    peer_models: Sequence[str],
    rounds: int,
    export_path: Path | None,
    publish: bool,
    quiet: bool,
) -> None:
    """Measures a model, alone or in turns with others, prints the result and writes it to `export_path`.

    `publish` adds a model's own result to the version that its stub names. Raises PipelineError for options that don't
    fit, and what `benchmark`, `compare` and `zoo.publish_benchmark` raise.
    """
    if input_shapes is not None:
        batch_size, sequence_length = parse_shapes(input_shapes)
    if compare_with is None:
        result = benchmark(
            model,
            batch_size=batch_size,
            sequence_length=sequence_length,
            num_cores=num_cores,
            num_streams=num_streams,
            scenario=_scenario(scenario),
            seconds=seconds,
            warmup=warmup,
            engine_type=engine_type,
        )
        document, text = legacy_document(model, result), benchmark_text(result)
        if publish:
            view = zoo.publish_benchmark(model, result)
            text += f"\npublished for {view.name}@v{view.version} on {view.record.hardware.cpu}"
    else:
        pythons, models = _pairs("--peer-python", peer_pythons), _pairs("--peer-model", peer_models)
        names = [name.strip() for name in compare_with.split(",") if name.strip()]
        with _progress("rounds", quiet) as progress:
            found = compare(
                model,
                [peer(name, pythons, models) for name in names],
                batch_size=batch_size,
                sequence_length=sequence_length,
                num_cores=num_cores,
                num_streams=streams_of(_scenario(scenario), num_cores, num_streams),
                seconds=seconds,
                warmup=warmup,
                rounds=rounds,
                progress=progress,
            )
        document, text = plain(found), comparison_text(found)
    if export_path is not None:
        export_path.write_text(json.dumps(document, indent=1), "utf-8")
    Output.emit(document, text)


def parse_shapes(text: str) -> tuple[int, int]:
    """Batch and sequence length of shapes as DeepSparse takes them, "[1,384],[1,384]". Raises PipelineError."""
    try:
        shapes = json.loads(f"[{text}]")
    except ValueError:
        shapes = []
    good = shapes and all(
        isinstance(shape, list) and len(shape) == 2 and all(type(size) is int and size > 0 for size in shape)
        for shape in shapes
    )
    if not good or any(shape != shapes[0] for shape in shapes):
        raise PipelineError(f"--input_shapes is {text!r}; write one [batch,sequence] for each input, all equal")
    return shapes[0][0], shapes[0][1]


def legacy_document(model: str, result: BenchmarkResult) -> dict[str, Any]:
    """The result as deepsparse.benchmark writes it to its JSON file, with our own fields beside those."""
    shape = [result.batch_size, result.sequence_length]
    return {
        "engine": result.engine,
        "version": version("sparrow-zoo"),
        "orig_model_path": model,
        "model_path": result.model_path,
        "batch_size": result.batch_size,
        "input_shapes": [shape],
        "sequence_length": result.sequence_length,
        "num_cores": result.num_cores,
        "scenario": result.scenario,
        "scheduler": _SCHEDULERS[result.scenario],
        "seconds_to_run": result.seconds,
        "num_streams": result.num_streams,
        "benchmark_result": {
            "scenario": _SCHEDULERS[result.scenario],
            "items_per_sec": result.items_per_second,
            "seconds_ran": result.seconds,
            "iterations": result.iterations,
            "median": result.median_ms,
            "mean": result.mean_ms,
            "std": result.std_ms,
            **result.percentiles_ms,
        },
        "fraction_of_supported_ops": 1.0,
        "others_share": result.others_share,
    }


def _scenario(text: str) -> Scenario:
    name = {"single_stream": "sync", "multi_stream": "async"}.get(text, text)
    for known in get_args(Scenario):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise PipelineError(f"--scenario is {text!r}; sync, async and elastic are possible")


def _pairs(flag: str, given: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    wrong = [name for name, equals, path in pairs if not equals or not path]
    if wrong:
        raise PipelineError(f"{flag} is written NAME=PATH, such as {flag} deepsparse=/path/to/it; got {wrong[0]!r}")
    return {name: path for name, _, path in pairs}


@contextmanager
def _progress(what: str, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    if quiet:
        yield None
        return
    with counting_bar(what) as bar:
        yield bar
