"""How many threads a model gets when nobody says: the physical cores that this process may really use."""

from __future__ import annotations

import os
from pathlib import Path

SYSTEM = Path("/sys")
PROCESS = Path("/proc/self")


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _core_of(cpu: int, system: Path) -> tuple[str | None, str | None, int | None]:
    """A name for the physical core that a logical CPU belongs to; its own number where nothing is known."""
    topology = system / "devices/system/cpu" / f"cpu{cpu}" / "topology"
    core = _read(topology / "core_id")
    return _read(topology / "physical_package_id"), core, cpu if core is None else None


def _quota(folder: Path) -> float | None:
    """Cores that one cgroup's CPU quota allows, None without a quota. Knows version 2 and version 1."""
    both = _read(folder / "cpu.max")
    if both is not None:
        quota, _, period = both.partition(" ")
    else:
        quota, period = _read(folder / "cpu.cfs_quota_us") or "", _read(folder / "cpu.cfs_period_us") or ""
    if not quota.isdigit() or not period.isdigit() or int(period) == 0 or int(quota) == 0:
        return None
    return int(quota) / int(period)


def _cgroups(system: Path, process: Path) -> list[Path]:
    """The folders of this process's cgroups and of all their parents, whose quotas hold too."""
    folders = []
    for line in (_read(process / "cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = system / "fs/cgroup" / (controllers and "cpu")
        inside = root / group.lstrip("/")
        folders += [inside, *(p for p in inside.parents if p.is_relative_to(root))]
    return folders


def default_cores(system: Path = SYSTEM, process: Path = PROCESS) -> int:
    """Physical cores within the affinity mask and every cgroup CPU quota above this process, at least 1."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = len({_core_of(cpu, system) for cpu in allowed})
    quotas = [q for q in map(_quota, _cgroups(system, process)) if q is not None]
    return max(1, min([cores, *(int(q) for q in quotas)]))
