"""`zoo train` and `zoo export`: from a base model to a deployment folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.terminal import Output

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer()
train_app = typer.Typer(name="train", no_args_is_help=True, help="Train a model by a recipe.")
app.add_typer(train_app)


@train_app.command("question-answering", context_settings=PASS_THROUGH)
@train_app.command("question_answering", context_settings=PASS_THROUGH, hidden=True)
def train_question_answering(context: typer.Context) -> None:
    """Fine-tune on questions; takes the flags of the Hugging Face example script, and --help."""
    from zoo.train.tasks.question_answering import main as train

    raise typer.Exit(train(list(context.args)))


@train_app.command("text-classification", context_settings=PASS_THROUGH)
@train_app.command("text_classification", context_settings=PASS_THROUGH, hidden=True)
def train_text_classification(context: typer.Context) -> None:
    """Fine-tune on labelled texts; takes the flags of the Hugging Face example script, and --help."""
    from zoo.train.tasks.text_classification import main as train

    raise typer.Exit(train(list(context.args)))


@train_app.command("token-classification", context_settings=PASS_THROUGH)
@train_app.command("token_classification", context_settings=PASS_THROUGH, hidden=True)
def train_token_classification(context: typer.Context) -> None:
    """Fine-tune on tagged words, such as named entities; takes the Hugging Face example's flags, and --help."""
    from zoo.train.tasks.token_classification import main as train

    raise typer.Exit(train(list(context.args)))


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a trained folder")],
    out: Annotated[Path | None, typer.Option(help="the deployment folder; DIR/deployment by default")] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="question_answering, text_classification, token_classification; by default as DIR was trained"
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace the deployment folder whatever it holds, except DIR itself")
    ] = False,
) -> None:
    """Turn a trained folder into a deployment folder: ONNX, tokenizer, report; checked before it is there."""
    from zoo.export import export as run

    path = run(folder, out, task=task, overwrite=overwrite)
    Output.emit({"path": str(path)}, str(path))
