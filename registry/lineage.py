"""What models were made from, and what was made from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy.orm import Session

from registry import queries, version_queries
from registry.caller import Caller
from registry.queries import MAX_ROWS
from registry.schemas import LineageView, Source, User
from registry.tables import Lineage, Model, Version
from zoo.manifest import Manifest, Role
from zoo.stub import PREFIX, Stub


def lineage_of(manifest: Manifest) -> Iterator[tuple[str, str, str | None]]:
    """Relation, target and pin of everything that a manifest names as its origin."""
    facts = manifest.metadata
    for relation, text in (("base", facts.base), ("teacher", facts.teacher), ("recipe", facts.recipe)):
        if text:
            stub = Stub.parse(text)
            yield relation, stub.full_name, stub.pin
    for digest in sorted({entry.sha256 for entry in manifest.with_role(Role.RECIPE)}):
        yield "recipe", digest, None
    if facts.data_fingerprint:
        yield "data", facts.data_fingerprint, None


def view_of(session: Session, version: Version, caller: Caller) -> LineageView:
    """Both directions of a version's lineage, without models that aren't there for the caller."""
    sources = [_source(session, row, caller) for row in version_queries.made_from(session, version.id)]
    return LineageView(made_from=sources, used_by=users_seen(session, version, caller))


def users_seen(session: Session, version: Version, caller: Caller) -> list[User]:
    """What was made from a version, of the newest `MAX_ROWS`, as far as that is there for the caller."""
    return _seen(users_of(session, version, MAX_ROWS), caller)


def users_of(session: Session, version: Version, limit: int | None = None) -> list[tuple[Lineage, Version]]:
    """Versions of other models that were made from this version, or by a recipe file that it holds.

    A file says not who had it first: what this version was made from isn't a user of the recipe that both hold.
    """
    names = version_queries.names_of(session, version.model_id)
    recipes = version_queries.digests_of(session, version.id, Role.RECIPE)
    sources = [queries.holder_of(session, row.target) for row in version_queries.made_from(session, version.id)]
    origins = {source.id for source in sources if source is not None}
    found = version_queries.used_by(session, [*names, *recipes], limit)
    return [
        (row, user)
        for row, user in found
        if user.model_id != version.model_id
        and _means(row, version, recipes)
        and not (row.target in recipes and user.model_id in origins)
    ]


def users_of_recipe(session: Session, version: Version, name: str | None, digest: str, caller: Caller) -> list[User]:
    """Versions that hold one recipe file of a version, or name it, as the caller sees them; None is the default."""

    def used(row: Lineage, user: Version) -> bool:
        if row.target == digest:
            return True
        recipe = Manifest.parse(user.manifest).metadata.recipe
        return recipe is not None and Stub.parse(recipe).recipe == name

    found = users_of(session, version, MAX_ROWS)
    return _seen([(row, user) for row, user in found if row.relation == "recipe" and used(row, user)], caller)


def users_of_digest(session: Session, digest: str, caller: Caller) -> list[User]:
    """Versions that were made by a recipe file, or from data, of this digest."""
    return _seen(version_queries.used_by(session, [digest], MAX_ROWS), caller)


def _seen(found: Sequence[tuple[Lineage, Version]], caller: Caller) -> list[User]:
    """The users that are there for the caller, each once for a relation."""
    seen = [_user(row, user) for row, user in found if _is_there(user.model, caller)]
    return list({(user.relation, user.stub): user for user in seen}.values())


def _is_there(model: Model, caller: Caller) -> bool:
    return caller.may_read(model.full_name, private=model.private)


def _means(row: Lineage, version: Version, recipes: Sequence[str]) -> bool:
    """Whether a target is this version of its model; one without a number or digest may be any."""
    if row.target in recipes or row.pin is None:
        return True
    pin = Stub(row.target, pin=row.pin)
    if pin.is_digest:
        return row.pin == version.digest
    return pin.version in (None, version.number)


def _source(session: Session, row: Lineage, caller: Caller) -> Source:
    is_digest = row.target.startswith("sha256:")
    pin = f"@{row.pin}" if row.pin else ""
    holder = None if is_digest else queries.holder_of(session, row.target)
    return Source(
        relation=row.relation,
        stub=None if is_digest else f"{PREFIX}{row.target}{pin}",
        digest=row.target if is_digest else None,
        name=PREFIX + holder.full_name if holder and _is_there(holder, caller) else None,
    )


def _user(row: Lineage, user: Version) -> User:
    name = PREFIX + user.model.full_name
    return User(relation=row.relation, stub=f"{name}@v{user.number}", name=name, version=user.number)
