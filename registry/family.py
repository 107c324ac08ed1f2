"""A model's family: models of its task, data set and architecture, with what its page compares."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.orm import Session

from registry import benchmark_queries, listings, queries
from registry.caller import Caller
from registry.tables import Benchmark, Listing, Version

MAX_MEMBERS = 12


class Member(NamedTuple):
    """One model of a family. Throughput is in items a second, latency a median in milliseconds at batch size 1."""

    name: str
    label: str
    sparsity: float | None
    quantized: bool | None
    f1: float | None
    onnx_bytes: int
    items_per_second: float | None
    latency_ms: float | None


class Family(NamedTuple):
    """Members, the model itself among them, and the CPU and number of tokens that their times were measured with."""

    members: list[Member]
    cpu: str | None = None
    sequence_length: int | None = None


def family_of(session: Session, version: Version, caller: Caller) -> Family:
    """The family of a version's model; the model alone where its task, data set or architecture isn't known."""
    own = session.get(Listing, version.model_id)
    if own is None:
        return Family([])
    rows = list(listings.family(session, own, caller, MAX_MEMBERS))
    if own not in rows:
        rows = [*rows[: MAX_MEMBERS - 1], own]
    return members_of(session, rows)


def members_of(session: Session, rows: Sequence[Listing]) -> Family:
    """The members behind some listings, dense ones first, with times from where most of them were measured alike."""
    records = benchmark_queries.benchmarks_of(session, [row.version_id for row in rows])
    measured = Counter(way for way, _ in {(_way(record), record.version_id) for record in records})
    way = measured.most_common(1)[0][0] if measured else (None, None)
    versions = queries.versions_by_id(session, [row.version_id for row in rows])
    mine = [record for record in records if _way(record) == way]
    members = [_member(row, version, mine) for row, version in zip(rows, versions, strict=True)]
    return Family(sorted(members, key=lambda m: (m.sparsity or 0, bool(m.quantized), m.label)), *way)


def _way(record: Benchmark) -> tuple[str, int | None]:
    """What must be equal for times to be compared; each model may have its best engine and batch size."""
    return record.cpu, record.sequence_length


def _member(row: Listing, version: Version, records: Sequence[Benchmark]) -> Member:
    own = [record for record in records if record.version_id == version.id]
    files = json.loads(version.manifest)["files"]
    onnx = [f["size_bytes"] for f in files if f["role"] == "deployment" and f["path"].endswith((".onnx", "data"))]
    return Member(
        name=f"zoo:{row.full_name}",
        label=(version.alias or row.full_name).removeprefix("zoo:"),
        sparsity=row.sparsity,
        quantized=row.quantized,
        f1=row.f1,
        onnx_bytes=sum(onnx),
        items_per_second=max((record.items_per_second for record in own), default=None),
        latency_ms=min((record.median_ms for record in own if record.batch_size == 1), default=None),
    )
