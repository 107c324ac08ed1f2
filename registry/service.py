"""What the registry does with versions: publish, resolve, tag, search."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from registry import listings, queries
from registry.audit import note
from registry.blobs import Blobs
from registry.caller import ANYONE, Caller
from registry.checks import check_version, write_report
from registry.db import Database
from registry.errors import TagMovedError, VersionExistsError
from registry.lineage import users_of_digest, view_of
from registry.paging import read_cursor, write_cursor
from registry.publication import add_version, check_alias, check_blobs, parse_manifest, refuse_missing
from registry.resolution import (
    check_may_write,
    check_not_deleted,
    find_model,
    find_to_change,
    find_version,
    parse_stub,
    parse_tag,
)
from registry.schemas import (
    LineageView,
    ModelPage,
    NamePage,
    SamplesIn,
    SearchIn,
    VersionIn,
    VersionSummary,
    VersionView,
)
from registry.views import model_summary, name_of, version_summary, version_view
from zoo.manifest import Manifest, Role
from zoo.stub import PREFIX


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
                queries.move_tag(session, version, tag, datetime.now(UTC))
            if is_new or tags:
                note(session, caller, "publish", name_of(version), " ".join(tags) or None)
            return version_view(session, version), is_new

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
        refuse_missing([digest for digest, size_bytes in sizes.items() if self.store.size(digest) != size_bytes])

    def resolve(self, stub_text: str, role: Role | None = None, caller: Caller = ANYONE) -> VersionView:
        """The version that a stub names; raises `InvalidStubError`, `UnknownModelError` or `UnknownVersionError`."""
        with self.database.read() as session:
            return version_view(session, find_version(session, stub_text, caller), role)

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
            model = find_model(session, parse_stub(stub_text), caller)
            found = queries.versions_of(session, model.id, limit, below)
            tags = queries.tags_of(session, (version.id for version in found))
            return [version_summary(version, tags[version.id]) for version in found]

    def find_digest(self, stub_text: str, digits: str, caller: Caller = ANYONE) -> str | None:
        """The digest, of a model's versions, that begins with these hex digits."""
        with self.database.read() as session:
            model = find_model(session, parse_stub(stub_text), caller)
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
            queries.move_tag(session, version, tag, datetime.now(UTC))
            note(session, caller, "tag", name_of(version), tag)
            return version_view(session, version)

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
            items = [model_summary(version, tags[version.id]) for version in versions]
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
