"""Benchmark records: one measurement of a model on named hardware, as a registry keeps it."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

CPUINFO = Path("/proc/cpuinfo")
_ISAS = (("avx512_vnni", "avx512vnni"), ("avx2", "avx2"), ("asimddp", "neon"))

Name = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Cores = Annotated[int, Field(ge=1, le=65_536)]
Positive = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]


def _aware(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError("a time carries its zone, such as 2026-11-01T12:00:00Z")
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time lies outside the years 1 to 9999") from None


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hardware(_Closed):
    """A machine: its CPU's own name, the widest instruction set that counts here, and the logical cores in use."""

    cpu: Name
    isa: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,32}$")]
    cores: Cores
    system: Name | None = None


class BenchmarkRecord(_Closed):
    """Runs of `batch_size` items each, of `sequence_length` tokens where there are any; times are per run.

    `items_per_second` counts items, not runs. `percentiles_ms` maps "99.0%" and its like to milliseconds.
    """

    hardware: Hardware
    engine: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
    threads: Cores
    batch_size: Count
    sequence_length: Count | None = None
    iterations: Count
    seconds: Positive
    items_per_second: Positive
    median_ms: Positive
    percentiles_ms: Annotated[dict[Name, Positive], Field(max_length=32)] = {}
    measured_at: Annotated[datetime, AfterValidator(_aware)]

    def digest(self) -> str:
        """sha256 of the record's JSON: the same record sent twice is one."""
        return "sha256:" + hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def this_hardware() -> Hardware:
    """The machine that this process runs on; the name of an unknown CPU is that of its architecture."""
    try:
        text = CPUINFO.read_text("utf-8", "replace")
    except OSError:
        text = ""
    named = re.search(r"^model name\s*:\s*(\S.*?)\s*$", text, re.MULTILINE)
    flags = set((re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE) or ["", ""])[1].split())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Hardware(
        cpu=re.sub(r"\s+", " ", named[1])[:128] if named else platform.machine() or "unknown",
        isa=next((isa for flag, isa in _ISAS if flag in flags), "scalar"),
        cores=cores or 1,
        system=f"{platform.system()} {platform.machine()}",
    )
