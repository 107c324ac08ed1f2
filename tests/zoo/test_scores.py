"""Accuracy and F1 of labels, by hand."""

from __future__ import annotations

import pytest

from zoo.scores import label_scores


@pytest.mark.parametrize(
    ("given", "right", "scores"),
    [
        ([1, 1, 0, 0], [1, 0, 1, 0], {"accuracy": 0.5, "f1": 0.5}),
        ([1, 1, 1, 0], [1, 0, 1, 0], {"accuracy": 0.75, "f1": 0.8}),
        ([0, 0], [0, 0], {"accuracy": 1.0, "f1": 0.0}),
        ([1], [0], {"accuracy": 0.0, "f1": 0.0}),
    ],
)
def test_f1_is_that_of_label_1(given: list[int], right: list[int], scores: dict[str, float]) -> None:
    assert label_scores(given, right, 2) == pytest.approx(scores)


def test_of_three_labels_there_is_accuracy_alone() -> None:
    assert label_scores([0, 1, 2], [0, 1, 1], 3) == {"accuracy": pytest.approx(2 / 3)}
