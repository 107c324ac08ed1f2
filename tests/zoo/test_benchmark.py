"""Benchmark records: this machine's name, and a record's way to a registry and back."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

import zoo
from tests.zoo.live_registry import serving
from zoo.benchmark import BenchmarkRecord, Hardware, this_hardware
from zoo.client import RegistryClient
from zoo.errors import NotFoundError, UnavailableError
from zoo.publish import publish_benchmark
from zoo.settings import Settings

STUB = "zoo:tiny"


@dataclass(frozen=True)
class Measured:
    """What a benchmark reports."""

    median_ms: float = 12.5
    engine: str = "sparrow"
    batch_size: int = 1
    sequence_length: int = 384
    num_cores: int | None = None
    seconds: float = 1.0
    iterations: int = 80
    items_per_second: float = 80.0
    percentiles_ms: dict[str, float] = field(default_factory=lambda: {"99.0%": 20.0})


def test_this_machine_is_named() -> None:
    hardware = this_hardware()
    assert hardware.cpu
    assert hardware.isa in ("avx512vnni", "avx2", "neon", "scalar")
    assert hardware.cores >= 1
    assert this_hardware() == hardware


def test_a_record_is_published_once_and_found_as_the_best(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.md").write_text("---\nmetrics: {f1: 88}\n---\n")
    with serving(tmp_path / "registry") as endpoint:
        settings = Settings.load(endpoint=endpoint, cache=tmp_path / "cache")
        zoo.publish(folder, STUB, settings=settings)
        view = publish_benchmark(STUB, Measured(), settings=settings)
        assert (view.name, view.version, view.record.threads) == (STUB, 1, this_hardware().cores)
        with RegistryClient(settings) as client:
            assert client.post_benchmark(zoo.Stub.parse(STUB), view.record) == view
            page = client.best(this_hardware(), f1_min=80, latency_max_ms=12.5)
            assert [(item.name, item.f1, item.benchmark) for item in page.items] == [(STUB, 88, view)]
            assert client.best(this_hardware(), latency_max_ms=12).items == ()
            other = Hardware(cpu="unknown", isa=this_hardware().isa, cores=this_hardware().cores)
            assert client.best(other).measured_on == "isa"
        with pytest.raises(UnavailableError, match="while offline"):
            publish_benchmark(STUB, Measured(), settings=replace(settings, offline=True))
        with pytest.raises(NotFoundError):
            publish_benchmark("zoo:nothing", Measured(), settings=settings)
        command = [sys.executable, "cli.py", "--json", "search", "--best-for", "this-cpu", "--f1-min", "80"]
        done = subprocess.run(
            [*command, "--latency-max", "20"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
            env={"ZOO_ENDPOINT": endpoint, "PATH": "", "HOME": str(tmp_path)},
        )
        assert [item["name"] for item in json.loads(done.stdout)["items"]] == [STUB]


def test_equal_records_have_equal_digests() -> None:
    given = {**Measured().__dict__, "hardware": this_hardware(), "threads": 2, "measured_at": "2026-11-01T00:00:00Z"}
    given.pop("num_cores")
    assert BenchmarkRecord(**given).digest() == BenchmarkRecord(**given).digest()
    assert BenchmarkRecord(**{**given, "median_ms": 1}).digest() != BenchmarkRecord(**given).digest()
