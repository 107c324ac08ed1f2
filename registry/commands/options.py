"""What every command on a registry takes: where its files and rows lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from registry.settings import Settings

FolderOption = Annotated[Path | None, typer.Option(help="where blobs and the SQLite database lie")]
DatabaseOption = Annotated[str | None, typer.Option("--database-url", help="postgresql://...; SQLite by default")]


def settings_of(folder: Path | None, database_url: str | None, **more: object) -> Settings:
    """The registry's settings, with what the command line says above all else."""
    from registry.settings import Settings

    given = {"storage": folder, "database_url": database_url, **more}
    return Settings.load(**{key: value for key, value in given.items() if value is not None})


def existing(folder: Path | None, database_url: str | None) -> Settings:
    """The settings of a registry that is there; raises `StartError` rather than making one in a mistyped folder."""
    from registry.errors import StartError

    settings = settings_of(folder, database_url)
    file = Path(settings.database.removeprefix("sqlite:///"))
    if settings.database.startswith("sqlite:///") and not file.exists():
        raise StartError(f"there is no registry in {file.parent}; give its --folder, or make one: `zoo registry init`")
    return settings
