"""`zoo pull`, `import`, `show`, `lineage`, `ls`, `rm`: models, from where they are to this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.commands.arguments import StubArgument
from zoo.terminal import Output, counting_bar, size_text, transfer_bars

app = typer.Typer()


@app.command()
def pull(stub: StubArgument, role: Annotated[str | None, typer.Option(help="only files of this role")] = None) -> None:
    """Fetch a model, verify every file and print its local path.

    Example: zoo pull zoo:minilm-l6-animals-base --role deployment
    """
    import zoo

    with transfer_bars() as progress:
        path = zoo.pull(stub, role, progress=progress)
    Output.emit({"stub": stub, "role": role, "path": str(path)}, str(path))


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
    facts["metrics"] = ", ".join(f"{name} {value:.6g}" for name, value in facts.get("metrics", {}).items())
    told = {"yanked": version.yank_reason, "alias": version.alias, "tags": ", ".join(version.tags), **facts}
    lines = [f"{version.name}@v{version.version}  {version.digest}"]
    lines += [f"  {key:<16} {value}" for key, value in told.items() if value not in (None, "")]
    lines += [f"  {entry.role:<16} {size_text(entry.size_bytes):>9}  {entry.path}" for entry in version.manifest.files]
    lines += [f"  {check}" for check in version.checks]
    Output.emit(version, "\n".join(lines))


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
    users: dict[str, list[str]] = {}
    for row in found["used_by"]:
        users.setdefault(row["stub"], []).append(row["relation"])
    lines += [f"{user}  made from it ({', '.join(relations)})" for user, relations in users.items()]
    Output.emit(found, "\n".join(lines) or "nothing is recorded")


@app.command("ls")
def list_models() -> None:
    """Models in the cache."""
    from zoo.housekeeping import ls

    found = ls()
    Output.emit(found, "\n".join(str(model) for model in found) or "the cache is empty")


@app.command("rm")
def remove(stub: StubArgument) -> None:
    """Remove a model from the cache; the registry keeps it."""
    from zoo.housekeeping import rm

    removed = rm(stub)
    Output.emit(removed, f"removed {removed}")
