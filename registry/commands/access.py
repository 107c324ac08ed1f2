"""`zoo registry token`, `scope`, `audit`: who may do what, and who did."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from registry.commands.options import DatabaseOption, FolderOption, existing, settings_of
from zoo.terminal import Output, table

app = typer.Typer()
token_app = typer.Typer(name="token", no_args_is_help=True, help="Tokens of this registry.")
scope_app = typer.Typer(name="scope", no_args_is_help=True, help="Public and private scopes, such as @acme.")
app.add_typer(token_app)
app.add_typer(scope_app)


@token_app.command("create")
def create_token(
    name: str,
    scope: Annotated[
        list[str] | None, typer.Option(help="write:@acme/* or read:nlp/*; may be repeated; write:* by default")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="such as 12h, 30d or 52w; never by default")] = None,
    folder: FolderOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Make a token; it is shown once.

    Example: zoo registry token create ci --scope write:@acme/* --scope read:* --expires 30d
    """
    from registry import admin

    settings = settings_of(folder, database_url)
    text = admin.create_token(settings, name, _duration(expires), scope or ["write:*"])
    Output.emit({"name": name, "token": text}, text)
    typer.echo(f"note: keep it now, {name} is never shown again", err=True)


def _duration(text: str | None) -> timedelta | None:
    if text is None:
        return None
    units = {"h": 3_600, "d": 86_400, "w": 604_800}
    if not (text[:-1].isascii() and text[:-1].isdigit() and len(text) < 8 and text[-1] in units):
        raise typer.BadParameter(f"{text!r} is no length of time; write 12h, 30d or 52w")
    return timedelta(seconds=int(text[:-1]) * units[text[-1]])


@token_app.command("list")
def list_tokens(folder: FolderOption = None, database_url: DatabaseOption = None) -> None:
    """List the tokens, never their text."""
    from registry import admin

    tokens = admin.list_tokens(existing(folder, database_url))
    rows = [(token.name, token.state, _until(token.expires_at), " ".join(token.scopes)) for token in tokens]
    Output.emit(tokens, "\n".join(table(rows)) or "there is no token; writing needs none from this machine")


def _until(expires_at: datetime | None) -> str:
    return f"until {expires_at:%Y-%m-%d}" if expires_at else "for good"


@token_app.command("revoke")
def revoke_token(name: str, folder: FolderOption = None, database_url: DatabaseOption = None) -> None:
    """End a token."""
    from registry import admin

    admin.revoke_token(existing(folder, database_url), name)
    Output.emit({"name": name, "state": "revoked"}, f"{name} is revoked")


@scope_app.command("private")
def make_scope_private(
    scope: Annotated[str, typer.Argument(help="such as @acme")],
    folder: FolderOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Hide a scope's models from everybody whose token doesn't cover them.

    Example: zoo registry scope private @acme
    """
    _set_scope(scope, folder, database_url, private=True)


@scope_app.command("public")
def make_scope_public(scope: str, folder: FolderOption = None, database_url: DatabaseOption = None) -> None:
    """Show a scope's models to everybody."""
    _set_scope(scope, folder, database_url, private=False)


def _set_scope(scope: str, folder: Path | None, database_url: str | None, *, private: bool) -> None:
    from registry import admin

    count = admin.set_scope(settings_of(folder, database_url), scope, private=private)
    state = "private" if private else "public"
    Output.emit({"scope": scope, "state": state, "models": count}, f"{scope} is {state} now, with {count} models")


@scope_app.command("list")
def list_scopes(folder: FolderOption = None, database_url: DatabaseOption = None) -> None:
    """List the scopes that were made private, or public again."""
    from registry import admin

    found = admin.list_scopes(existing(folder, database_url))
    Output.emit(found, "\n".join(f"{name}  {state}" for name, state in found.items()) or "every scope is public")


@app.command("audit")
def audit_registry(
    actor: Annotated[str | None, typer.Option(help="a token's name, or operator")] = None,
    action: Annotated[str | None, typer.Option(help="such as publish, tag, token.create")] = None,
    target: Annotated[str | None, typer.Option(help="the beginning of a name, such as @acme/")] = None,
    since: Annotated[datetime | None, typer.Option(help="UTC", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    folder: FolderOption = None,
    database_url: DatabaseOption = None,
) -> None:
    """Show who changed what, newest first.

    Example: zoo registry audit --target @acme/ --since 2026-11-01
    """
    from registry import admin

    after = since.replace(tzinfo=UTC) if since else None
    settings = existing(folder, database_url)
    found = admin.audit(settings, actor=actor, action=action, target=target, since=after, limit=limit)
    rows = [(f"{e.at:%Y-%m-%dT%H:%M:%SZ}", e.actor or "-", e.action, e.target, e.detail or "") for e in found]
    Output.emit(found, "\n".join(table(rows)) or "nothing was changed")
