"""What the registry does with versions: publish, resolve, tag, search."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from registry import blob_queries, listings, queries, scopes, version_queries
from registry.audit import note
from registry.blobs import Blobs
from registry.caller import ANYONE, Caller, scope_of
from registry.checks import check_version, read_report, write_report
from registry.db import Database
from registry.errors import (
    AliasTakenError,
    DeletedVersionError,
    ForbiddenError,
    InvalidManifestError,
    InvalidSizeError,
    InvalidStubError,
    InvalidTagError,
    MissingBlobsError,
    TagMovedError,
    UnknownModelError,
    UnknownVersionError,
    VersionExistsError,
)
from registry.lineage import lineage_of, users_of_digest, view_of
from registry.paging import read_cursor, write_cursor
from registry.queries import LATEST
from registry.schemas import (
    FileView,
    LineageView,
    ModelPage,
    ModelSummary,
    NamePage,
    SamplesIn,
    SearchIn,
    VersionIn,
    VersionSummary,
    VersionView,
)
from registry.tables import File, Model, Version
from zoo.errors import ManifestError, StubError
from zoo.manifest import Manifest, Metadata, Role
from zoo.stub import PREFIX, Stub, is_tag

MAX_NAMED = 20  # how many digests, versions or tags an error's sentence lists
MAX_REASONS = 3


class Registry:
    """The registry's service, over a database and its blobs."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self.database, self.blobs, self.store = database, blobs, blobs.store

    # --- versions

    def publish(self, wanted: VersionIn, caller: Caller = ANYONE) -> tuple[VersionView, bool]:
        """Makes a version of a manifest whose blobs are all here; False if the same manifest was there already.

        Raises `CheckError` for files that aren't what they are said to be, before anything is visible.
        """
        manifest = parse_manifest(wanted.manifest)
        check_may_write(caller, manifest.full_name)
        check_alias(caller, manifest.name, manifest.alias)
        tags = [parse_tag(tag) for tag in dict.fromkeys(wanted.tags)]
        report = self._checked(manifest, wanted.samples, caller)

        def work(session: Session) -> tuple[VersionView, bool]:
            queries.lock_holder(session, manifest.full_name)
            version = queries.version_by_digest(session, manifest.digest())
            is_new = version is None
            if version is None:
                check_blobs(session, manifest, caller)
                version = add_version(session, manifest, wanted.version, caller)
                version.check_report = report
            check_not_deleted(version)
            if wanted.version not in (None, version.number):
                raise VersionExistsError(f"this manifest is v{version.number} already, not v{wanted.version}")
            for tag in tags:
                queries.move_tag(session, version, tag, _now())
            if is_new or tags:
                note(session, caller, "publish", f"{manifest.full_name}@v{version.number}", " ".join(tags) or None)
            return _view(session, version), is_new

        return self.database.write(work)

    def _checked(self, manifest: Manifest, samples: SamplesIn | None, caller: Caller) -> str | None:
        """The report of the gate on a new version; outside of the transaction, since reading may take seconds."""
        with self.database.read() as session:
            if queries.version_by_digest(session, manifest.digest()):
                return None
            check_blobs(session, manifest, caller)
        self.check_stored(manifest)
        return write_report(check_version(manifest, self.blobs.span, samples))

    def check_stored(self, manifest: Manifest) -> None:
        """Raises `MissingBlobsError` for blobs that the store has lost or cut off.

        Not within a transaction, where `check_blobs` is enough: a sweep removes a blob with its row.
        """
        sizes = {entry.sha256: entry.size_bytes for entry in manifest.files}
        _refuse_missing([digest for digest, size_bytes in sizes.items() if self.store.size(digest) != size_bytes])

    def resolve(self, stub_text: str, role: Role | None = None, caller: Caller = ANYONE) -> VersionView:
        """The version that a stub names; raises `InvalidStubError`, `UnknownModelError` or `UnknownVersionError`."""
        with self.database.read() as session:
            return _view(session, find_version(session, stub_text, caller), role)

    def versions(self, stub_text: str, caller: Caller = ANYONE) -> list[VersionSummary]:
        """All versions of a model, newest first."""
        found, below = list[VersionSummary](), None
        while part := self.newest_versions(stub_text, caller, below=below):
            found += part
            below = part[-1].version
        return found

    def newest_versions(
        self, stub_text: str, caller: Caller = ANYONE, limit: int = queries.MAX_ROWS, below: int | None = None
    ) -> list[VersionSummary]:
        """A model's newest versions, or the newest with a number below one."""
        with self.database.read() as session:
            model = _find_model(session, parse_stub(stub_text), caller)
            found = queries.versions_of(session, model.id, limit, below)
            tags = queries.tags_of(session, (version.id for version in found))
            return [version_summary(version, tags[version.id]) for version in found]

    def find_digest(self, stub_text: str, digits: str, caller: Caller = ANYONE) -> str | None:
        """The digest, of a model's versions, that begins with these hex digits."""
        with self.database.read() as session:
            model = _find_model(session, parse_stub(stub_text), caller)
            version = queries.version_by_digits(session, model.id, digits)
            return version.digest if version else None

    def names(self, caller: Caller = ANYONE, after: str | None = None, limit: int = 1_000) -> NamePage:
        """Every model that is there for the caller, by name, also one whose versions are all yanked."""
        with self.database.read() as session:
            found = queries.model_names(session, caller, (after or "").removeprefix(PREFIX), limit + 1)
        names = [PREFIX + name for name in found[:limit]]
        return NamePage(items=names, next_after=names[-1] if len(found) > limit else None)

    def move_tag(self, stub_text: str, tag: str, expected: str | None = None, caller: Caller = ANYONE) -> VersionView:
        """Points a tag to the version that a stub names; `expected` is the digest the tag must point to before."""
        tag = parse_tag(tag)

        def work(session: Session) -> VersionView:
            version = find_to_change(session, stub_text, caller)
            current = queries.version_by_tag(session, version.model_id, tag)
            if expected is not None and (current.digest if current else None) != expected:
                where = f"v{current.number} ({current.digest})" if current else "nothing"
                raise TagMovedError(f"the tag {tag!r} points to {where}, not to {expected}; look, then try again")
            queries.move_tag(session, version, tag, _now())
            note(session, caller, "tag", f"{version.model.full_name}@v{version.number}", tag)
            return _view(session, version)

        return self.database.write(work)

    def lineage(self, stub_text: str, caller: Caller = ANYONE) -> LineageView:
        """What the version that a stub names was made from, and what was made from it, as far as the caller sees."""
        with self.database.read() as session:
            return view_of(session, find_version(session, stub_text, caller), caller)

    def made_from_digest(self, digest: str, caller: Caller = ANYONE) -> LineageView:
        """Versions that were made by a recipe file, or from data, of this digest."""
        with self.database.read() as session:
            return LineageView(made_from=[], used_by=users_of_digest(session, digest, caller))

    # --- search

    def search(self, wanted: SearchIn, caller: Caller = ANYONE) -> ModelPage:
        """One page of the models that match and are there for the caller."""
        below = read_cursor(wanted)
        with self.database.read() as session:
            found = listings.search(session, wanted, caller, ("model_id", "version_id"), below, wanted.limit + 1)
            page = found[: wanted.limit]
            versions = queries.versions_by_id(session, [row.version_id for row in page])
            tags = queries.tags_of(session, (version.id for version in versions))
            items = [_model_summary(version, tags[version.id]) for version in versions]
        more = len(found) > wanted.limit
        return ModelPage(items=items, next_cursor=write_cursor(wanted, page[-1].model_id) if more else None)

    def count_facets(self, wanted: SearchIn, caller: Caller, limit: int) -> tuple[int, dict[str, Counter[str]]]:
        """How many models match, up to `limit`, and how often those have each value of each facet."""
        with self.database.read() as session:
            return listings.count_facets(session, wanted, caller, limit)

    def count_models(self, caller: Caller = ANYONE, limit: int = 10_000) -> int:
        """How many models there are for the caller, up to `limit`."""
        with self.database.read() as session:
            return listings.count_visible(session, caller, limit)


def check_blobs(session: Session, manifest: Manifest, caller: Caller) -> None:
    """Raises `MissingBlobsError` or `InvalidSizeError` unless each blob is recorded, and there for the caller."""
    digests = list(dict.fromkeys(entry.sha256 for entry in manifest.files))
    sizes = blob_queries.blob_sizes(session, blob_queries.readable(session, digests, caller))
    _refuse_missing([digest for digest in digests if digest not in sizes])
    for entry in manifest.files:
        if sizes[entry.sha256] != entry.size_bytes:
            actual = sizes[entry.sha256]
            raise InvalidSizeError(f"{entry.path!r} has {actual} bytes, the manifest says {entry.size_bytes}")


def _refuse_missing(missing: list[str]) -> None:
    if missing:
        raise MissingBlobsError(
            f"{len(missing)} of the manifest's blobs aren't here; upload them, then publish again", missing=missing
        )


def parse_stub(text: str) -> Stub:
    """A stub; raises `InvalidStubError` with the column."""
    try:
        return Stub.parse(text)
    except StubError as error:
        raise InvalidStubError(str(error), column=error.column) from None


def parse_manifest(document: dict[str, object]) -> Manifest:
    """A manifest; raises `InvalidManifestError` naming the field."""
    try:
        return Manifest.parse(document)
    except ManifestError as error:
        raise InvalidManifestError(str(error)) from None


def parse_tag(text: str) -> str:
    """A tag that may be moved; raises `InvalidTagError`."""
    if text == LATEST:
        raise InvalidTagError("the tag 'latest' moves by itself to the newest version")
    if not is_tag(text):
        raise InvalidTagError(
            f"{text[:80]!a} is no tag: up to 128 of a-z 0-9 . _ -, not like a version number such as v3"
        )
    return text


def _now() -> datetime:
    return datetime.now(UTC)


def _find_model(session: Session, stub: Stub, caller: Caller) -> Model:
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
    return _version_of(session, _find_model(session, stub, caller), stub)


def find_to_change(session: Session, stub_text: str, caller: Caller) -> Version:
    """The version that a stub names, of a model that the caller may write to and that is locked now.

    Raises what `find_version` raises, or `ForbiddenError`.
    """
    stub = parse_stub(stub_text)
    model = _find_model(session, stub, caller)
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
            f"{PREFIX}{version.model.full_name}@v{version.number} was deleted on {version.deleted_at:%Y-%m-%d}: "
            f"{version.delete_reason}",
            reason=version.delete_reason,
        )


def check_may_write(caller: Caller, full_name: str) -> None:
    """Raises `ForbiddenError` if the caller's token isn't for this name, whether there is such a model or not."""
    if not caller.may_write_to(full_name):
        own = ", ".join(str(grant) for grant in caller.grants) or "none"
        raise ForbiddenError(f"the token may not write to {PREFIX}{full_name}; its scopes: {own}")


def check_alias(caller: Caller, name: str, alias: str | None) -> None:
    """Raises `ForbiddenError` or `InvalidManifestError` for an alias that the caller may not give this model."""
    if alias is None:
        return
    short_name = alias.removeprefix(PREFIX)
    check_may_write(caller, short_name)
    if scope_of(short_name) != scope_of(name.removeprefix(PREFIX)):
        raise InvalidManifestError(f"the alias {alias} lies in another scope than {name}")


def _claim(session: Session, manifest: Manifest, alias: str | None, caller: Caller) -> Model:
    """The manifest's model with its alias, made if they are new; raises `AliasTakenError`."""
    model = queries.lock_holder(session, manifest.full_name)
    if model is None:
        private = scopes.is_private(session, manifest.full_name)
        model = queries.add_model(session, manifest.full_name, _now(), private=private)
    elif model.full_name != manifest.full_name:
        raise _taken(manifest.name, model, caller)
    if alias:
        short_name = alias.removeprefix(PREFIX)
        holder = queries.holder_of(session, short_name)
        if holder is None:
            queries.add_name(session, model, short_name)
        elif holder.id != model.id:
            raise _taken(alias, holder, caller)
    return model


def _taken(name: str, holder: Model, caller: Caller) -> AliasTakenError:
    if not caller.may_read(holder.full_name, private=holder.private):
        return AliasTakenError(f"the name {name} is taken; choose another")
    owner = PREFIX + holder.full_name
    return AliasTakenError(f"the name {name} belongs to {owner} already; choose another", holder=owner)


def add_version(
    session: Session, manifest: Manifest, number: int | None, caller: Caller, alias: str | None = None
) -> Version:
    """A new version, with its files, lineage and listing; raises `VersionExistsError`, `AliasTakenError`.

    Without an alias, here and in the manifest, it keeps the one that the model has.
    """
    alias = manifest.alias or alias
    model = _claim(session, manifest, alias, caller)
    newest = queries.newest_number(session, model.id)
    if number is not None and queries.version_by_number(session, model.id, number):
        raise VersionExistsError(f"{manifest.name} has a v{number} with another manifest; versions never change")
    facts, now = manifest.metadata, _now()
    version = Version(
        model=model,
        number=number or newest + 1,
        digest=manifest.digest(),
        manifest=manifest.to_json(),
        size_bytes=manifest.size_bytes,
        created_at=now,
        alias=alias or queries.alias_of(session, model.id),
        **{name: getattr(facts, name) for name in _COLUMNS},
    )
    session.add(version)
    session.flush()
    session.add_all(
        File(version_id=version.id, path=entry.path, digest=entry.sha256, size_bytes=entry.size_bytes, role=entry.role)
        for entry in manifest.files
    )
    session.flush()
    version_queries.add_lineage(session, version, lineage_of(manifest))
    version_queries.refresh_latest(session, model.id, now)
    return version


_COLUMNS = ("domain", "task", "architecture", "dataset", "license", "pattern", "quantized", "sparsity")


def version_summary(version: Version, tags: list[str]) -> VersionSummary:
    """A version without its manifest."""
    return VersionSummary(
        name=PREFIX + version.model.full_name,
        alias=version.alias,
        version=version.number,
        private=version.model.private,
        digest=version.digest,
        tags=tags,
        created_at=version.created_at,
        size_bytes=version.size_bytes,
        yank_reason=version.yank_reason,
    )


def _view(session: Session, version: Version, role: Role | None = None) -> VersionView:
    summary = version_summary(version, queries.tags_of(session, [version.id])[version.id])
    document = json.loads(version.manifest)
    files = [
        FileView(**entry, url=f"/api/v1/blobs/{entry['sha256']}")
        for entry in document["files"]
        if role is None or entry["role"] == role
    ]
    checks = read_report(version.check_report)
    return VersionView(**summary.model_dump(mode="python"), manifest=document, files=files, checks=checks)


def _model_summary(version: Version, tags: list[str]) -> ModelSummary:
    return ModelSummary(
        name=PREFIX + version.model.full_name,
        alias=version.alias,
        latest_version=version.number,
        private=version.model.private,
        digest=version.digest,
        tags=tags,
        metadata=Metadata.model_validate(json.loads(version.manifest)["metadata"]),
        size_bytes=version.size_bytes,
        updated_at=version.created_at,
    )
