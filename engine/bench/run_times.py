"""What the times of single runs come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

PERCENTILES: Final = (25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True)
class RunTimes:
    """Times of single runs, in milliseconds.

    `items_per_second` is all runs' sequences over the time that they took together. `percentiles_ms` maps "50.0%" and
    its like to the run time that so many runs stayed within.
    """

    iterations: int
    items_per_second: float
    mean_ms: float
    median_ms: float
    std_ms: float
    percentiles_ms: Mapping[str, float]

    @classmethod
    def of(cls, times_s: Sequence[float] | NDArray[np.float64], batch_size: int, seconds: float) -> Self:
        """Of at least one run, each of `batch_size` sequences, that took `seconds` together."""
        times_ms = np.asarray(times_s) * 1000
        ranks = zip(PERCENTILES, np.percentile(times_ms, PERCENTILES), strict=True)
        return cls(
            iterations=len(times_ms),
            items_per_second=batch_size * len(times_ms) / seconds,
            mean_ms=float(times_ms.mean()),
            median_ms=float(np.median(times_ms)),
            std_ms=float(times_ms.std()),
            percentiles_ms={f"{rank}%": float(value) for rank, value in ranks},
        )
