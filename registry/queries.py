"""SQL on names, models, versions, tags and tokens, as functions on a session."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.schemas import SearchIn
from registry.tables import Model, Name, Tag, Token, Version

LATEST = "latest"
_FILTERS = ("domain", "task", "architecture", "dataset", "license", "pattern", "quantized")
FACETS = ("domain", "task", "architecture", "dataset")


# --- names and models


def holder_of(session: Session, name: str) -> Model | None:
    """The model that a full name or alias belongs to."""
    return session.scalar(select(Model).join(Name, Name.model_id == Model.id).where(Name.name == name))


def lock_model(session: Session, model: Model) -> None:
    """Lets no other publisher of the model in until the transaction ends (SQLite has one writer anyway)."""
    session.execute(select(Model.id).where(Model.id == model.id).with_for_update())


def add_model(session: Session, full_name: str, now: datetime) -> Model:
    """A new model and its name."""
    model = Model(full_name=full_name, created_at=now)
    session.add(model)
    session.flush()
    add_name(session, model, full_name)
    return model


def add_name(session: Session, model: Model, name: str) -> None:
    """A further name of a model."""
    session.add(Name(name=name, model_id=model.id))
    session.flush()


def names_like(session: Session, name: str, limit: int = 500) -> Sequence[str]:
    """Names of about the same length: candidates for a misspelled one."""
    distance = func.abs(func.length(Name.name) - len(name))
    return session.scalars(select(Name.name).order_by(distance, Name.name).limit(limit)).all()


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


def versions_of(session: Session, model_id: int, limit: int = 1_000) -> Sequence[Version]:
    """A model's versions, newest first."""
    return session.scalars(
        select(Version).where(Version.model_id == model_id).order_by(Version.number.desc()).limit(limit)
    ).all()


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


# --- search


def _latest() -> Select[Version]:
    return select(Version).join(Tag, (Tag.version_id == Version.id) & (Tag.tag == LATEST))


def _conditions(search: SearchIn) -> Iterator[ColumnElement[bool]]:
    for word in search.q.casefold().split():
        yield Version.search_text.contains(word, autoescape=True)
    for name in _FILTERS:
        value = getattr(search, name)
        if value is not None:
            yield getattr(Version, name) == value
    if search.sparsity_min is not None:
        yield Version.sparsity >= search.sparsity_min
    if search.sparsity_max is not None:
        yield Version.sparsity <= search.sparsity_max


def search(session: Session, wanted: SearchIn, below_model_id: int | None) -> Sequence[Version]:
    """Latest versions of the models that match, newest model first; one more than the limit if more follow.

    A model's id never changes, so no model is skipped or repeated while others are published between two pages.
    """
    statement = _latest().where(*_conditions(wanted))
    if below_model_id is not None:
        statement = statement.where(Version.model_id < below_model_id)
    return session.scalars(statement.order_by(Version.model_id.desc()).limit(wanted.limit + 1)).all()


def facet_values(session: Session, facet: str, limit: int = 100) -> Sequence[str]:
    """The distinct values of a facet among the latest versions, sorted."""
    column: InstrumentedAttribute[str | None] = getattr(Version, facet)
    latest = select(Tag.version_id).where(Tag.tag == LATEST)
    statement = select(column).where(Version.id.in_(latest), column.is_not(None)).distinct().order_by(column)
    return [value for value in session.scalars(statement.limit(limit)) if value]


def count_models(session: Session) -> int:
    """How many models there are."""
    return session.scalar(select(func.count()).select_from(Model)) or 0


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
