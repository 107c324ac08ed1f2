"""The `zoo` command: parse, call, print; errors become exit codes.

Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 integrity, 5 not allowed, 6 offline or unavailable,
7 unsupported model. Data goes to standard output, everything else to standard error. `--json` and `--debug`
may stand anywhere on the command line.

One file holds every command, longer than others here: it is the map of what can be typed, and each function only
parses, calls and prints.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from zoo.terminal import Output, counting_bar, show_warnings_plainly, size_text, transfer_bars

if TYPE_CHECKING:
    from registry.settings import Settings

EXIT_INTEGRITY = 4
EXIT_UNSUPPORTED = 7
EXIT_INTERRUPTED = 130
PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
GLOBAL_FLAGS = ("--json", "--debug")


def _group(text: str) -> typer.Typer:
    return typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, help=text)


app = _group("Sparse models: find, fetch, train, export, run and serve them. Start with: zoo demo")
cache_app = _group("The local store of verified files.")
recipe_app = _group("Read, check and plan recipes.")
train_app = _group("Train a model by a recipe.")
registry_app = _group("Run a registry and look after it.")
token_app = _group("Tokens of this registry.")
scope_app = _group("Public and private scopes, such as @acme.")
auth_app = _group("The token that a registry knows you by.")
app.add_typer(cache_app, name="cache")
app.add_typer(recipe_app, name="recipe")
app.add_typer(train_app, name="train")
app.add_typer(registry_app, name="registry")
app.add_typer(auth_app, name="auth")
registry_app.add_typer(token_app, name="token")
registry_app.add_typer(scope_app, name="scope")

StubArgument = Annotated[str, typer.Argument(metavar="STUB", help="such as zoo:minilm-l6-animals-base")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="a zoo: stub, a folder or an .onnx file")]


@app.callback()
def _options(
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    Output.as_json, Output.debug = as_json, debug


# --- models ---------------------------------------------------------------------------------------------------------


@app.command()
def pull(stub: StubArgument, role: Annotated[str | None, typer.Option(help="only files of this role")] = None) -> None:
    """Fetch a model, verify every file and print its local path.

    Example: zoo pull zoo:minilm-l6-animals-base --role deployment
    """
    import zoo

    with transfer_bars() as progress:
        path = zoo.pull(stub, role, progress=progress)
    Output.emit({"stub": stub, "role": role, "path": str(path)}, str(path))


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    stub: StubArgument,
    tag: Annotated[list[str] | None, typer.Option(help="a tag that moves to the new version; may be repeated")] = None,
    alias: Annotated[str | None, typer.Option(help="the model's short stub")] = None,
) -> None:
    """Upload what the registry lacks, then publish the version.

    Example: zoo publish my-model zoo:nlp/question_answering/minilm-l6/pytorch/huggingface/squad/base-none
    """
    import zoo

    with transfer_bars() as progress:
        done = zoo.publish(folder, stub, tags=tuple(tag or ()), alias=alias, progress=progress)
    for left_out in done.skipped:
        typer.echo(f"left out: {left_out}", err=True)
    Output.emit(done, f"{done.stub}  v{done.version}" + ("" if done.created else "  (was there already)"))


@app.command("import")
def import_(
    origin: Annotated[str, typer.Argument(metavar="ORIGIN", help="hf:OWNER/NAME, or a folder as SparseZoo has them")],
    out: Annotated[Path | None, typer.Option(help="the new model folder; the model's short name by default")] = None,
    revision: Annotated[str | None, typer.Option(help="a branch, tag or commit of the hub")] = None,
    convert_pickles: Annotated[
        bool, typer.Option("--convert-pickles", help="read pickled weights in a process without network")
    ] = False,
) -> None:
    """Make a publishable folder of somebody else's model: measured, with a recipe, its licence kept.

    HF_ENDPOINT and HF_TOKEN say which hub and who asks. Example:
    zoo import hf:Intel/bert-large-uncased-squadv1.1-sparse-80-1x4-block-pruneofa --out bert-large-sparse
    """
    from zoo.importing import import_model

    target = out or Path(origin.rstrip("/").rpartition("/")[2] or "model").with_suffix("")
    with counting_bar("tensors measured") as counting:
        done = import_model(origin, target, revision=revision, convert_pickles=convert_pickles, counting=counting)
    for note in done.notes:
        typer.echo(f"note: {note}", err=True)
    Output.emit(done.summary(), str(done))


@app.command()
def show(stub: StubArgument) -> None:
    """What the registry knows of a model: version, metadata, files.

    Example: zoo show zoo:minilm-l6-animals-base@v1
    """
    import zoo

    version = zoo.resolve(stub)
    facts = version.manifest.metadata.model_dump(exclude_none=True)
    lines = [f"{version.name}@v{version.version}  {version.digest}", f"  alias      {version.alias or '-'}"]
    lines += [f"  tags       {', '.join(version.tags)}", *(f"  {key:<10} {value}" for key, value in facts.items())]
    lines += [f"  {entry.role:<14} {size_text(entry.size_bytes):>9}  {entry.path}" for entry in version.manifest.files]
    Output.emit(version, "\n".join(lines))


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="words of the name or description")] = "",
    domain: Annotated[str | None, typer.Option()] = None,
    task: Annotated[str | None, typer.Option()] = None,
    architecture: Annotated[str | None, typer.Option()] = None,
    dataset: Annotated[str | None, typer.Option()] = None,
    pattern: Annotated[str | None, typer.Option(help="such as block4")] = None,
    quantized: Annotated[bool | None, typer.Option()] = None,
    license_name: Annotated[str | None, typer.Option("--license", help="such as Apache-2.0")] = None,
    sparsity_min: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    f1_min: Annotated[float | None, typer.Option(min=0, max=100, help="percent")] = None,
    latency_max: Annotated[float | None, typer.Option(min=0, help="milliseconds, measured at batch size 1")] = None,
    size_max: Annotated[int | None, typer.Option(min=0, help="bytes of all files")] = None,
    best_for: Annotated[str | None, typer.Option(help="this-cpu or a CPU's name: rank what was measured on it")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
) -> None:
    """Find models in the registry.

    Example: zoo search --task question_answering --sparsity-min 0.8
    Example: zoo search --best-for this-cpu --f1-min 85 --latency-max 20
    """
    import zoo

    if best_for is not None:
        wanted = {"domain": domain, "task": task, "architecture": architecture, "dataset": dataset}
        _search_best(best_for, limit, f1_min=f1_min, latency_max_ms=latency_max, **wanted)
        return
    filters: dict[str, Any] = {
        "domain": domain,
        "task": task,
        "architecture": architecture,
        "dataset": dataset,
        "pattern": pattern,
        "license": license_name,
        "sparsity_min": sparsity_min,
        "f1_min": f1_min,
        "latency_max_ms": latency_max,
        "size_max": size_max,
    }
    page = zoo.search(text, quantized=quantized, limit=limit, **filters)
    lines = [
        f"{item.name}  v{item.latest_version}  {size_text(item.size_bytes)}  {item.alias or ''}" for item in page.items
    ]
    Output.emit(page, "\n".join(lines) or "no model matches")


def _search_best(cpu: str, limit: int, **wanted: str | float | None) -> None:
    from zoo.benchmark import this_hardware
    from zoo.client import RegistryClient
    from zoo.settings import Settings

    hardware = this_hardware()
    if cpu != "this-cpu":
        hardware = hardware.model_copy(update={"cpu": cpu})
    with RegistryClient(Settings.load()) as client:
        page = client.best(hardware, limit=limit, **wanted)
    lines = (
        [] if page.measured_on == "cpu" else [f"nothing was measured on {hardware.cpu}; on CPUs with {hardware.isa}:"]
    )
    for item in page.items:
        run = item.benchmark.record
        f1 = "-" if item.f1 is None else f"{item.f1:.2f}"
        lines.append(
            f"{item.name}@v{item.version}  F1 {f1}  {run.median_ms:.2f} ms  {run.threads} threads  {run.engine}"
        )
    Output.emit(page, "\n".join(lines) if page.items else "no model was measured that meets this")


@app.command()
def tag(stub: StubArgument, name: Annotated[str, typer.Argument(help="the tag to move here")]) -> None:
    """Move a tag to a version.

    Example: zoo tag zoo:minilm-l6-animals-base@v2 prod
    """
    from zoo.client import RegistryClient
    from zoo.settings import Settings
    from zoo.stub import Stub

    with RegistryClient(Settings.load()) as client:
        version = client.put_tag(Stub.parse(stub), name)
    Output.emit(version, f"{version.name}@{name} is v{version.version}")


@app.command()
def lineage(stub: StubArgument) -> None:
    """What a model was made from, and what was made from it.

    Example: zoo lineage zoo:minilm-l6-animals-base
    """
    from zoo.client import RegistryClient
    from zoo.settings import Settings
    from zoo.stub import Stub

    with RegistryClient(Settings.load()) as client:
        found = client.lineage(Stub.parse(stub))
    lines = [f"{row['relation']:<8} {row['stub'] or row['digest']}" for row in found["made_from"]]
    lines += [f"{row['stub']}  made from it ({row['relation']})" for row in found["used_by"]]
    Output.emit(found, "\n".join(lines) or "nothing is recorded")


ReasonOption = Annotated[str, typer.Option(help="shown to everybody who asks for the version")]


@app.command()
def yank(
    stub: Annotated[str, typer.Argument(metavar="STUB", help="with its version, such as zoo:NAME@v3")],
    reason: Annotated[str | None, typer.Option(help="shown to who pinned the version")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="take an earlier yank back")] = False,
) -> None:
    """Leave a version out wherever nothing pins it.

    Example: zoo yank zoo:minilm-l6-animals-base@v3 --reason "wrong tokenizer; use v4"
    """
    from zoo.client import RegistryClient
    from zoo.settings import Settings
    from zoo.stub import Stub

    if undo == (reason is not None):
        raise typer.BadParameter("give either --reason or --undo")
    with RegistryClient(Settings.load()) as client:
        version = client.yank(Stub.parse(stub), reason)
    Output.emit(version, f"{version.stub} is {'back' if undo else 'yanked'}")


@app.command()
def delete(
    stub: Annotated[str, typer.Argument(metavar="STUB", help="with its version, such as zoo:NAME@v3")],
    reason: ReasonOption,
    force: Annotated[bool, typer.Option("--force", help="also if other models were made from it")] = False,
) -> None:
    """Delete a version from the registry for good; its number stays taken.

    Example: zoo delete zoo:minilm-l6-animals-base@v3 --reason "licence withdrawn"
    """
    from zoo.client import RegistryClient
    from zoo.settings import Settings
    from zoo.stub import Stub

    with RegistryClient(Settings.load()) as client:
        client.delete_version(Stub.parse(stub), reason, force=force)
    Output.emit({"stub": stub, "reason": reason}, f"{stub} is deleted")


# --- the cache, and who you are -------------------------------------------------------------------------------------


@app.command("ls")
def list_models() -> None:
    """Models in the cache."""
    from zoo.housekeeping import ls

    found = ls()
    Output.emit(found, "\n".join(str(model) for model in found) or "the cache is empty")


@cache_app.command("ls")
def list_cached() -> None:
    """Models in the cache, and plans of models whose own folder can't be written."""
    from engine.plan_cache import cached_plans
    from zoo.housekeeping import ls
    from zoo.settings import Settings

    found = [*ls(), *cached_plans(Settings.load().cache)]
    Output.emit(found, "\n".join(map(str, found)) or "the cache is empty")


@app.command("rm")
def remove(stub: StubArgument) -> None:
    """Remove a model from the cache; the registry keeps it."""
    from zoo.housekeeping import rm

    removed = rm(stub)
    Output.emit(removed, f"removed {removed}")


@cache_app.command("verify")
def verify_cache() -> None:
    """Hash every cached file again, and fetch again what is damaged."""
    from zoo.housekeeping import verify

    with transfer_bars() as progress:
        report = verify(progress=progress)
    Output.emit(report, str(report))
    if not report.is_sound:
        raise typer.Exit(EXIT_INTEGRITY)


@cache_app.command("prune")
def prune_cache(
    max_age_days: Annotated[float, typer.Option(min=0, help="remove what was not used for this long")] = 30,
    dry_run: Annotated[bool, typer.Option(help="only say what would go")] = False,
) -> None:
    """Remove models and plans that were not used for a while."""
    from engine.plan_cache import prune_plans
    from zoo.housekeeping import prune
    from zoo.settings import Settings

    report = prune(max_age_s=max_age_days * 86_400, dry_run=dry_run)
    plans = prune_plans(Settings.load().cache, max_age_days * 86_400, dry_run=dry_run)
    document = {
        "versions": report.versions,
        "plans": plans.plans,
        "freed_bytes": report.freed_bytes + plans.freed_bytes,
    }
    Output.emit(document, f"{report}\n{plans}")


@auth_app.command()
def login() -> None:
    """Keep a token for the registry in use; it is read from standard input, never from the command line."""
    from zoo.settings import Settings, save_token

    settings = Settings.load()
    token = typer.prompt("Token", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
    path = save_token(settings, token)
    Output.emit({"endpoint": settings.endpoint, "file": str(path)}, f"kept for {settings.endpoint} in {path}")


@auth_app.command()
def logout() -> None:
    """Forget the token of the registry in use."""
    from zoo.settings import Settings, forget_token

    settings = Settings.load()
    known = forget_token(settings)
    Output.emit({"endpoint": settings.endpoint, "removed": known}, "forgotten" if known else "there was none")


@auth_app.command()
def whoami() -> None:
    """Ask the registry whom it takes you for."""
    from zoo.client import RegistryClient
    from zoo.settings import Settings

    with RegistryClient(Settings.load()) as client:
        answer = client.whoami()
    Output.emit(answer, "\n".join(f"{key}: {value}" for key, value in answer.items()))


# --- recipes, training, export --------------------------------------------------------------------------------------

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="a file or a zoo: stub")]
RecipeArgs = Annotated[
    str | None, typer.Option("--recipe_args", "--recipe-args", help="variables, as JSON or k=v,k2=v2")
]


@recipe_app.command("show")
def show_recipe(recipe: RecipeArgument, recipe_args: RecipeArgs = None) -> None:
    """Print a recipe with its variables worked out."""
    from zoo.recipe import Recipe

    text = Recipe.load(recipe, recipe_args).to_yaml()
    Output.emit({"recipe": recipe, "yaml": text}, text)


@recipe_app.command("lint")
def lint_recipe(recipe: RecipeArgument, recipe_args: RecipeArgs = None) -> None:
    """List a recipe's mistakes; exit code 1 if there is an error among them."""
    from zoo.recipe import lint

    findings = lint(recipe, recipe_args)
    Output.emit(findings, "\n".join(str(finding) for finding in findings) or "no mistakes found")
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


@recipe_app.command("plan")
def plan_recipe(
    recipe: RecipeArgument,
    recipe_args: RecipeArgs = None,
    steps_per_epoch: Annotated[int, typer.Option("--steps_per_epoch", "--steps-per-epoch", min=1)] = 100,
) -> None:
    """Show a recipe's schedule as a table: what happens at which epoch and step."""
    from zoo.recipe import Recipe
    from zoo.schedule import plan, render

    rows = plan(Recipe.load(recipe, recipe_args), steps_per_epoch)
    Output.emit(rows, render(rows))


@train_app.command("question-answering", context_settings=PASS_THROUGH)
@train_app.command("question_answering", context_settings=PASS_THROUGH, hidden=True)
def train_question_answering(context: typer.Context) -> None:
    """Fine-tune on questions; takes the flags of the Hugging Face example script, and --help."""
    from zoo.train.tasks.question_answering import main as train

    raise typer.Exit(train(list(context.args)))


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a trained folder")],
    out: Annotated[Path | None, typer.Option(help="the deployment folder; DIR/deployment by default")] = None,
    task: Annotated[str, typer.Option()] = "question_answering",
) -> None:
    """Turn a trained folder into a deployment folder: ONNX, tokenizer, report; checked before it is there."""
    from zoo.export import export as run

    path = run(folder, out, task=task)
    Output.emit({"path": str(path)}, str(path))


# --- the engine -----------------------------------------------------------------------------------------------------


@app.command()
def run(
    model: ModelArgument,
    question: Annotated[str, typer.Option("--question", "-q")],
    context: Annotated[str, typer.Option("--context", "-c", help="the text that holds the answer; @FILE reads it")],
    num_cores: Annotated[int | None, typer.Option("--num_cores", "--num-cores", min=1)] = None,
) -> None:
    """Answer one question.

    Example: zoo run zoo:minilm-l6-animals-pruned80.4block_quantized -q "Who feeds the otters?" -c @otters.txt
    """
    import engine

    text = Path(context[1:]).read_text("utf-8") if context.startswith("@") else context
    with engine.Pipeline.create("question_answering", model, num_cores=num_cores) as pipeline:
        answer = pipeline(question=question, context=text)
    Output.emit(
        answer.model_dump(), f"{answer.answer}   (score {answer.score:.3f}, characters {answer.start}-{answer.end})"
    )


@app.command()
def evaluate(
    model: ModelArgument,
    dataset: Annotated[Path, typer.Option(help="a file in SQuAD form")],
    engine_type: Annotated[str, typer.Option("--engine", help="sparrow or onnxruntime")] = "sparrow",
    compare: Annotated[str | None, typer.Option(help="another engine, for how often both pick the same tokens")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first so many questions")] = None,
    num_cores: Annotated[int | None, typer.Option("--num_cores", "--num-cores", min=1)] = None,
) -> None:
    """Measure exact match and F1 on a question-answering file.

    Example: zoo evaluate my-model --dataset dev.json --compare onnxruntime
    """
    from engine.bench import compare_argmax, evaluate_squad
    from engine.pipelines import Pipeline
    from zoo.squad import read_squad

    examples = read_squad(dataset)[:limit]
    result: dict[str, Any] = {"model": model, "questions": len(examples), "engines": {}}
    with ExitStack() as opened:
        pipelines = {
            name: opened.enter_context(
                Pipeline.create("question_answering", model, num_cores=num_cores, batch_size=16, engine_type=name)
            )
            for name in (engine_type, compare)
            if name is not None
        }
        for name, pipeline in pipelines.items():
            with counting_bar(f"questions, {name}") as progress:
                result["engines"][name] = evaluate_squad(pipeline, examples, progress=progress)
        if compare is not None:
            result["same_argmax"] = compare_argmax(pipelines[engine_type], pipelines[compare], examples)
    lines = [
        f"{name:<12} exact match {s['exact_match']:.2f} %, F1 {s['f1']:.2f} %" for name, s in result["engines"].items()
    ]
    same = [f"same start and end on {100 * result['same_argmax']:.2f} % of the windows"] if compare else []
    Output.emit(result, "\n".join([f"{len(examples)} questions", *lines, *same]))


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
    thread_pinning: Annotated[str | None, typer.Option("--thread_pinning", "-pin", hidden=True)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
    quick: Annotated[bool, typer.Option(help="kernels: one shape only")] = False,
    isa: Annotated[str | None, typer.Option(help="kernels: only these instruction sets, comma between")] = None,
) -> None:
    """Measure latency and throughput on random input, alone or in turns with other engines.

    Example: zoo benchmark my-model --batch_size 16 --sequence_length 384 --compare onnxruntime,openvino

    `zoo benchmark kernels` measures each kernel, and fails where the engine would take a slower one.
    """
    from engine.bench.command import run_benchmark, run_kernels

    if model == "kernels" and not Path(model).exists():
        raise typer.Exit(run_kernels(quick=quick, isa=isa, num_cores=num_cores, quiet=quiet))
    if thread_pinning not in (None, "none", "core", "numa"):
        raise typer.BadParameter(f"--thread_pinning is {thread_pinning!r}; none, core and numa are possible")
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
    num_workers: Annotated[int | None, typer.Option("--num_workers", "--num-workers", min=1)] = None,
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 5543,
) -> None:
    """Serve a model over HTTP: POST /predict.

    Example: zoo serve --task question_answering --batch_size 1 --model_path minilm-squad
    """
    from engine.server import ServerSettings, read_config
    from engine.server import serve as run_server

    flags = {"num_cores": num_cores, "num_workers": num_workers, "host": host, "port": port}
    if config_file is not None:
        settings = read_config(config_file, **flags)
    elif task and (model_path or model):
        endpoint = {"task": task, "model": model_path or model, "batch_size": batch_size or 1}
        given = {key: value for key, value in flags.items() if value is not None}
        settings = ServerSettings.checked({"endpoints": [endpoint], **given}, "command line")
    else:
        raise typer.BadParameter("give --task and --model_path, or --config_file")
    raise typer.Exit(run_server(settings))


# --- the registry ---------------------------------------------------------------------------------------------------

FolderOption = Annotated[Path | None, typer.Option(help="where blobs and the SQLite database lie")]
DatabaseOption = Annotated[str | None, typer.Option("--database-url", help="postgresql://...; SQLite by default")]


@registry_app.command("serve")
def serve_registry(
    folder: FolderOption = None,
    database_url: DatabaseOption = None,
    host: Annotated[str | None, typer.Option()] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535)] = None,
) -> None:
    """Serve a registry; its database is made and migrated first.

    Example: zoo registry serve --folder /srv/zoo --port 8080
    """
    from registry import serve as run

    run(_registry_settings(folder, database_url, host=host, port=port))


@registry_app.command("init")
@registry_app.command("upgrade")
def upgrade_registry(folder: FolderOption = None, database_url: DatabaseOption = None) -> None:
    """Make the registry's database and folder, or bring them to this version."""
    from registry import admin

    revision = admin.upgrade(_registry_settings(folder, database_url))
    Output.emit({"revision": revision}, f"the schema is at {revision}")


@registry_app.command("gc")
def collect_registry(
    folder: FolderOption = None,
    database_url: DatabaseOption = None,
    grace_hours: Annotated[float, typer.Option(min=0)] = 24,
    dry_run: Annotated[bool, typer.Option(help="only say what would go")] = False,
) -> None:
    """Remove files that no version names."""
    from datetime import timedelta

    from registry import admin

    report = admin.gc(_registry_settings(folder, database_url), timedelta(hours=grace_hours), dry_run=dry_run)
    Output.emit(report, f"{len(report.removed)} files, {size_text(report.freed_bytes)}")


@registry_app.command("scrub")
def scrub_registry(folder: FolderOption = None, database_url: DatabaseOption = None) -> None:
    """Hash every file at rest again; exit code 4 if one is damaged or missing."""
    from registry import admin

    report = admin.scrub(_registry_settings(folder, database_url))
    bad = [
        f"{digest}  damaged or missing, needed by {', '.join(s)}"
        for digest, s in (report.damaged | report.missing).items()
    ]
    Output.emit(report, "\n".join([f"{report.checked} files checked", *bad]))
    if not report.is_sound:
        raise typer.Exit(EXIT_INTEGRITY)


@registry_app.command("verify")
def verify_registry(folder: FolderOption = None, database_url: DatabaseOption = None) -> None:
    """The same as scrub."""
    scrub_registry(folder, database_url)


@registry_app.command("backup")
def backup_registry(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="where the bundle is written, such as zoo.tar")],
    folder: FolderOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Write the whole registry, rows and files, into one bundle; it may be serving meanwhile.

    Example: zoo registry backup zoo-2026-11-24.tar --folder /srv/zoo
    """
    from registry import admin

    report = admin.backup(_registry_settings(folder, database_url), file)
    Output.emit(report, f"{report.rows} rows, {report.blobs} files, {size_text(report.size_bytes)}")


@registry_app.command("restore")
def restore_registry(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a bundle that backup wrote")],
    folder: FolderOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Fill a new, empty registry from a bundle; the database may be of the other kind.

    Example: zoo registry restore zoo-2026-11-24.tar --database-url postgresql://zoo@localhost/zoo
    """
    from registry import admin

    report = admin.restore(_registry_settings(folder, database_url), file)
    Output.emit(report, f"{report.rows} rows, {report.blobs} files, {size_text(report.size_bytes)}")


@registry_app.command("export")
def export_registry(
    static: Annotated[Path, typer.Option(metavar="DIR", help="the folder that a web server will serve")],
    folder: FolderOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Write every public model into a folder; any web server makes a read-only registry of it.

    Example: zoo registry export --static site && python -m http.server --directory site 8000,
    then ZOO_ENDPOINT=http://127.0.0.1:8000 zoo pull zoo:NAME
    """
    from registry import admin

    report = admin.export_static(_registry_settings(folder, database_url), static)
    Output.emit(report, f"{report.models} models, {report.versions} versions, {size_text(report.size_bytes)}")


@token_app.command("create")
def create_token(
    name: str,
    scope: Annotated[
        list[str] | None, typer.Option(help="write:@acme/* or read:nlp/*; may be repeated; write:* by default")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="such as 12h, 30d or 52w; never by default")] = None,
    folder: FolderOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Make a token; it is shown once.

    Example: zoo registry token create ci --scope write:@acme/* --scope read:* --expires 30d
    """
    from registry import admin

    settings = _registry_settings(folder, database_url)
    text = admin.create_token(settings, name, _duration(expires), scope or ["write:*"])
    Output.emit({"name": name, "token": text}, text)


def _duration(text: str | None) -> timedelta | None:
    if text is None:
        return None
    units = {"h": 3_600, "d": 86_400, "w": 604_800}
    if not (text[:-1].isascii() and text[:-1].isdigit() and len(text) < 8 and text[-1] in units):
        raise typer.BadParameter(f"{text!r} is no length of time; write 12h, 30d or 52w")
    return timedelta(seconds=int(text[:-1]) * units[text[-1]])


@token_app.command("list")
def list_tokens(folder: FolderOption = None, database_url: DatabaseOption = None) -> None:
    """List the tokens, never their text."""
    from registry import admin

    tokens = admin.list_tokens(_registry_settings(folder, database_url))
    Output.emit(
        tokens,
        "\n".join(
            f"{token.name}  {token.state}  {token.created_at:%Y-%m-%d}  {' '.join(token.scopes)}" for token in tokens
        ),
    )


@token_app.command("revoke")
def revoke_token(name: str, folder: FolderOption = None, database_url: DatabaseOption = None) -> None:
    """End a token."""
    from registry import admin

    admin.revoke_token(_registry_settings(folder, database_url), name)
    Output.emit({"name": name, "state": "revoked"}, f"{name} is revoked")


@scope_app.command("private")
def make_scope_private(
    scope: Annotated[str, typer.Argument(help="such as @acme")],
    folder: FolderOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Hide a scope's models from everybody whose token doesn't cover them.

    Example: zoo registry scope private @acme
    """
    _set_scope(scope, folder, database_url, private=True)


@scope_app.command("public")
def make_scope_public(scope: str, folder: FolderOption = None, database_url: DatabaseOption = None) -> None:
    """Show a scope's models to everybody."""
    _set_scope(scope, folder, database_url, private=False)


def _set_scope(scope: str, folder: Path | None, database_url: str | None, *, private: bool) -> None:
    from registry import admin

    count = admin.set_scope(_registry_settings(folder, database_url), scope, private=private)
    state = "private" if private else "public"
    Output.emit({"scope": scope, "state": state, "models": count}, f"{scope} is {state} now, with {count} models")


@scope_app.command("list")
def list_scopes(folder: FolderOption = None, database_url: DatabaseOption = None) -> None:
    """List the scopes that were made private, or public again."""
    from registry import admin

    found = admin.list_scopes(_registry_settings(folder, database_url))
    Output.emit(found, "\n".join(f"{name}  {state}" for name, state in found.items()) or "every scope is public")


@registry_app.command("audit")
def audit_registry(
    actor: Annotated[str | None, typer.Option(help="a token's name, or operator")] = None,
    action: Annotated[str | None, typer.Option(help="such as publish, tag, token.create")] = None,
    target: Annotated[str | None, typer.Option(help="the beginning of a name, such as @acme/")] = None,
    since: Annotated[datetime | None, typer.Option(help="UTC", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    folder: FolderOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Show who changed what, newest first.

    Example: zoo registry audit --target @acme/ --since 2026-11-01
    """
    from registry import admin

    after = since.replace(tzinfo=UTC) if since else None
    settings = _registry_settings(folder, database_url)
    found = admin.audit(settings, actor=actor, action=action, target=target, since=after, limit=limit)
    lines = [f"{e.at:%Y-%m-%dT%H:%M:%SZ}  {e.actor or '-'}  {e.action}  {e.target}  {e.detail or ''}" for e in found]
    Output.emit(found, "\n".join(lines) or "nothing was changed")


def _registry_settings(folder: Path | None, database_url: str | None, **more: object) -> Settings:
    from registry.settings import Settings

    given = {"storage": folder, "database_url": database_url, **more}
    return Settings.load(**{key: value for key, value in given.items() if value is not None})


# --- the whole chain ------------------------------------------------------------------------------------------------


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Option(help="where everything is put; emptied first if it is an earlier demo")
    ] = Path("demo"),
) -> None:
    """Run the whole chain on this machine: registry, training, export, publishing, serving. About five minutes."""
    from zoo.demo.chain import run as run_demo

    Output.emit(run_demo(folder), "")


@app.command()
def version() -> None:
    """The installed version."""
    from importlib.metadata import version as installed

    Output.emit({"version": installed("sparrow-zoo")}, installed("sparrow-zoo"))


# --- the originals' command names -----------------------------------------------------------------------------------


def legacy_train_question_answering() -> NoReturn:
    """sparseml.transformers.train.question_answering, with its flags."""
    main(["train", "question-answering", *sys.argv[1:]])


def legacy_export_onnx() -> NoReturn:
    """sparseml.transformers.export_onnx --model_path DIR --task TASK."""
    main(["legacy-export-onnx", *sys.argv[1:]])


def legacy_server() -> NoReturn:
    """deepsparse.server, with its flags."""
    main(["serve", *sys.argv[1:]])


def legacy_benchmark() -> NoReturn:
    """deepsparse.benchmark MODEL, with its main flags."""
    main(["benchmark", *sys.argv[1:]])


def legacy_download() -> NoReturn:
    """sparsezoo.download STUB [--save-dir DIR]."""
    main(["legacy-download", *sys.argv[1:]])


@app.command("legacy-export-onnx", hidden=True)
def _export_onnx(
    model_path: Annotated[Path, typer.Option("--model_path", "--model-path")],
    task: Annotated[str, typer.Option()] = "question_answering",
    sequence_length: Annotated[int | None, typer.Option("--sequence_length", "--sequence-length")] = None,
) -> None:
    """The exported graph takes every sequence length, so --sequence_length has no effect."""
    if sequence_length is not None:
        typer.echo("note: --sequence_length has no effect; the model takes every length", err=True)
    export(model_path, None, task)


@app.command("legacy-download", hidden=True)
def _download(stub: StubArgument, save_dir: Annotated[Path | None, typer.Option("--save-dir")] = None) -> None:
    """Pull, and copy the files to a folder of one's own."""
    import shutil

    import zoo

    with transfer_bars() as progress:
        path = zoo.pull(stub, progress=progress)
    if save_dir is not None:
        path = Path(shutil.copytree(path, save_dir))
    Output.emit({"stub": stub, "path": str(path)}, str(path))


# --- errors become exit codes ---------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> NoReturn:
    """Runs one command and ends the process with its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    flags = [flag for flag in GLOBAL_FLAGS if flag in arguments]
    Output.as_json, Output.debug = "--json" in flags, "--debug" in flags
    arguments = [*flags, *(a for a in arguments if a not in GLOBAL_FLAGS)]
    show_warnings_plainly()
    try:
        code = app(arguments, prog_name="zoo", standalone_mode=False) or 0
    except BaseException as error:
        code = _exit_code(error)
        if Output.debug:
            raise
    sys.exit(code)


def _exit_code(error: BaseException) -> int:
    """Shows an error as its kind deserves; returns the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        print("interrupted; what was fetched is kept, run the command again to go on", file=sys.stderr)
        return EXIT_INTERRUPTED
    code = _code_of(error)
    show = getattr(error, "show", None)  # of a usage error: it names the command and its help
    if callable(show) and not Output.as_json:
        show()
    else:
        Output.fail(error, code)
    return code


def _code_of(error: BaseException) -> int:
    if type(error).__name__ == "UnsupportedModelError":
        return EXIT_UNSUPPORTED
    return int(getattr(error, "exit_code", 1))


if __name__ == "__main__":
    main()
