"""Benchmark records: kept with their version, and asked for the best model on a CPU."""

from __future__ import annotations

from sqlalchemy.orm import Session

from registry import benchmark_queries, listings, queries
from registry.audit import note
from registry.caller import ANYONE, Caller
from registry.db import Database
from registry.resolution import find_to_change, find_version
from registry.schemas import BenchmarkIn, BenchmarkView, BestIn, BestList, BestView
from registry.tables import Benchmark, Version
from registry.views import name_of
from zoo.benchmark import BenchmarkRecord
from zoo.stub import PREFIX


class Benchmarks:
    """The service of benchmark records."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, sent: BenchmarkIn, caller: Caller) -> tuple[BenchmarkView, bool]:
        """Keeps a record; False if the version has it already."""
        record = sent.record

        def work(session: Session) -> tuple[BenchmarkView, bool]:
            version = find_to_change(session, sent.stub, caller)
            known = benchmark_queries.benchmark_of(session, version.id, record.digest())
            if known is not None:
                return _view(version, known), False
            row = _row(version, record, caller)
            session.add(row)
            listings.refresh(session, version.model_id)
            note(session, caller, "benchmark", name_of(version), record.hardware.cpu)
            return _view(version, row), True

        return self._database.write(work)

    def of(self, stub_text: str, caller: Caller = ANYONE) -> list[BenchmarkView]:
        """The records of the version that a stub names, newest first."""
        with self._database.read() as session:
            version = find_version(session, stub_text, caller)
            return [_view(version, row) for row in benchmark_queries.benchmarks_of(session, [version.id])]

    def best(self, wanted: BestIn, caller: Caller = ANYONE) -> BestList:
        """The models with the highest F1 that meet the conditions on the CPU or, with none there, on its like."""
        with self._database.read() as session:
            found, measured_on = benchmark_queries.best(session, wanted, caller, exact=True), "cpu"
            if not found and wanted.isa is not None:
                found, measured_on = benchmark_queries.best(session, wanted, caller, exact=False), "isa"
            versions = queries.versions_by_id(session, [listing.version_id for listing, _ in found])
            items = [
                BestView(
                    name=PREFIX + listing.full_name,
                    version=version.number,
                    f1=listing.f1,
                    benchmark=_view(version, benchmark),
                )
                for (listing, benchmark), version in zip(found, versions, strict=True)
            ]
        return BestList(items=items, measured_on=measured_on)


def _row(version: Version, record: BenchmarkRecord, caller: Caller) -> Benchmark:
    hardware = record.hardware
    return Benchmark(
        version_id=version.id,
        digest=record.digest(),
        cpu=hardware.cpu,
        isa=hardware.isa,
        cores=hardware.cores,
        threads=record.threads,
        engine=record.engine,
        batch_size=record.batch_size,
        sequence_length=record.sequence_length,
        items_per_second=record.items_per_second,
        median_ms=record.median_ms,
        measured_at=record.measured_at,
        published_by=caller.name,
        record=record.model_dump_json(),
    )


def _view(version: Version, row: Benchmark) -> BenchmarkView:
    return BenchmarkView(
        name=PREFIX + version.model.full_name,
        version=version.number,
        record=BenchmarkRecord.model_validate_json(row.record),
        published_by=row.published_by,
    )
