"""By what the difference of a model's outputs from others is measured: how far the outputs' own values spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASS_LOGITS = "logits"  # the output that transformers' classifiers name so: classes last
_LEAST_DEVIATION = 1e-6


@dataclass(frozen=True)
class Spread:
    """What `count` values spread over."""

    count: int
    mean: float
    variance: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: NDArray[Any]) -> Self:
        """Return the spread of an array's values."""
        import numpy as np

        if not values.size:
            return cls(0, 0.0, 0.0, float("inf"), float("-inf"))
        wide = values.astype(np.float64)
        return cls(values.size, *(float(f(wide)) for f in (np.mean, np.var, np.min, np.max)))

    @classmethod
    def joined(cls, parts: Sequence[Spread]) -> Self:
        """Return the spread of the values of all parts together."""
        count = sum(part.count for part in parts)
        mean = sum(part.count * part.mean for part in parts) / max(count, 1)
        squares = sum(part.count * (part.variance + (part.mean - mean) ** 2) for part in parts)
        least, greatest = min(part.least for part in parts), max(part.greatest for part in parts)
        return cls(count, mean, squares / max(count, 1), least, greatest)

    @property
    def range(self) -> float:
        """The distance from the least value to the greatest."""
        return self.greatest - self.least

    def relative_rms(self, found: NDArray[Any], expected: NDArray[Any]) -> float:
        """Return the RMS of the difference of arrays of one shape over the standard deviation; 0 for empty ones."""
        import numpy as np

        if not expected.size:
            return 0.0
        rms = float(np.sqrt(np.mean(np.square(found.astype(np.float64) - expected.astype(np.float64)))))
        return rms / max(math.sqrt(self.variance), _LEAST_DEVIATION)


def measures(name: str, samples: Sequence[Spread]) -> list[Spread]:
    """Return, for an output of that name, what each sample is measured by, given the spread of each.

    That is its own; but for the logits of classes that of all samples: two that nearly tie say nothing alone.
    """
    return [Spread.joined(samples)] * len(samples) if name == CLASS_LOGITS and samples else list(samples)
