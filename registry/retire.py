"""Versions that must no longer be used: yanked, which leaves their bytes to who pinned them, or deleted."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from registry import queries, version_queries
from registry.audit import note
from registry.caller import Caller
from registry.errors import InvalidRequestError, VersionInUseError
from registry.lineage import users_of
from registry.resolution import find_to_change, parse_stub
from registry.schemas import VersionSummary
from registry.service import Registry
from registry.tables import Version
from registry.views import name_of, version_summary
from zoo.stub import PREFIX

MAX_NAMED = 3


def yank(registry: Registry, stub_text: str, reason: str | None, caller: Caller) -> VersionSummary:
    """Leaves a version out wherever nothing pins it, and tells the reason where something does; None takes that back.

    `latest` moves to the newest version that is left. Safe to repeat; the last reason holds.
    """
    _check_pinned(stub_text)

    def work(session: Session) -> VersionSummary:
        version = find_to_change(session, stub_text, caller)
        version.yanked_at, version.yank_reason = (None, None) if reason is None else (_now(), reason)
        session.flush()
        version_queries.refresh_latest(session, version.model_id, _now())
        note(session, caller, "unyank" if reason is None else "yank", name_of(version), reason)
        return version_summary(version, queries.tags_of(session, [version.id])[version.id])

    return registry.database.write(work)


def delete(registry: Registry, stub_text: str, reason: str, caller: Caller, *, force: bool = False) -> None:
    """Takes a version's files away for good; its number and digest stay taken, and say the reason.

    Raises `VersionInUseError` while a tag points to it, or, unless forced, while another model was made from it. Pulls
    that are going on end well: its bytes stay for one grace period of the sweep.
    """
    _check_pinned(stub_text)

    def work(session: Session) -> None:
        version = find_to_change(session, stub_text, caller)
        _check_unused(session, version, caller, force=force)
        version_queries.empty_version(session, version, _now())
        version.deleted_at, version.delete_reason, version.check_report = _now(), reason, None
        session.flush()
        version_queries.refresh_latest(session, version.model_id, _now())
        note(session, caller, "delete", name_of(version), reason)

    registry.database.write(work)


def _check_unused(session: Session, version: Version, caller: Caller, *, force: bool) -> None:
    where = PREFIX + name_of(version)
    tags = [tag for tag in queries.tags_of(session, [version.id])[version.id] if tag != queries.LATEST]
    if tags:
        raise VersionInUseError(f"the tags {', '.join(tags)} point to {where}; move them first", users=tags)
    found = [user for _, user in users_of(session, version)]
    seen = [PREFIX + name_of(v) for v in found if caller.may_read(v.model.full_name, private=v.model.private)]
    users = list(dict.fromkeys(seen))
    if found and not force:
        more = f" and {len(users) - MAX_NAMED} more" if len(users) > MAX_NAMED else ""
        who = ", ".join(users[:MAX_NAMED]) + more or "models that are private"
        users = users[:20]
        raise VersionInUseError(f"{who} were made from {where}; yank it instead, or delete it by force", users=users)


def _check_pinned(text: str) -> None:
    stub = parse_stub(text)
    if not (stub.is_digest or stub.version):
        raise InvalidRequestError(f"say which version of {text} is meant: {PREFIX}{stub.full_name}@v1, or @sha256:...")


def _now() -> datetime:
    return datetime.now(UTC)
