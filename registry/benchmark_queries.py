"""SQL about benchmark records."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from registry.caller import Caller
from registry.queries import visible
from registry.schemas import BestIn
from registry.tables import Benchmark, Listing

MAX_CANDIDATES = 1_000


def benchmark_of(session: Session, version_id: int, digest: str) -> Benchmark | None:
    """A version's record by its digest."""
    return session.scalar(select(Benchmark).where(Benchmark.version_id == version_id, Benchmark.digest == digest))


def benchmarks_of(session: Session, version_ids: Sequence[int], limit: int = 1_000) -> Sequence[Benchmark]:
    """Records of some versions, newest first."""
    mine = select(Benchmark).where(Benchmark.version_id.in_(version_ids))
    return session.scalars(mine.order_by(Benchmark.measured_at.desc(), Benchmark.id.desc()).limit(limit)).all()


def best(session: Session, wanted: BestIn, caller: Caller, *, exact: bool) -> list[tuple[Listing, Benchmark]]:
    """Models with their fastest run at batch size 1 that meets every condition, the highest F1 first.

    `exact`: measured on this very CPU; otherwise on any with the same instruction set and no more cores.
    """
    hardware = Benchmark.cpu == wanted.cpu if exact else Benchmark.isa == wanted.isa
    conditions: list[ColumnElement[bool]] = [hardware, Benchmark.batch_size == 1, visible(caller, Listing)]
    if wanted.cores is not None:
        conditions.append((Benchmark.threads if exact else Benchmark.cores) <= wanted.cores)
    if wanted.latency_max_ms is not None:
        conditions.append(Benchmark.median_ms <= wanted.latency_max_ms)
    if wanted.f1_min is not None:
        conditions.append(Listing.f1 >= wanted.f1_min)
    facets = {name: getattr(wanted, name) for name in ("domain", "task", "architecture", "dataset")}
    conditions += [getattr(Listing, name) == value for name, value in facets.items() if value is not None]
    statement = (
        select(Listing, Benchmark)
        .join(Benchmark, Benchmark.version_id == Listing.version_id)
        .where(*conditions)
        .order_by(Listing.f1.is_(None), Listing.f1.desc(), Benchmark.median_ms, Listing.model_id.desc())
    )
    found: dict[int, tuple[Listing, Benchmark]] = {}
    for listing, benchmark in session.execute(statement.limit(MAX_CANDIDATES)):
        found.setdefault(listing.model_id, (listing, benchmark))
    return list(found.values())[: wanted.limit]
