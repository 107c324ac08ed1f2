"""The audit log: who changed what. An entry is written in the transaction of its change, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from registry.caller import EVERYTHING, Caller
from registry.tables import AuditEntry

OPERATOR = Caller(name="operator", grants=(EVERYTHING,), token_id=-1)  # 0 is who has no token: not the same sender


def note(session: Session, caller: Caller, action: str, target: str, detail: str | None = None) -> None:
    """Adds an entry; never give it a token."""
    entry = AuditEntry(at=datetime.now(UTC), actor=caller.name, address=caller.address, action=action, target=target)
    entry.detail = None if detail is None else detail[:1_024]
    session.add(entry)


def was_noted(session: Session, action: str, target: str) -> bool:
    """Whether something was once done to a target."""
    mine = (AuditEntry.action == action, AuditEntry.target == target)
    return session.scalar(select(AuditEntry.id).where(*mine).limit(1)) is not None


def entries(
    session: Session,
    *,
    actor: str | None = None,
    action: str | None = None,
    target: str | None = None,
    since: datetime | None = None,
    limit: int = 100,
) -> Sequence[AuditEntry]:
    """Entries that match, newest first; `target` is the beginning of one, with "@acme/" for the scope itself too."""
    statement = select(AuditEntry)
    if actor is not None:
        statement = statement.where(AuditEntry.actor == actor)
    if action is not None:
        statement = statement.where(AuditEntry.action == action)
    if target is not None:
        begins = AuditEntry.target.startswith(target, autoescape=True)
        scope = target.removesuffix("/")
        statement = statement.where(begins if scope == target else or_(begins, AuditEntry.target == scope))
    if since is not None:
        statement = statement.where(AuditEntry.at >= since)
    return session.scalars(statement.order_by(AuditEntry.id.desc()).limit(limit)).all()
