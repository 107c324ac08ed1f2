"""`zoo cache`: the local store of verified files."""

from __future__ import annotations

import typer

from zoo.terminal import Output, transfer_bars

EXIT_INTEGRITY = 4

app = typer.Typer(name="cache", no_args_is_help=True, help="The local store of verified files.")


@app.command("verify")
def verify_cache() -> None:
    """Hash every cached file again, and fetch again what is damaged or missing."""
    from zoo.housekeeping import verify

    with transfer_bars() as progress:
        report = verify(progress=progress)
    Output.emit(report, str(report))
    if not report.is_sound:
        raise typer.Exit(EXIT_INTEGRITY)
