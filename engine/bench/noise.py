"""What others take from the machine while something is measured."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_BUSY_FIELDS = (1, 2, 3, 6, 7, 8)  # user, nice, system, irq, softirq, steal: proc(5)


def busy_s() -> float:
    """Processor seconds that all processes have used since the start, on all cores; 0 where nobody tells."""
    try:
        counts = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        return sum(int(counts[i]) for i in _BUSY_FIELDS) / _TICKS_PER_S
    except (OSError, ValueError, IndexError):
        return 0.0


@dataclass
class Noise:
    """Takes note of the processors from its start on."""

    started_s: float
    busy_before_s: float
    own_before_s: float

    @classmethod
    def start(cls) -> Self:
        """Begins now."""
        return cls(time.perf_counter(), busy_s(), time.process_time())

    def others_share(self) -> float:
        """The share of all processor time since the start that other processes took, 0 to 1."""
        wall = time.perf_counter() - self.started_s
        others = (busy_s() - self.busy_before_s) - (time.process_time() - self.own_before_s)
        return min(1.0, max(0.0, others / max(wall * (os.cpu_count() or 1), 1e-9)))
