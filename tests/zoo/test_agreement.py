"""What differences are measured by."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.agreement import CLASS_LOGITS, Spread, measures

SAMPLES = [np.array([3.0, 3.00001], np.float32), np.array([[-2.0, 5.0], [0.0, 1.0]], np.float32)]


def test_joined_is_that_of_all_values() -> None:
    values = np.concatenate([sample.ravel() for sample in SAMPLES])
    joined = Spread.joined([Spread.of(sample) for sample in (*SAMPLES, np.zeros((0, 2)))])
    assert joined.count == 6
    assert (joined.mean, joined.variance) == (pytest.approx(values.mean()), pytest.approx(values.var()))
    assert joined.range == 7


def test_classes_are_measured_by_all_samples_and_others_by_their_own() -> None:
    own = [Spread.of(sample) for sample in SAMPLES]
    assert measures("start_logits", own) == own
    assert measures(CLASS_LOGITS, own) == [Spread.joined(own)] * 2
    assert measures(CLASS_LOGITS, []) == []


def test_the_difference_is_that_over_the_deviation() -> None:
    found, expected = np.array([2.0, 2.0]), np.array([1.0, 3.0])
    assert Spread.of(expected).relative_rms(found, expected) == 1
    assert Spread.of(expected).relative_rms(np.zeros(0), np.zeros(0)) == 0
    flat = np.ones(2)
    assert Spread.of(flat).relative_rms(flat + 1e-7, flat) == pytest.approx(0.1)
