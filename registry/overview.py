"""What pages show of a model besides its version: benchmarks, family, lineage; and models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from registry import benchmark_queries
from registry.caller import Caller
from registry.db import Database
from registry.family import Family, family_of, members_of
from registry.lineage import users_seen
from registry.service import find_version
from registry.tables import Listing
from zoo.benchmark import BenchmarkRecord


class Overview(NamedTuple):
    """A version's records, newest first, its family, and the models that were made from it or by its recipe."""

    benchmarks: list[BenchmarkRecord]
    family: Family
    users: list[tuple[str, str]]


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
            users = list(dict.fromkeys((u.name, u.relation) for u in users_seen(session, version, caller)))
            return Overview(records, family_of(session, version, caller), users)

    def side_by_side(self, names: Sequence[str], caller: Caller) -> Family:
        """The latest versions of some models, as a family would be compared."""
        with self._database.read() as session:
            ids = [find_version(session, name, caller).model_id for name in names]
            rows = [row for model_id in ids if (row := session.get(Listing, model_id)) is not None]
            return members_of(session, rows)
