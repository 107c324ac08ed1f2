"""Data sets by name, through the `datasets` package."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from zoo.errors import TrainingError


def load_split(name: str, configuration: str | None, split: str) -> Any:
    """Return the rows of a split, as the datasets package gives them.

    Raises TrainingError where the package isn't installed, or the set can't be loaded.
    """
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise TrainingError(
            "--dataset_name needs the datasets package: pip install datasets, or give --train_file and "
            "--validation_file"
        ) from error
    try:
        return datasets.load_dataset(name, configuration, split=split)
    except Exception as error:
        raise TrainingError(
            f"--dataset_name {' '.join(filter(None, (name, configuration)))} can't be loaded: {error}"
        ) from error


def told(named_set: tuple[str, str | None] | None, split: str) -> str:
    """Return how messages name a split of a named set."""
    return " ".join(filter(None, ("--dataset_name", *(named_set or ())))) + f", split {split}"


def placed_rows(
    rows: Any, place: str, column: str | None, named: Callable[[Any, str], Any] | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each row with its place; `named`, if given, turns what its column of labels holds into names."""
    for number, row in enumerate(rows, 1):
        here = f"{place}: row {number}"
        if named is not None and column is not None and column in row:
            yield here, {**row, column: named(row[column], here)}
        else:
            yield here, row


def name_of(names: Sequence[str], number: object, place: str) -> str:
    """Return a label's name, of those that a set declares. Raises TrainingError where the number is no label's."""
    if not isinstance(number, int) or not 0 <= number < len(names):
        raise TrainingError(f"{place}: has no label ({number}); sets without labels can't be used")
    return names[number]
