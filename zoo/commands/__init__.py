"""The library's part of the `zoo` command. A command's function parses, calls and prints.

What a command calls is imported within it, so that `zoo --help` loads typer and nothing else.
"""

from __future__ import annotations

import typer

from zoo.commands import auth, cache, models, recipes, search, training, versions

app = typer.Typer()
for part in (models, search, versions, cache, auth, recipes, training):
    app.add_typer(part.app)
