"""`zoo registry export`, `import`: models from one registry to another, or to a web server, by files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from registry.commands.options import DatabaseOption, FolderOption, existing, settings_of
from zoo.terminal import Output, size_text, step_bars

app = typer.Typer()


@app.command("export")
def export_registry(
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="the bundle to write, such as models.tar; with --static a folder")
    ],
    stubs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUB]...", help="all versions of a model, or one: @v3; all by default"),
    ] = None,
    static: Annotated[
        bool, typer.Option("--static", help="write all public models as plain files for any web server")
    ] = False,
    folder: FolderOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Write models into one file for another registry to import; or all public ones as a folder of plain files.

    Example: zoo registry export models.tar zoo:minilm-l6-animals-base zoo:@acme/bert@v3 --folder /srv/zoo
    Example: zoo registry export site --static && python -m http.server --directory site 8000,
    then ZOO_ENDPOINT=http://127.0.0.1:8000 zoo pull zoo:NAME
    """
    from registry import admin

    if static and stubs:
        raise typer.BadParameter(f"--static writes all public models; leave {' '.join(stubs)} out")
    settings = existing(folder, database_url)
    if static:
        with step_bars() as progress:
            plain = admin.export_static(settings, target, progress)
        Output.emit(plain, f"{plain.models} models, {plain.versions} versions, {size_text(plain.size_bytes)}")
        return
    with step_bars() as progress:
        report = admin.export_bundle(settings, target, stubs or (), progress)
    Output.emit(report, f"{report.versions} versions, {report.blobs} files, {size_text(report.size_bytes)}")


@app.command("import")
def import_registry(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a bundle that export wrote")],
    folder: FolderOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Take in the versions of a bundle; what is here already stays, and it may be serving meanwhile.

    A version that the checks refuse, published before there were any, is left out and named, with exit code 1.
    Example: zoo registry import models.tar --folder /srv/zoo
    """
    from registry import admin

    with step_bars() as progress:
        report = admin.import_bundle(settings_of(folder, database_url), file, progress)
    Output.emit(report, f"{report.versions} versions, of which {report.added} are new; {size_text(report.size_bytes)}")
    tell_refused(report.refused)


def tell_refused(refused: Mapping[str, str]) -> None:
    """Names the versions that were left out, if there are any, and ends with exit code 1 then."""
    for stub, reason in refused.items():
        typer.echo(f"left out: {stub}: {reason}", err=True)
    if refused:
        raise typer.Exit(1)
