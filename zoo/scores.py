"""How well a classifier's labels agree with those that are right."""

from __future__ import annotations

from collections.abc import Sequence


def label_scores(given: Sequence[int], right: Sequence[int], labels: int) -> dict[str, float]:
    """Return accuracy, in [0, 1], and f1 of label 1 where there are two: the harmonic mean of precision and recall.

    given, right: label numbers below `labels`, one a text, at least one.
    """
    scores = {"accuracy": sum(a == b for a, b in zip(given, right, strict=True)) / len(right)}
    if labels == 2:
        both = sum(a == b == 1 for a, b in zip(given, right, strict=True))
        either = sum(given) + sum(right)
        scores["f1"] = 2 * both / either if either else 0.0
    return scores
