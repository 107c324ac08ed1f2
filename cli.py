"""The `zoo` command: puts the packages' commands together; errors become exit codes.

Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 integrity, 5 not allowed, 6 offline or unavailable,
7 unsupported model. Data goes to standard output, everything else to standard error. `--json` and `--debug`
may stand anywhere on the command line.

A command stands beside its subject, in zoo/commands/, engine/commands.py or registry/commands/; here are those that
join two packages, and the originals' command names.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from engine.commands import app as engine_app
from registry.commands import app as registry_app
from registry.commands.exchange import tell_refused
from registry.commands.options import DatabaseOption, FolderOption, settings_of
from zoo.commands import app as zoo_app
from zoo.commands.arguments import StubArgument
from zoo.commands.cache import app as cache_app
from zoo.commands.training import export
from zoo.terminal import Output, show_warnings_plainly, size_text, step_bars, transfer_bars

EXIT_UNSUPPORTED = 7
EXIT_INTERRUPTED = 130
GLOBAL_FLAGS = ("--json", "--debug")

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Sparse models: find, fetch, train, export, run and serve them. Start with: zoo demo",
)
app.add_typer(zoo_app)
app.add_typer(engine_app)
app.add_typer(registry_app)


@app.callback()
def _options(
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
) -> None:
    Output.as_json, Output.debug = as_json, debug


@registry_app.command("mirror")
def mirror_registry(
    url: Annotated[str, typer.Argument(metavar="URL", help="the other registry, such as https://models.example")],
    name: Annotated[list[str] | None, typer.Option(metavar="PREFIX", help="only such names; may be repeated")] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="delete what was deleted there, rather than yank it")
    ] = False,
    folder: FolderOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Copy what is missing from another registry into this one; run again, it goes on and follows yanks and tags.

    What was deleted there is yanked here with its reason, if it came from elsewhere; --delete takes its files away.
    ZOO_TOKEN or the token kept for URL opens private models. Exit code 1 if versions had to be left out.
    Example: zoo registry mirror https://models.example --name nlp/ --name @acme/ --folder /srv/zoo
    """
    from registry import admin
    from zoo.progress import ProgressEvent
    from zoo.remote import RemoteRegistry

    settings = settings_of(folder, database_url)
    with step_bars() as progress:

        def transferred(event: ProgressEvent) -> None:
            progress(event.action, event.done_bytes, event.total_bytes, in_bytes=True)

        with RemoteRegistry(url, settings.storage / "mirror", transferred) as source:
            report = admin.mirror(settings, source, name or (), progress, delete=delete)
    told = f"{report.added} new, {report.changed} changed, {report.deleted} deleted there, {report.known} known"
    Output.emit(report, f"{told}; {size_text(report.size_bytes)}")
    tell_refused(report.refused)


@cache_app.command("ls")
def list_cached() -> None:
    """Models in the cache, and plans of models whose own folder can't be written."""
    from engine.plan_cache import cached_plans
    from zoo.housekeeping import ls
    from zoo.settings import Settings

    found = [*ls(), *cached_plans(Settings.load().cache)]
    Output.emit(found, "\n".join(map(str, found)) or "the cache is empty")


@cache_app.command("prune")
def prune_cache(
    max_age_days: Annotated[float, typer.Option(min=0, help="remove what was not used for this long")] = 30,
    dry_run: Annotated[bool, typer.Option(help="only say what would go")] = False,
) -> None:
    """Remove models and plans that were not used for a while; models that a process maps or fetches stay."""
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


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Option(help="where everything is put; emptied first if it is an earlier demo")
    ] = Path("demo"),
) -> None:
    """Run the whole chain on this machine: registry, training, export, publishing, serving. About four minutes."""
    from zoo.demo.chain import run as run_demo

    Output.emit(run_demo(folder), "")


@app.command()
def version() -> None:
    """The installed version."""
    from importlib.metadata import version as installed

    Output.emit({"version": installed("sparrow-zoo")}, installed("sparrow-zoo"))


def legacy_train_question_answering() -> NoReturn:
    """sparseml.transformers.train.question_answering, with or without `train`, with its flags."""
    main(["train", "question-answering", *sys.argv[1:]])


def legacy_train_text_classification() -> NoReturn:
    """sparseml.transformers.train.text_classification, with or without `train`, with its flags."""
    main(["train", "text-classification", *sys.argv[1:]])


def legacy_train_token_classification() -> NoReturn:
    """sparseml.transformers.train.token_classification, with or without `train`, with its flags."""
    main(["train", "token-classification", *sys.argv[1:]])


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
    task: Annotated[str | None, typer.Option()] = None,
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

    if save_dir is not None:
        _check_free(save_dir)
    with transfer_bars() as progress:
        path = zoo.pull(stub, progress=progress)
    if save_dir is not None:  # copyfile leaves the cache's read-only modes behind
        path = Path(shutil.copytree(path, save_dir, copy_function=shutil.copyfile, dirs_exist_ok=True))
    Output.emit({"stub": stub, "path": str(path)}, str(path))


def _check_free(folder: Path) -> None:
    from zoo.disk import file_in_the_way
    from zoo.errors import ZooError

    if blocked := file_in_the_way(folder):
        raise ZooError(f"{blocked} is a file; give another folder to --save-dir")
    if folder.is_dir() and any(folder.iterdir()):
        raise ZooError(f"{folder} isn't empty; give another folder to --save-dir")


def main(argv: list[str] | None = None) -> NoReturn:
    """Runs one command and ends the process with its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    flags = [flag for flag in GLOBAL_FLAGS if flag in arguments]
    Output.as_json, Output.debug = "--json" in flags, "--debug" in flags
    arguments = [*flags, *(a for a in arguments if a not in GLOBAL_FLAGS)]
    show_warnings_plainly()
    command = typer.main.get_command(app)
    try:
        _check_values(command, arguments)
        code = command(arguments, prog_name="zoo", standalone_mode=False) or 0
    except BaseException as error:
        code = _exit_code(error)
        if Output.debug:
            raise
    sys.exit(code)


def _check_values(command: Any, arguments: Sequence[str]) -> None:
    """Raises a usage error for an option without its value, for which the parser would take the option behind it."""
    options: dict[str, Any] = {}
    for word, following in pairwise(arguments):
        if word == "--":
            return
        if word in getattr(command, "commands", {}):
            command = command.commands[word]
            names = ((name, param) for param in command.params for name in (*param.opts, *param.secondary_opts))
            options = {name: param for name, param in names if name.startswith("-")}
        elif word in options and not options[word].is_flag and following in (*options, "--help"):
            raise typer.BadParameter(f"{word} needs a value, and {following} is an option of its own")


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
