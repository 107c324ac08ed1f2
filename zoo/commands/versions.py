"""`zoo publish`, `tag`, `yank`, `delete`: the versions of a model in a registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.commands.arguments import StubArgument, VersionArgument
from zoo.terminal import Output, transfer_bars

app = typer.Typer()


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    stub: StubArgument,
    tag: Annotated[list[str] | None, typer.Option(help="a tag that moves to the new version; may be repeated")] = None,
    alias: Annotated[str | None, typer.Option(help="a second, short stub of the model, such as zoo:mini")] = None,
    skip_replay: Annotated[
        str | None, typer.Option(metavar="REASON", help="don't run the samples; the reason is kept with the version")
    ] = None,
) -> None:
    """Run the model's samples, upload what the registry lacks, then publish the version.

    Example: zoo publish my-model zoo:nlp/question_answering/minilm-l6/pytorch/huggingface/squad/base-none
    """
    import zoo

    with transfer_bars() as progress:
        done = zoo.publish(folder, stub, tags=tuple(tag or ()), alias=alias, skip_replay=skip_replay, progress=progress)
    for left_out in done.skipped:
        typer.echo(f"left out: {left_out}", err=True)
    Output.emit(done, str(done.stub) + ("" if done.created else "  (was there already)"))


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
def yank(
    stub: VersionArgument,
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
    stub: VersionArgument,
    reason: Annotated[str, typer.Option(help="shown to everybody who asks for the version")],
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
