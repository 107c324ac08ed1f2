"""`zoo registry serve`, `upgrade`, `gc`, `scrub`, `backup`, ...: running a registry and looking after its store."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from registry.commands.options import DatabaseOption, FolderOption, existing, settings_of
from zoo.terminal import Output, size_text, step_bars, waiting

EXIT_INTEGRITY = 4

app = typer.Typer()


@app.command("serve")
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

    run(settings_of(folder, database_url, host=host, port=port))


@app.command("init")
@app.command("upgrade")
def upgrade_registry(folder: FolderOption = None, database_url: DatabaseOption = None) -> None:
    """Make the registry's database and folder, or bring them to this version."""
    from registry import admin

    settings = settings_of(folder, database_url)
    with waiting("the database is brought to this version"):
        revision = admin.upgrade(settings)
    Output.emit({"revision": revision}, f"the schema is at {revision}")


@app.command("gc")
def collect_registry(
    folder: FolderOption = None,
    database_url: DatabaseOption = None,
    grace_hours: Annotated[float, typer.Option(min=0)] = 24,
    dry_run: Annotated[bool, typer.Option(help="only say what would go")] = False,
    force: Annotated[bool, typer.Option("--force", help="also where the database knows few of the files")] = False,
) -> None:
    """Remove files that no version names."""
    from registry import admin

    settings, grace = existing(folder, database_url), timedelta(hours=grace_hours)
    with step_bars() as progress:
        report = admin.gc(settings, grace, dry_run=dry_run, force=force, report=progress)
    Output.emit(report, f"{len(report.removed)} files, {size_text(report.freed_bytes)}")


@app.command("scrub")
def scrub_registry(folder: FolderOption = None, database_url: DatabaseOption = None) -> None:
    """Hash every file at rest again; exit code 4 if one is damaged or missing."""
    from registry import admin

    with step_bars() as progress:
        report = admin.scrub(existing(folder, database_url), progress)
    bad = [
        f"{digest}  {state}, needed by {', '.join(stubs)}"
        for state, found in (("damaged", report.damaged), ("missing", report.missing))
        for digest, stubs in found.items()
    ]
    bad += ["publish these versions again: what is damaged or missing is asked for"] if bad else []
    Output.emit(report, "\n".join([f"{report.checked} files checked", *bad]))
    if not report.is_sound:
        raise typer.Exit(EXIT_INTEGRITY)


@app.command("adopt")
def adopt_store(folder: FolderOption = None, database_url: DatabaseOption = None) -> None:
    """Give a store of files that another registry had to this database, as after a move or a restore.

    The other registry is refused it from then on. The bucket is that of ZOO_REGISTRY_BLOB_STORE.
    Example: zoo registry adopt --database-url postgresql://zoo@localhost/new --folder /srv/zoo
    """
    from registry import admin

    done = admin.adopt(existing(folder, database_url))
    before = f"; it was {done.previous_id}'s" if done.previous_id else ""
    Output.emit(done, f"{done.store} belongs to the registry {done.registry_id} now{before}")


@app.command("verify")
def verify_registry(folder: FolderOption = None, database_url: DatabaseOption = None) -> None:
    """The same as scrub."""
    scrub_registry(folder, database_url)


@app.command("backup")
def backup_registry(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="where the bundle is written, such as zoo.tar")],
    folder: FolderOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Write the whole registry, rows and files, into one bundle; it may be serving meanwhile.

    Example: zoo registry backup zoo-2026-11-24.tar --folder /srv/zoo
    """
    from registry import admin

    with step_bars() as progress:
        report = admin.backup(existing(folder, database_url), file, progress)
    Output.emit(report, f"{report.rows} rows, {report.blobs} files, {size_text(report.size_bytes)}")


@app.command("restore")
def restore_registry(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a bundle that backup wrote")],
    folder: FolderOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Fill a new, empty registry from a bundle; the database may be of the other kind.

    Example: zoo registry restore zoo-2026-11-24.tar --database-url postgresql://zoo@localhost/zoo
    """
    from registry import admin

    with step_bars() as progress:
        report = admin.restore(settings_of(folder, database_url), file, progress)
    Output.emit(report, f"{report.rows} rows, {report.blobs} files, {size_text(report.size_bytes)}")
