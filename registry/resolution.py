"""What a stub names for a caller: a model, a version; and what the caller may do with it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from sqlalchemy.orm import Session

from registry import queries
from registry.caller import Caller
from registry.errors import (
    DeletedVersionError,
    ForbiddenError,
    InvalidStubError,
    InvalidTagError,
    UnknownModelError,
    UnknownVersionError,
)
from registry.queries import LATEST
from registry.tables import Model, Version
from registry.views import name_of
from zoo.errors import StubError
from zoo.stub import PREFIX, Stub, is_tag

MAX_NAMED = 20  # how many versions or tags an error's sentence lists
MAX_REASONS = 3


def parse_stub(text: str) -> Stub:
    """A stub; raises `InvalidStubError` with the column."""
    try:
        return Stub.parse(text)
    except StubError as error:
        raise InvalidStubError(str(error), column=error.column) from None


def parse_tag(text: str) -> str:
    """A tag that may be moved; raises `InvalidTagError`."""
    if text == LATEST:
        raise InvalidTagError("the tag 'latest' moves by itself to the newest version")
    if not is_tag(text):
        raise InvalidTagError(
            f"{text[:80]!a} is no tag: up to 128 of a-z 0-9 . _ -, not like a version number such as v3"
        )
    return text


def find_model(session: Session, stub: Stub, caller: Caller) -> Model:
    """The model that a stub names for the caller; raises `UnknownModelError` with the nearest names."""
    model = queries.holder_of(session, stub.full_name)
    if model is None or not caller.may_read(model.full_name, private=model.private):
        candidates = queries.names_near(session, stub.full_name, caller)
        nearest = [PREFIX + name for name in difflib.get_close_matches(stub.full_name, candidates, n=3, cutoff=0.5)]
        hint = f"; the nearest names are {', '.join(nearest)}" if nearest else ""
        hint += "; a private one is there only for a token that covers it" if stub.scope else ""
        raise UnknownModelError(f"this registry has no model {PREFIX}{stub.full_name}{hint}", nearest=nearest)
    return model


def find_version(session: Session, stub_text: str, caller: Caller) -> Version:
    """The version that a stub names for the caller.

    Raises `InvalidStubError`, `UnknownModelError`, `UnknownVersionError` or `DeletedVersionError`.
    """
    stub = parse_stub(stub_text)
    return _version_of(session, find_model(session, stub, caller), stub)


def find_to_change(session: Session, stub_text: str, caller: Caller) -> Version:
    """The version that a stub names, of a model that the caller may write to and that is locked now.

    Raises what `find_version` raises, or `ForbiddenError`.
    """
    stub = parse_stub(stub_text)
    model = find_model(session, stub, caller)
    check_may_write(caller, model.full_name)
    queries.lock_model(session, model)
    return _version_of(session, model, stub)


def _version_of(session: Session, model: Model, stub: Stub) -> Version:
    pin = stub.pin or LATEST
    if stub.is_digest:
        version = queries.version_by_digest(session, pin)
    elif stub.version is not None:
        version = queries.version_by_number(session, model.id, stub.version)
    else:
        version = queries.version_by_tag(session, model.id, pin)
    if version is None or version.model_id != model.id:
        known = queries.versions_of(session, model.id, MAX_NAMED)
        if known and pin == LATEST:
            raise _all_yanked(PREFIX + model.full_name, known)
        tags = {tag for found in queries.tags_of(session, (v.id for v in known)).values() for tag in found}
        pins = [f"v{known_version.number}" for known_version in known] + sorted(tags)[:MAX_NAMED]
        raise UnknownVersionError(f"{PREFIX}{model.full_name} has no {pin}; it has {', '.join(pins) or 'no version'}")
    check_not_deleted(version)
    return version


def _all_yanked(name: str, known: Sequence[Version]) -> UnknownVersionError:
    reasons = "; ".join(f"v{version.number}: {version.yank_reason}" for version in known[:MAX_REASONS])
    return UnknownVersionError(
        f"all versions of {name} are yanked; choose another model, or pin one to use it all the same, such as "
        f"{name}@v{known[0].number}. {reasons}"
    )


def check_not_deleted(version: Version) -> None:
    """Raises `DeletedVersionError` with the reason."""
    if version.deleted_at is not None:
        raise DeletedVersionError(
            f"{PREFIX}{name_of(version)} was deleted on {version.deleted_at:%Y-%m-%d}: {version.delete_reason}",
            reason=version.delete_reason,
        )


def check_may_write(caller: Caller, full_name: str) -> None:
    """Raises `ForbiddenError` if the caller's token isn't for this name, whether there is such a model or not."""
    if not caller.may_write_to(full_name):
        own = ", ".join(str(grant) for grant in caller.grants) or "none"
        raise ForbiddenError(f"the token may not write to {PREFIX}{full_name}; its scopes: {own}")
