"""What classifiers share: the output that holds their logits, and probabilities from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.errors import PipelineError


def logits_output(names: Sequence[str], task: str) -> tuple[str, ...]:
    """Return the output `logits`, or the only one. Raises PipelineError when there is neither."""
    if "logits" in names:
        return ("logits",)
    if len(names) == 1:
        return tuple(names)
    raise PipelineError(f"the model's outputs are {list(names)}; {task} needs logits")


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return probabilities over the last axis of finite logits of any shape."""
    exponents = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    probabilities: NDArray[np.float64] = exponents / exponents.sum(-1, keepdims=True)
    return probabilities
