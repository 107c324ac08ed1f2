"""`zoo run`, `evaluate`, `benchmark`, `explain`, `serve`: what the engine does with a model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.terminal import Output, counting_bar, waiting

if TYPE_CHECKING:
    from engine.server import ServerSettings

app = typer.Typer()

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="a zoo: stub, a folder or an .onnx file")]

_LOADING = "loading the model; the first time it is compiled, then its plan is kept"


def _compile_first(model: str) -> None:
    """Leaves only a plan to be opened for what follows, and is being measured."""
    import engine
    from engine.pipelines.model_folder import find_model_folder

    with waiting(_LOADING):
        engine.compile(find_model_folder(model).model, 1).close()


@app.command()
def run(
    model: ModelArgument,
    question: Annotated[str | None, typer.Option("--question", "-q")] = None,
    context: Annotated[
        str | None, typer.Option("--context", "-c", help="the text that holds the answer; @FILE reads it")
    ] = None,
    task: Annotated[str, typer.Option("--task", help="what else the model does, such as ner")] = "question_answering",
    text: Annotated[str | None, typer.Option("--text", "-t", help="what another task reads; @FILE reads it")] = None,
    labels: Annotated[str | None, typer.Option("--labels", help="zero-shot: the classes, commas between")] = None,
    aggregation_strategy: Annotated[
        str | None,
        typer.Option("--aggregation_strategy", "--aggregation-strategy", help="ner: none, simple, first, average, max"),
    ] = None,
    num_cores: Annotated[int | None, typer.Option("--num_cores", "--num-cores", min=1)] = None,
) -> None:
    """Answer one question, or do what another task does with one text.

    Example: zoo run zoo:minilm-l6-animals-pruned80.4block_quantized -q "Who feeds the otters?" -c @otters.txt
    Example: zoo run my-model --task ner --aggregation_strategy first --text "Ada Lovelace lived in London."
    Example: zoo run my-model --task zero_shot_text_classification --text @mail.txt --labels "praise,complaint"
    """
    import engine
    from engine.pipelines.plain_text import plain_text

    given = {"--question": question, "--context": context, "--text": text, "--labels": labels}
    fields = _request_fields(task, {flag: _read(value) for flag, value in _given(given).items()})
    options = _given({"num_cores": num_cores, "aggregation_strategy": aggregation_strategy})
    with waiting(_LOADING):
        pipeline = engine.Pipeline.create(task, model, **options)
    with pipeline:
        answer = pipeline(**fields)
    Output.emit(answer.model_dump(), plain_text(answer))


def _read(value: str) -> str:
    return Path(value[1:]).read_text("utf-8") if value.startswith("@") else value


def _request_fields(task: str, given: Mapping[str, str]) -> dict[str, str]:
    """Return the task's request of the flags that hold it."""
    from engine.errors import PipelineError
    from engine.pipelines.tasks import find_task

    try:
        kind = find_task(task)
    except PipelineError as error:
        raise typer.BadParameter(str(error)) from None
    flags = {name: f"--{name}" if name in ("question", "context", "labels") else "--text" for name in kind.form_fields}
    if given.keys() != set(flags.values()):
        raise typer.BadParameter(f"{kind.task} takes {' and '.join(flags.values())}, and no other text")
    return {name: given[flag] for name, flag in flags.items()}


@app.command()
def evaluate(
    model: ModelArgument,
    dataset: Annotated[Path, typer.Option(help="SQuAD's JSON, labelled texts, or CoNLL's columns: as training reads")],
    task: Annotated[str, typer.Option("--task", help="what the model does")] = "question_answering",
    engine_type: Annotated[str, typer.Option("--engine", help="sparrow or onnxruntime")] = "sparrow",
    compare: Annotated[str | None, typer.Option(help="another engine, to measure beside it")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first so many examples")] = None,
    num_cores: Annotated[int | None, typer.Option("--num_cores", "--num-cores", min=1)] = None,
) -> None:
    """Measure how right a model is on a file: exact match and F1 of answers, accuracy of labels, F1 of entities.

    Example: zoo evaluate my-model --dataset dev.json --compare onnxruntime
    Example: zoo evaluate my-model --task text_classification --dataset dev.tsv
    """
    from engine.bench import compare_argmax, evaluation_of
    from engine.pipelines import Pipeline

    kind = evaluation_of(task)
    examples = kind.read(dataset)[:limit]
    result: dict[str, Any] = {"model": model, "task": kind.task, kind.unit: len(examples), "engines": {}}
    with ExitStack() as opened:
        with waiting(_LOADING):
            pipelines = {
                name: opened.enter_context(
                    Pipeline.create(
                        kind.task, model, num_cores=num_cores, batch_size=16, engine_type=name, **kind.options
                    )
                )
                for name in (engine_type, compare)
                if name is not None
            }
        for name, pipeline in pipelines.items():
            with counting_bar(f"{kind.unit}, {name}") as progress:
                result["engines"][name] = kind.measure(pipeline, examples, progress)
        if compare is not None and kind.task == "question_answering":
            result["same_argmax"] = compare_argmax(pipelines[engine_type], pipelines[compare], examples)
    Output.emit(result, "\n".join([f"{len(examples)} {kind.unit}", *_scores(result, 1 if kind.percent else 100)]))


def _scores(result: Mapping[str, Any], factor: int) -> list[str]:
    lines = []
    for name, scores in result["engines"].items():
        told = (f"{key.replace('_', ' ').replace('f1', 'F1')} {factor * score:.2f} %" for key, score in scores.items())
        lines.append(f"{name:<12} {', '.join(told)}")
    if "same_argmax" in result:
        lines.append(f"same start and end on {100 * result['same_argmax']:.2f} % of the windows")
    return lines


@app.command()
def benchmark(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a stub, folder or file; or: kernels")],
    batch_size: Annotated[int, typer.Option("--batch_size", "--batch-size", "-b", min=1)] = 1,
    sequence_length: Annotated[
        int, typer.Option("--sequence_length", "--sequence-length", "-seq_len", "--seq_len", min=1)
    ] = 128,
    input_shapes: Annotated[str | None, typer.Option("--input_shapes", "-i", "-shapes", help="such as [1,384]")] = None,
    num_cores: Annotated[int | None, typer.Option("--num_cores", "--num-cores", "-ncores", min=1)] = None,
    scenario: Annotated[str, typer.Option("--scenario", "-s", help="sync, async or elastic")] = "sync",
    num_streams: Annotated[int | None, typer.Option("--num_streams", "--num-streams", "-nstreams", min=1)] = None,
    seconds: Annotated[float, typer.Option("--time", "-t", min=0.1, help="seconds to measure")] = 10,
    warmup: Annotated[float, typer.Option("--warmup_time", "--warmup-time", "-w", min=0, help="seconds before")] = 2,
    engine_type: Annotated[str, typer.Option("--engine", "-e", help="sparrow or onnxruntime")] = "sparrow",
    compare: Annotated[str | None, typer.Option(help="other engines in turns: onnxruntime,openvino,deepsparse")] = None,
    peer_python: Annotated[list[str] | None, typer.Option(help="an engine's Python, as NAME=PATH")] = None,
    peer_model: Annotated[list[str] | None, typer.Option(help="an engine's form of the model, as NAME=PATH")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each engine")] = 7,
    export_path: Annotated[Path | None, typer.Option("--export_path", "--export-path", "-x")] = None,
    publish: Annotated[bool, typer.Option("--publish", help="add the result to the stub's version")] = False,
    thread_pinning: Annotated[str | None, typer.Option("--thread_pinning", "-pin", hidden=True)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
    quick: Annotated[bool, typer.Option(help="kernels: one shape only")] = False,
    isa: Annotated[str | None, typer.Option(help="kernels: only these instruction sets, comma between")] = None,
) -> None:
    """Measure latency and throughput on random input, alone or in turns with other engines.

    Example: zoo benchmark my-model --batch_size 16 --sequence_length 384 --compare onnxruntime,openvino
    Example: zoo benchmark zoo:minilm-l6-animals-base --publish

    `zoo benchmark kernels` measures each kernel, and fails where the engine would take a slower one.
    """
    from engine.bench.command import run_benchmark, run_kernels

    if model == "kernels" and not Path(model).exists():
        raise typer.Exit(run_kernels(quick=quick, isa=isa, num_cores=num_cores, quiet=quiet))
    if thread_pinning not in (None, "none", "core", "numa"):
        raise typer.BadParameter(f"--thread_pinning is {thread_pinning!r}; none, core and numa are possible")
    if publish and (compare or not model.startswith("zoo:")):
        raise typer.BadParameter("--publish needs a zoo: stub, whose version gets the record, and no --compare")
    if engine_type not in ("onnxruntime", "ort"):
        _compile_first(model)
    run_benchmark(
        model,
        input_shapes=input_shapes,
        batch_size=batch_size,
        sequence_length=sequence_length,
        num_cores=num_cores,
        scenario=scenario,
        num_streams=num_streams,
        seconds=seconds,
        warmup=warmup,
        engine_type=engine_type,
        compare_with=compare,
        peer_pythons=peer_python or [],
        peer_models=peer_model or [],
        rounds=rounds,
        export_path=export_path,
        publish=publish,
        quiet=quiet,
    )


@app.command()
def explain(
    model: ModelArgument,
    batch_size: Annotated[int, typer.Option("--batch_size", "--batch-size", "-b", min=1)] = 1,
    sequence_length: Annotated[int, typer.Option("--sequence_length", "--sequence-length", min=1)] = 128,
    num_cores: Annotated[int | None, typer.Option("--num_cores", "--num-cores", min=1)] = None,
    runs: Annotated[int, typer.Option(min=1, help="runs, of which each step's median counts")] = 15,
) -> None:
    """Show where a model's time goes: each step's kernel, share of time, share of the machine's limit, and why.

    Example: zoo explain my-model --sequence_length 384
    """
    from engine.bench.explain import explain as measure
    from engine.bench.tables import explanation_text

    _compile_first(model)
    found = measure(model, batch_size=batch_size, sequence_length=sequence_length, num_cores=num_cores, runs=runs)
    Output.emit(found, explanation_text(found))


@app.command()
def serve(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="the same as --model_path")] = None,
    task: Annotated[str | None, typer.Option("--task")] = None,
    model_path: Annotated[str | None, typer.Option("--model_path", "--model-path", help="stub or folder")] = None,
    config_file: Annotated[Path | None, typer.Option("--config_file", "--config-file", "--config")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch_size", "--batch-size", min=1)] = None,
    num_cores: Annotated[int | None, typer.Option("--num_cores", "--num-cores", min=1)] = None,
    num_workers: Annotated[int | None, typer.Option("--num_workers", "--num-workers", "--workers", min=1)] = None,
    host: Annotated[str | None, typer.Option(show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, show_default="5543")] = None,
    log_level: Annotated[
        str | None, typer.Option("--log_level", "--log-level", help="debug, info, warning, error or critical")
    ] = None,
    integration: Annotated[str | None, typer.Option(hidden=True)] = None,
    hot_reload_config: Annotated[bool, typer.Option("--hot_reload_config", "--hot-reload-config", hidden=True)] = False,
) -> None:
    """Serve a model over HTTP: POST /predict.

    Example: zoo serve --task question_answering --batch_size 1 --model_path minilm-squad
    """
    from engine.server import serve as run_server

    if model and model_path and model != model_path:
        raise typer.BadParameter(f"MODEL is {model}, but --model_path is {model_path}; give one of them")
    endpoint = {"task": task, "model": model_path or model, "batch_size": batch_size}
    cores = {"num_cores": num_cores, "num_workers": num_workers}
    flags = {**cores, "host": host, "port": port, "log_level": log_level, "integration": integration}
    if hot_reload_config:
        typer.echo("note: --hot-reload-config has no effect; restart the server after a change of its file", err=True)
    raise typer.Exit(run_server(_server_settings(config_file, _given(endpoint), _given(flags))))


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _server_settings(config_file: Path | None, endpoint: Mapping[str, Any], flags: Mapping[str, Any]) -> ServerSettings:
    from engine.server import ServerSettings, read_config

    if config_file is None:
        if not {"task", "model"} <= endpoint.keys():
            raise typer.BadParameter("give --task and --model_path, or --config_file")
        return ServerSettings.checked({"endpoints": [endpoint], **flags}, "command line")
    if endpoint:
        raise typer.BadParameter(
            f"{config_file} has endpoints of its own; set --task, MODEL or --model_path, and --batch_size there"
        )
    return read_config(config_file, **flags)
