"""SQL on what becomes of versions: yanked, deleted, made from others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from registry import listings
from registry.queries import LATEST, SUMMARY, move_tag
from registry.tables import Blob, File, Lineage, Name, Tag, Version


def refresh_latest(session: Session, model_id: int, now: datetime) -> None:
    """Points `latest`, and with it the model's listing, to the newest version that is neither yanked nor deleted.

    Without such a version there is neither.
    """
    usable = (Version.model_id == model_id, Version.yanked_at.is_(None), Version.deleted_at.is_(None))
    newest = session.scalar(select(Version).where(*usable).order_by(Version.number.desc()).limit(1))
    if newest is None:
        session.execute(delete(Tag).where(Tag.model_id == model_id, Tag.tag == LATEST))
    else:
        move_tag(session, newest, LATEST, now)
    listings.refresh(session, model_id)


def add_lineage(session: Session, version: Version, rows: Iterable[tuple[str, str, str | None]]) -> None:
    """Records what a version was made from: relation, target and pin."""
    session.add_all(
        Lineage(version_id=version.id, relation=relation, target=target, pin=pin) for relation, target, pin in rows
    )
    session.flush()


def made_from(session: Session, version_id: int) -> Sequence[Lineage]:
    """What a version was made from."""
    statement = select(Lineage).where(Lineage.version_id == version_id).order_by(Lineage.relation, Lineage.target)
    return session.scalars(statement).all()


def used_by(session: Session, targets: Iterable[str], limit: int | None) -> Sequence[tuple[Lineage, Version]]:
    """Summaries of the versions that were made from one of the targets, the newest first; all without a limit."""
    statement = (
        select(Lineage, Version)
        .join(Version, Version.id == Lineage.version_id)
        .where(Lineage.target.in_(list(targets)), Version.deleted_at.is_(None))
        .options(*SUMMARY)
        .order_by(Version.id.desc(), Lineage.relation)
        .limit(limit)
    )
    return [(row, version) for row, version in session.execute(statement)]


def names_of(session: Session, model_id: int) -> Sequence[str]:
    """Every name of a model."""
    return session.scalars(select(Name.name).where(Name.model_id == model_id)).all()


def digests_of(session: Session, version_id: int, role: str) -> Sequence[str]:
    """The digests of a version's files of a role."""
    return session.scalars(select(File.digest).where(File.version_id == version_id, File.role == role)).all()


def empty_version(session: Session, version: Version, now: datetime) -> None:
    """Takes a version's files and lineage away; its blobs, if nothing else names them, live for one grace period."""
    digests = select(File.digest).where(File.version_id == version.id)
    session.execute(update(Blob).where(Blob.digest.in_(digests)).values(offered_at=now))
    session.execute(delete(File).where(File.version_id == version.id))
    session.execute(delete(Lineage).where(Lineage.version_id == version.id))
