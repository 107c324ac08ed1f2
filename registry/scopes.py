"""Scopes: whose models are there for everybody, and whose only for tokens that cover them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from registry import listings
from registry.audit import OPERATOR, note
from registry.caller import scope_of
from registry.tables import Model, Scope

_LOCK_KEY = 0x73636F70  # "scop": the advisory locks of scopes, beside the one of migrations


def is_private(session: Session, full_name: str) -> bool:
    """Whether models of this name are private; that stays so until the transaction ends."""
    scope = scope_of(full_name)
    _hold(session, scope, shared=True)
    row = session.get(Scope, scope) if scope is not None else None
    return row is not None and row.private


def any_private(session: Session) -> bool:
    """Whether there is a private scope."""
    return session.scalar(select(Scope.name).where(Scope.private).limit(1)) is not None


def all_scopes(session: Session) -> Sequence[Scope]:
    """Every scope that an operator has spoken about, by name."""
    return session.scalars(select(Scope).order_by(Scope.name)).all()


def set_private(session: Session, name: str, *, private: bool) -> int:
    """Makes a scope with all its models private or public; returns how many models it has."""
    _hold(session, name, shared=False)
    session.merge(Scope(name=name, private=private, changed_at=datetime.now(UTC)))
    inside = Model.full_name.startswith(f"@{name}/", autoescape=True)
    session.execute(update(Model).where(inside).values(private=private))
    models = session.scalars(select(Model.id).where(inside)).all()
    session.expire_all()
    for model_id in models:
        listings.refresh(session, model_id)
    note(session, OPERATOR, "scope.private" if private else "scope.public", f"@{name}")
    return len(models)


def _hold(session: Session, scope: str | None, *, shared: bool) -> None:
    """Keeps a scope as it is until the transaction ends: one that has no row can't be locked by it.

    Without it, a model made while its scope becomes private would be seen by neither side. SQLite has one writer.
    """
    if scope is not None and session.get_bind().dialect.name == "postgresql":
        lock = func.pg_advisory_xact_lock_shared if shared else func.pg_advisory_xact_lock
        session.execute(select(lock(_LOCK_KEY, func.hashtext(scope))))
