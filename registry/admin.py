"""What an operator does beside the running service: upgrade, sweep, re-hash, hand out tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from alembic.script import ScriptDirectory
from sqlalchemy.orm import Session

from registry import blob_queries, bundle, exchange, identity, migrate, queries, static
from registry import scopes as scopes_of_models
from registry.audit import OPERATOR, entries, note
from registry.auth import hash_token, new_token
from registry.blobs import Blobs
from registry.bundle import BundleReport
from registry.caller import MAX_GRANTS, Grant, parse_scope
from registry.db import Database
from registry.errors import (
    DamagedBlobError,
    InvalidRequestError,
    SchemaError,
    StartError,
    TakenError,
    UnknownBlobError,
    UnknownError,
)
from registry.exchange import ExchangeReport
from registry.identity import Adoption
from registry.mirror import MirrorReport, Source
from registry.mirror import mirror as copy_versions
from registry.progress import Report, Sizes, counted, silent
from registry.service import Registry
from registry.settings import Settings
from registry.static import StaticReport
from registry.storage import BlobStore, StoredBlob, open_store
from registry.tables import Token
from zoo.stub import PREFIX

GRACE = timedelta(days=1)


@dataclass(frozen=True)
class GcReport:
    """What a sweep removed, or would remove."""

    removed: list[str]
    freed_bytes: int
    uploads_removed: int


@dataclass(frozen=True)
class ScrubReport:
    """What re-hashing found. Each damaged or missing digest comes with stubs of versions that need it."""

    checked: int
    damaged: dict[str, list[str]] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_sound(self) -> bool:
        """Whether every blob is here and has its digest."""
        return not self.damaged and not self.missing


@dataclass(frozen=True)
class TokenInfo:
    """A token as far as it may be shown. `state` is "valid", "expired" or "revoked"."""

    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    state: str


@dataclass(frozen=True)
class AuditRecord:
    """Who did what. `actor` is a token's name, "operator" for this machine's commands, None without a token."""

    at: datetime
    actor: str | None
    address: str | None
    action: str
    target: str
    detail: str | None


def upgrade(settings: Settings) -> str:
    """Creates or upgrades database and storage; returns the schema's revision. Safe to repeat.

    Raises `SchemaError`, or `ForeignStoreError` for a store that belongs to another registry.
    """
    database = Database(settings.database)
    try:
        return identity.prepare(settings, database, open_store(settings))
    finally:
        database.close()


def adopt(settings: Settings) -> Adoption:
    """Gives the blob store to the database's registry, for good; raises `SchemaError` if there is no registry."""
    database = Database(settings.database)
    try:
        _check_schema(database)
        return identity.adopt(settings, database, open_store(settings))
    finally:
        database.close()


def gc(
    settings: Settings,
    grace: timedelta = GRACE,
    *,
    dry_run: bool = False,
    force: bool = False,
    report: Report = silent,
) -> GcReport:
    """Removes blobs that no version names and that were sent before the grace period, and abandoned uploads.

    A registry may be serving meanwhile: row and bytes go together, while the row is held. Raises `ForeignStoreError`
    for another registry's store; and `StartError`, unless `force` is given, if the database knows so few of the store's
    blobs that it must be an older copy, or another one and the store from before registries had ids.
    """
    limit = datetime.now(UTC) - grace
    removed, freed = [], 0
    with _open(settings) as (database, store):
        with database.read() as session:
            orphans = {blob.digest: blob.size_bytes for blob in blob_queries.orphan_blobs(session, limit)}
        loose = _loose_blobs(database, counted(store.blobs(), report, "files looked at"), limit, force=force)
        orphans |= {blob.digest: blob.size_bytes for blob in loose}
        for digest, size in counted(sorted(orphans.items()), report, "files removed", len(orphans)):
            if dry_run or database.write(partial(_sweep, store=store, digest=digest, limit=limit)):
                removed.append(digest)
                freed += size
        uploads = 0 if dry_run else Blobs(database, store).sweep_uploads(grace)
    return GcReport(removed, freed, uploads)


def _loose_blobs(database: Database, stored: Iterable[StoredBlob], limit: datetime, *, force: bool) -> list[StoredBlob]:
    """Blobs of the store that have no row; a crash leaves few of them, a database that isn't the store's all."""
    with database.read() as session:
        recorded = {digest for digest, _ in blob_queries.all_blobs(session)}
    known, loose = 0, list[StoredBlob]()
    for blob in stored:
        if blob.digest in recorded:
            known += 1
        elif blob.stored_at < limit.timestamp():
            loose.append(blob)
    if len(loose) > known and not force:
        raise StartError(
            f"the database {database.engine.url} knows {known} of the {known + len(loose)} files in the store, so it "
            "seems to be another registry's, or an old copy; nothing was removed. Give the registry's own "
            "--database-url and --folder, or --force to remove the files that it doesn't know"
        )
    return loose


def _sweep(session: Session, *, store: BlobStore, digest: str, limit: datetime) -> bool:
    if not blob_queries.blob_sizes(session, [digest]):  # bytes without a row: hold the digest, as an upload would
        blob_queries.offer_blob(session, digest, 0, limit - timedelta(seconds=1))
    if not blob_queries.delete_orphan(session, digest, limit):
        return False
    store.delete(digest)
    return True


def scrub(settings: Settings, report: Report = silent) -> ScrubReport:
    """Reads every recorded blob again and compares its digest.

    A damaged blob is marked, so that it is no longer served, and is asked for when somebody publishes it again.
    """
    with _open(settings) as (database, store):
        with database.read() as session:
            blobs = dict(blob_queries.all_blobs(session))
        found, sizes = ScrubReport(checked=len(blobs)), Sizes(report, "files", sum(blobs.values()))
        for digest, size in blobs.items():
            actual = _rehash(store, digest, sizes)
            is_sound = actual == (digest, size)
            database.write(partial(blob_queries.mark_checked, digest=digest, now=datetime.now(UTC), is_sound=is_sound))
            if not is_sound:
                with database.read() as session:
                    users = blob_queries.versions_with_blob(session, digest)
                    stubs = [f"{PREFIX}{version.model.full_name}@v{version.number}" for version in users]
                (found.missing if actual is None else found.damaged)[digest] = stubs
    return found


def _rehash(store: BlobStore, digest: str, sizes: Sizes) -> tuple[str, int] | None:
    stored = store.size(digest)
    if stored is None:
        return None
    total, size = hashlib.sha256(), 0
    try:
        for block in sizes.blocks(store.read(digest, 0, stored)):
            total.update(block)
            size += len(block)
    except UnknownBlobError:  # deleted since
        return None
    except DamagedBlobError:
        return "", size
    return "sha256:" + total.hexdigest(), size


def backup(settings: Settings, path: Path, report: Report = silent) -> BundleReport:
    """Writes the whole registry into one file; see `registry.bundle`."""
    with _open(settings) as (database, store):
        return bundle.backup(database, Blobs(database, store), path, report)


def restore(settings: Settings, path: Path, report: Report = silent) -> BundleReport:
    """Fills a new, empty registry from a backup; it keeps an id of its own, and its store."""
    with _open(settings, makes=True) as (database, store):
        return bundle.restore(database, Blobs(database, store), path, report)


def export_bundle(settings: Settings, path: Path, stubs: Sequence[str] = (), report: Report = silent) -> ExchangeReport:
    """Writes versions into one file that another registry imports; see `registry.exchange`."""
    with _open(settings) as (database, store):
        return exchange.export_bundle(Registry(database, Blobs(database, store)), path, stubs, report)


def import_bundle(settings: Settings, path: Path, report: Report = silent) -> ExchangeReport:
    """Takes in the versions of a bundle, beside what is here; a registry may be serving meanwhile."""
    with _open(settings, makes=True) as (database, store):
        return exchange.import_bundle(Registry(database, Blobs(database, store)), path, report)


def mirror(
    settings: Settings, source: Source, prefixes: Sequence[str] = (), report: Report = silent, *, delete: bool = False
) -> MirrorReport:
    """Copies what is missing from another registry; see `registry.mirror`. A registry may be serving meanwhile."""
    with _open(settings, makes=True) as (database, store):
        return copy_versions(Registry(database, Blobs(database, store)), source, prefixes, report, delete=delete)


def export_static(settings: Settings, folder: Path, report: Report = silent) -> StaticReport:
    """Writes every public model into a folder that any web server can serve."""
    with _open(settings) as (database, store):
        return static.export_static(Registry(database, Blobs(database, store)), folder, report)


def create_token(
    settings: Settings, name: str, expires_in: timedelta | None = None, scopes: Sequence[str] = ("write:*",)
) -> str:
    """Makes a token and returns its text, which is never shown again; raises `TakenError` if the name is in use."""
    if not 1 <= len(name) <= 128 or not name.isascii() or not name.isprintable():
        raise InvalidRequestError("a token's name is 1 to 128 printable ASCII characters")
    if expires_in is not None and not timedelta(0) < expires_in <= timedelta(days=36_500):
        raise InvalidRequestError("a token holds for more than nothing, and for 100 years at most")
    if not 1 <= len(scopes) <= MAX_GRANTS:
        raise InvalidRequestError(f"a token has 1 to {MAX_GRANTS} scopes")
    grants = " ".join(str(Grant.parse(scope)) for scope in scopes)
    text, now = new_token(), datetime.now(UTC)

    def work(session: Session) -> None:
        if queries.token_by_name(session, name):
            raise TakenError(f"there is a token named {name!r} already; revoked ones keep their name")
        expires_at = now + expires_in if expires_in else None
        session.add(Token(name=name, hash=hash_token(text), grants=grants, created_at=now, expires_at=expires_at))
        note(session, OPERATOR, "token.create", name, grants)
        session.flush()

    with _open(settings, makes=True) as (database, _):
        database.write(work)
    return text


def list_tokens(settings: Settings) -> list[TokenInfo]:
    """Every token, oldest first."""
    with _open(settings) as (database, _), database.read() as session:
        return [
            TokenInfo(token.name, token.grants.split(), token.created_at, token.expires_at, _state(token))
            for token in queries.all_tokens(session)
        ]


def revoke_token(settings: Settings, name: str) -> None:
    """Ends a token; raises `UnknownError` if there is none of this name. Safe to repeat."""

    def work(session: Session) -> None:
        token = queries.token_by_name(session, name)
        if token is None:
            raise UnknownError(f"there is no token named {name!r}")
        token.revoked_at = token.revoked_at or datetime.now(UTC)
        note(session, OPERATOR, "token.revoke", name)

    with _open(settings) as (database, _):
        database.write(work)


def _state(token: Token) -> str:
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at and token.expires_at <= datetime.now(UTC) else "valid"


@contextmanager
def _open(settings: Settings, *, makes: bool = False) -> Iterator[tuple[Database, BlobStore]]:
    """Database and store of a registry that is there; `makes` makes or upgrades one. Raises `ForeignStoreError`."""
    database = Database(settings.database)
    try:
        if not makes:
            _check_schema(database)
        store = open_store(settings)
        (identity.prepare if makes else identity.check)(settings, database, store)
        yield database, store
    finally:
        database.close()


def _check_schema(database: Database) -> None:
    with database.read() as session:
        connection = session.connection()
        found = ", ".join(migrate.current(connection))
        ours = ScriptDirectory.from_config(migrate.config_for(connection)).get_current_head()
    if not found:
        raise SchemaError(
            f"there is no registry in the database {database.engine.url}; give its own --database-url or --folder, "
            "or make one: `zoo registry init`"
        )
    if found != ours:
        raise SchemaError(
            f"the database has the schema {found}, this program {ours}; `zoo registry upgrade` brings it to that"
        )


def set_scope(settings: Settings, name: str, *, private: bool) -> int:
    """Makes a scope private or public with all its models; returns how many those are."""
    scope = parse_scope(name)
    with _open(settings, makes=True) as (database, _):
        return database.write(lambda session: scopes_of_models.set_private(session, scope, private=private))


def list_scopes(settings: Settings) -> dict[str, str]:
    """The scopes that were made private, or public again: "private" or "public" by name."""
    with _open(settings) as (database, _), database.read() as session:
        rows = scopes_of_models.all_scopes(session)
        return {f"@{row.name}": "private" if row.private else "public" for row in rows}


def audit(settings: Settings, **wanted: Any) -> list[AuditRecord]:
    """Entries of the audit log, newest first; `wanted` are those of `registry.audit.entries`."""
    with _open(settings) as (database, _), database.read() as session:
        rows = entries(session, **wanted)
        return [AuditRecord(e.at, e.actor, e.address, e.action, e.target, e.detail) for e in rows]
