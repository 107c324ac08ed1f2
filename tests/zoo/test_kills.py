"""Kills and crowds, as benchmarks/ runs them in large. Rows are those of the list of faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import registry_crowd
from benchmarks.registry_kills import MIB, Bench, kill_publishing, kill_pulls


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench.made(tmp_path, seed=1)
    yield bench
    bench.program.stop()


@pytest.mark.slow
def test_row_20_a_pull_killed_at_any_moment_leaves_no_wrong_byte(bench: Bench) -> None:
    found = kill_pulls(bench, 3, 8 * MIB)
    assert found["completed"] >= found["cut_off"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("registry", [False, True], ids=["publisher", "registry"])
def test_row_18_publishing_killed_at_any_moment_leaves_no_half_version(bench: Bench, registry: bool) -> None:
    found = kill_publishing(bench, 2, (33 * MIB,), registry=registry)
    assert found["completed"] >= found["cut_off"] == 2


@pytest.mark.slow
def test_row_19_many_processes_pull_a_model_once(tmp_path: Path) -> None:
    found = registry_crowd.measure(tmp_path, 8, [10_000, 1_000_000, 20 * MIB])
    assert found["downloads"] == found["files"] == 3
