"""What pages show of a model besides its version: benchmarks, family, lineage; and models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from registry import benchmark_queries
from registry.caller import Caller
from registry.db import Database
from registry.family import Family, family_of, members_of
from registry.lineage import users_of_recipe, users_seen
from registry.resolution import find_version
from registry.tables import Listing
from zoo.benchmark import BenchmarkRecord


class Overview(NamedTuple):
    """A version's records, newest first, its family, and the models that were made from it: name -> relations."""

    benchmarks: list[BenchmarkRecord]
    family: Family
    users: dict[str, list[str]]


class Overviews:
    """Reads overviews."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, stub_text: str, caller: Caller) -> Overview:
        """The overview of the version that a stub names."""
        with self._database.read() as session:
            version = find_version(session, stub_text, caller)
            rows = benchmark_queries.benchmarks_of(session, [version.id], limit=100)
            records = [BenchmarkRecord.model_validate_json(row.record) for row in rows]
            users = dict[str, list[str]]()
            for user in users_seen(session, version, caller):
                relations = users.setdefault(user.name, [])
                relations += [] if user.relation in relations else [user.relation]
            return Overview(records, family_of(session, version, caller), users)

    def recipe_users(self, stub_text: str, name: str | None, digest: str, caller: Caller) -> list[str]:
        """The models that used one recipe file of a version: by its name, None for the default, or its digest."""
        with self._database.read() as session:
            version = find_version(session, stub_text, caller)
            return list(dict.fromkeys(u.name for u in users_of_recipe(session, version, name, digest, caller)))

    def side_by_side(self, names: Sequence[str], caller: Caller) -> Family:
        """The latest versions of some models, as a family would be compared."""
        with self._database.read() as session:
            ids = [find_version(session, name, caller).model_id for name in names]
            rows = [row for model_id in ids if (row := session.get(Listing, model_id)) is not None]
            return members_of(session, rows)
