"""`zoo auth`: who this machine is to a registry."""

from __future__ import annotations

import sys

import typer

from zoo.terminal import Output

app = typer.Typer(name="auth", no_args_is_help=True, help="The token that a registry knows you by.")


@app.command()
def login() -> None:
    """Keep a token for the registry in use; it is read from standard input, never from the command line."""
    from zoo.settings import Settings, save_token

    settings = Settings.load()
    token = typer.prompt("Token", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
    path = save_token(settings, token)
    Output.emit({"endpoint": settings.endpoint, "file": str(path)}, f"kept for {settings.endpoint} in {path}")


@app.command()
def logout() -> None:
    """Forget the token of the registry in use."""
    from zoo.settings import Settings, forget_token

    settings = Settings.load()
    known = forget_token(settings)
    Output.emit({"endpoint": settings.endpoint, "removed": known}, "forgotten" if known else "there was none")


@app.command()
def whoami() -> None:
    """Ask the registry whom it takes you for."""
    from zoo.client import RegistryClient
    from zoo.settings import Settings

    with RegistryClient(Settings.load()) as client:
        answer = client.whoami()
    told = {
        "name": answer.get("name") or "nobody: no token is set",
        "may write": "yes" if answer.get("may_write") else "no",
        "scopes": ", ".join(answer.get("scopes") or ()) or "-",
        "expires": answer.get("expires_at") or "never",
    }
    Output.emit(answer, "\n".join(f"{key:<9} {value}" for key, value in told.items()))
