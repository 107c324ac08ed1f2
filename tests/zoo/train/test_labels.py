"""Which id a label of the data has: that of a model that knows it, or a new one."""

from __future__ import annotations

import pytest

from zoo.errors import TrainingError
from zoo.train.labels import ids_on, labels_for

NAMELESS = ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize(
    ("names", "labels", "ordered", "ids"),
    [
        (("bad", "good"), ("good", "bad"), False, [1, 0]),
        (("NEGATIVE", "POSITIVE"), ("positive",), False, [1]),
        (("A", "a"), ("a", "A"), False, [1, 0]),
        (("NEGATIVE", "POSITIVE"), ("0", "1"), False, [0, 1]),
        (("1", "2"), ("2", "1"), False, [1, 0]),
        (NAMELESS, ("bad", "good"), True, [0, 1]),
        (("0", "1"), ("bad", "good"), True, [0, 1]),
        (NAMELESS, ("bad", "good"), False, None),
        (("bad", "good"), ("bad", "fair"), False, None),
        (("bad", "good"), ("Bad", "bad"), False, None),
        (("bad", "good"), ("0", "2"), False, None),
    ],
)
def test_ids_are_found(names: tuple[str, ...], labels: tuple[str, ...], ordered: bool, ids: list[int] | None) -> None:
    expected = None if ids is None else dict(zip(labels, ids, strict=True))
    assert ids_on(names, labels, ordered=ordered) == expected


@pytest.mark.parametrize(
    ("base", "names", "fresh"),
    [
        (None, ("bad", "good"), True),
        (("GOOD", "BAD"), ("GOOD", "BAD"), False),
        (NAMELESS, ("bad", "good"), False),
        (("cold", "warm"), ("bad", "good"), True),
        (("bad", "fair", "good"), ("bad", "good"), True),
        (("LABEL_0",), ("bad", "good"), True),
    ],
)
def test_a_head_is_kept_for_the_same_labels(base: tuple[str, ...] | None, names: tuple[str, ...], fresh: bool) -> None:
    labels, head = labels_for(("bad", "good"), base, None, ordered=True)
    assert (labels.names, head.labels, head.fresh) == (names, names, fresh)
    assert {label: names[index].casefold() for label, index in labels.ids.items()} == {"bad": "bad", "good": "good"}


def test_numbers_get_the_names_that_the_base_has() -> None:
    labels, head = labels_for(("0", "1"), ("NEGATIVE", "POSITIVE"), None, ordered=True)
    assert (labels.names, labels.ids, head.fresh) == (("NEGATIVE", "POSITIVE"), {"0": 0, "1": 1}, False)


def test_a_teacher_must_have_the_same_labels_in_the_same_order() -> None:
    labels, head = labels_for(("bad", "good"), None, ("good", "bad"), ordered=False)
    assert (labels.names, head.fresh) == (("good", "bad"), True)
    with pytest.raises(TrainingError, match="the teacher tells apart cold, warm; the data's labels are bad, good"):
        labels_for(("bad", "good"), None, ("cold", "warm"), ordered=False)
    with pytest.raises(TrainingError, match="another order: good, bad; the model to train has bad, good"):
        labels_for(("bad", "good"), ("bad", "good"), ("good", "bad"), ordered=False)
