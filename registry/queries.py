"""SQL on names, models, versions, tags and tokens, as functions on a session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import Session, defer

from registry.caller import Caller
from registry.tables import Identity, Model, Name, Tag, Token, Version

LATEST = "latest"
MAX_ROWS = 1_000  # of one query; who needs all asks again below the last
SUMMARY = (defer(Version.manifest), defer(Version.check_report))  # each may have megabytes


# --- names and models


def holder_of(session: Session, name: str) -> Model | None:
    """The model that a full name or alias belongs to."""
    return session.scalar(select(Model).join(Name, Name.model_id == Model.id).where(Name.name == name))


def lock_model(session: Session, model: Model) -> None:
    """Lets no other writer of the model in until the transaction ends (SQLite has one writer anyway).

    The model's row is read anew; what else of it a change depends on is to be read after this.
    """
    session.refresh(model, with_for_update=True)


def lock_holder(session: Session, name: str) -> Model | None:
    """The model that a full name or alias belongs to, locked."""
    model = holder_of(session, name)
    if model is not None:
        lock_model(session, model)
    return model


def add_model(session: Session, full_name: str, now: datetime, *, private: bool) -> Model:
    """A new model and its name."""
    model = Model(full_name=full_name, created_at=now, private=private)
    session.add(model)
    session.flush()
    add_name(session, model, full_name)
    return model


def alias_of(session: Session, model_id: int) -> str | None:
    """The alias that a model's newest version with one has."""
    given = select(Version.alias).where(Version.model_id == model_id, Version.alias.is_not(None))
    return session.scalar(given.order_by(Version.number.desc()).limit(1))


def add_name(session: Session, model: Model, name: str) -> None:
    """A further name of a model."""
    session.add(Name(name=name, model_id=model.id))
    session.flush()


def names_near(session: Session, name: str, caller: Caller, limit: int = 250) -> Sequence[str]:
    """Names that stand next to this one in the alphabet and are there for the caller: a misspelled one's candidates."""
    there = select(Name.name).join(Model, Name.model_id == Model.id)
    if not caller.sees_everything:
        there = there.where(visible(caller, Model))
    after = there.where(Name.name >= name).order_by(Name.name).limit(limit)
    before = there.where(Name.name < name).order_by(Name.name.desc()).limit(limit)
    return [*session.scalars(after), *session.scalars(before)]


def model_names(session: Session, caller: Caller, after: str, limit: int) -> Sequence[str]:
    """Full names of models with a version that are there for the caller, in order, the first ones behind `after`."""
    has_version = exists().where(Version.model_id == Model.id, Version.deleted_at.is_(None))
    there = select(Model.full_name).where(Model.full_name > after, has_version)
    if not caller.sees_everything:
        there = there.where(visible(caller, Model))
    return session.scalars(there.order_by(Model.full_name).limit(limit)).all()


def all_model_names(session: Session) -> Sequence[str]:
    """Full names of all models, also of those whose versions were all deleted, oldest first."""
    return session.scalars(select(Model.full_name).order_by(Model.id)).all()


def visible(caller: Caller, columns: Any) -> ColumnElement[bool]:
    """That a model, of which there are the columns `full_name` and `private`, is there for the caller."""
    names = columns.full_name
    readable = [
        names == grant.beginning if grant.exact else names.startswith(grant.beginning, autoescape=True)
        for grant in caller.grants
    ]
    return or_(columns.private.is_(False), *readable)


# --- versions and tags


def version_by_digest(session: Session, digest: str) -> Version | None:
    """The version with this manifest digest, of whatever model."""
    return session.scalar(select(Version).where(Version.digest == digest))


def version_by_number(session: Session, model_id: int, number: int) -> Version | None:
    """A model's version by its number."""
    return session.scalar(select(Version).where(Version.model_id == model_id, Version.number == number))


def version_by_tag(session: Session, model_id: int, tag: str) -> Version | None:
    """The version that a tag points to."""
    pointed = select(Tag.version_id).where(Tag.model_id == model_id, Tag.tag == tag)
    return session.scalar(select(Version).where(Version.id.in_(pointed)))


def newest_number(session: Session, model_id: int) -> int:
    """The highest version number, 0 if there is none."""
    return session.scalar(select(func.max(Version.number)).where(Version.model_id == model_id)) or 0


def version_by_digits(session: Session, model_id: int, digits: str) -> Version | None:
    """A model's version whose digest begins with these hex digits."""
    begins = Version.digest.startswith(f"sha256:{digits}")
    there = (Version.model_id == model_id, Version.deleted_at.is_(None))
    return session.scalar(select(Version).where(*there, begins).options(*SUMMARY).limit(1))


def versions_of(session: Session, model_id: int, limit: int = MAX_ROWS, below: int | None = None) -> Sequence[Version]:
    """Summaries of a model's versions, newest first, those with a number below one."""
    statement = select(Version).where(Version.model_id == model_id, Version.deleted_at.is_(None))
    if below is not None:
        statement = statement.where(Version.number < below)
    return session.scalars(statement.options(*SUMMARY).order_by(Version.number.desc()).limit(limit)).all()


def all_versions(session: Session) -> Sequence[tuple[str, int]]:
    """Full name and number of every version, oldest first."""
    there = select(Model.full_name, Version.number).join(Version, Version.model_id == Model.id)
    return session.execute(there.where(Version.deleted_at.is_(None)).order_by(Version.id)).all()


def versions_by_id(session: Session, version_ids: Sequence[int]) -> list[Version]:
    """Versions in the order of their ids given."""
    found = {version.id: version for version in session.scalars(select(Version).where(Version.id.in_(version_ids)))}
    return [found[version_id] for version_id in version_ids]


def tags_of(session: Session, version_ids: Iterable[int]) -> dict[int, list[str]]:
    """The tags of each version, sorted."""
    found: dict[int, list[str]] = {version_id: [] for version_id in version_ids}
    rows = session.execute(select(Tag.version_id, Tag.tag).where(Tag.version_id.in_(found)).order_by(Tag.tag))
    for version_id, tag in rows:
        found[version_id].append(tag)
    return found


def move_tag(session: Session, version: Version, tag: str, now: datetime) -> None:
    """Points a tag of the version's model to the version."""
    row = session.get(Tag, (version.model_id, tag), with_for_update=True)
    if row is None:
        session.add(Tag(model_id=version.model_id, tag=tag, version_id=version.id, moved_at=now))
    elif row.version_id != version.id:
        row.version_id, row.moved_at = version.id, now
    session.flush()


# --- tokens


def token_by_hash(session: Session, token_hash: str) -> Token | None:
    """A token by the hash of its text."""
    return session.scalar(select(Token).where(Token.hash == token_hash))


def token_by_name(session: Session, name: str) -> Token | None:
    """A token by its name."""
    return session.scalar(select(Token).where(Token.name == name))


def all_tokens(session: Session) -> Sequence[Token]:
    """Every token, oldest first."""
    return session.scalars(select(Token).order_by(Token.id)).all()


def any_token(session: Session) -> bool:
    """Whether a token was ever created: revoking the last one doesn't open the registry again."""
    return session.scalar(select(Token.id).limit(1)) is not None


# --- the registry


def registry_id(session: Session) -> str:
    """The registry's own id, 32 hex digits."""
    return session.scalars(select(Identity.id)).one()
