"""Whose a blob store is: a registry's id stands in its database, and the same beside its blobs.

A database that is used with another registry's store would find nothing there, and sweep all of it. The id is random
and made once, with the schema. A copy of the database has the same id; a restored backup is a registry of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry import migrate, queries
from registry.db import Database
from registry.errors import ForeignStoreError
from registry.settings import Settings
from registry.storage import BlobStore


@dataclass(frozen=True)
class Adoption:
    """A store that was given to a registry, and the id of the one that it belonged to, if there was one."""

    store: str
    registry_id: str
    previous_id: str | None


def prepare(settings: Settings, database: Database, store: BlobStore) -> str:
    """Upgrades the database, gives its id to a store that has none, and returns the schema's revision.

    Raises `SchemaError`, or `ForeignStoreError` as `check` does.
    """
    revision = migrate.upgrade(database)
    if store.registry_id() is None:
        store.set_registry_id(_own_id(database))
    check(settings, database, store)
    return revision


def check(settings: Settings, database: Database, store: BlobStore) -> None:
    """Raises `ForeignStoreError` if the store carries another registry's id; one of before there were ids has none."""
    ours, theirs = _own_id(database), store.registry_id()
    if theirs not in (None, ours):
        raise ForeignStoreError(
            f"the blob store {settings.blobs_at} belongs to the registry {theirs!a}, and the database "
            f"{database.engine.url} to the registry {ours!a}; no file was touched. Give the --database-url and "
            "--folder, or ZOO_REGISTRY_BLOB_STORE, that belong together; if this database is to have this store from "
            "now on, run `zoo registry adopt` with both"
        )


def adopt(settings: Settings, database: Database, store: BlobStore) -> Adoption:
    """Gives the store to the database's registry, whatever it belonged to."""
    ours, theirs = _own_id(database), store.registry_id()
    store.set_registry_id(ours)
    return Adoption(settings.blobs_at, ours, theirs)


def _own_id(database: Database) -> str:
    with database.read() as session:
        return queries.registry_id(session)
