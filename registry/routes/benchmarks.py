"""Benchmark records, and the best model for a CPU."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from registry.routes.bodies import StrictRoute
from registry.routes.depends import BenchmarksDep, CallerDep, WriterDep
from registry.routes.versions import StubQuery
from registry.schemas import BenchmarkIn, BenchmarkList, BenchmarkView, BestIn, BestList

router = APIRouter(tags=["benchmarks"], route_class=StrictRoute)


@router.post(
    "/benchmarks",
    status_code=201,
    responses={200: {"model": BenchmarkView, "description": "The same record was here already"}},
)
def add_benchmark(body: BenchmarkIn, response: Response, benchmarks: BenchmarksDep, writer: WriterDep) -> BenchmarkView:
    """Keeps a measurement of the version that the stub names; safe to repeat after a lost answer."""
    view, is_new = benchmarks.add(body, writer)
    response.status_code = 201 if is_new else 200
    return view


@router.get("/benchmarks")
def list_benchmarks(stub: StubQuery, benchmarks: BenchmarksDep, caller: CallerDep) -> BenchmarkList:
    """Measurements of the version that the stub names, newest first."""
    return BenchmarkList(items=benchmarks.of(stub, caller))


@router.get("/best")
def best(wanted: Annotated[BestIn, Query()], benchmarks: BenchmarksDep, caller: CallerDep) -> BestList:
    """Models that were measured on the CPU, or on ones like it, and meet every condition; the highest F1 first."""
    return benchmarks.best(wanted, caller)
