"""`zoo registry`: the commands of who runs one."""

from __future__ import annotations

import typer

from registry.commands import access, exchange, operation

app = typer.Typer(name="registry", no_args_is_help=True, help="Run a registry and look after it.")
app.add_typer(operation.app)
app.add_typer(exchange.app)
app.add_typer(access.app)
