"""Data sets by name, through the `datasets` package."""

from __future__ import annotations

import importlib
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
