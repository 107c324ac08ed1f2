"""Which number each label of the data has in a classifier: that of a model that knows the labels, or a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zoo.errors import TrainingError
from zoo.train.models import Head


@dataclass(frozen=True)
class Labels:
    """The names of a classifier's labels by id, and the id of each label as the data spells it."""

    names: tuple[str, ...]
    ids: dict[str, int]


def ids_on(names: Sequence[str], labels: Sequence[str], *, ordered: bool = False) -> dict[str, int] | None:
    """Return the id of each of the data's labels among a classifier's names; None where one has none.

    Found by name; by name in other case; by number; or, where the classifier's names only say a number and `labels`
    are `ordered` by the ids of their data set, by their place.
    """
    exact = {name: index for index, name in enumerate(names)}
    folded = {name.casefold(): index for name, index in exact.items()}
    numbers = {str(index): index for index in range(len(names))}
    for known, spelled in ((exact, str), (folded, str.casefold), (numbers, str)):
        ids = {label: known[spelled(label)] for label in labels if spelled(label) in known}
        if len(set(ids.values())) == len(labels):
            return ids
    if ordered and len(labels) == len(names) and _nameless(names):
        return {label: index for index, label in enumerate(labels)}
    return None


def _nameless(names: Sequence[str]) -> bool:
    return all(name in (f"LABEL_{index}", str(index)) for index, name in enumerate(names))


def labels_for(
    labels: Sequence[str], base: Sequence[str] | None, teacher: Sequence[str] | None, *, ordered: bool
) -> tuple[Labels, Head]:
    """Return how a student tells the data's labels apart, and whether its base can do so already.

    labels: all of the data's, in the order that they would have; see `ids_on` for `ordered`. base, teacher: the names
    that these classifiers know, None for none. A base of the same labels keeps their order; else that of a teacher of
    the same labels is taken. Raises TrainingError when the teacher tells other labels apart, or in another order.
    """
    kept = _same(base, labels, ordered)
    taught = _same(teacher, labels, ordered)
    if teacher is not None and taught is None:
        raise TrainingError(f"the teacher tells apart {', '.join(teacher)}; the data's labels are {', '.join(labels)}")
    chosen = kept or taught or Labels(tuple(labels), {label: index for index, label in enumerate(labels)})
    if taught is not None and taught.ids != chosen.ids:
        orders = f"{', '.join(taught.names)}; the model to train has {', '.join(chosen.names)}"
        raise TrainingError(f"the teacher has the labels in another order: {orders}; start from a model without a head")
    return chosen, Head(chosen.names, fresh=kept is None)


def _same(names: Sequence[str] | None, labels: Sequence[str], ordered: bool) -> Labels | None:
    """Return a classifier's labels if they are the data's, all of them and no others."""
    ids = None if names is None or len(names) != len(labels) else ids_on(names, labels, ordered=ordered)
    if names is None or ids is None:
        return None
    if _nameless(names):
        return Labels(tuple(sorted(ids, key=ids.__getitem__)), ids)
    return Labels(tuple(names), ids)
