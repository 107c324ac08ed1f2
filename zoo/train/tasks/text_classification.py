"""`zoo train text-classification`: fine-tune, prune, quantize and distil on labelled texts, then export."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from zoo.errors import TrainingError
from zoo.labelled import LABEL, Columns, LabelledText, label_order, labelled, read_labelled
from zoo.scores import label_scores
from zoo.texts import MAX_LENGTH, text_rows
from zoo.train.arguments import DataArguments, FlagsError, flag
from zoo.train.classifier import ClassifierRun
from zoo.train.features import Feature
from zoo.train.hub_sets import load_split, name_of, placed_rows, told
from zoo.train.run import train

_GLUE = "nyu-mll/glue"
_GLUE_TASKS = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "wnli")
_MEASURED = "stsb"  # GLUE's one task of regression
_FILES = "TSV, CSV, JSON or JSON lines with the columns sentence (or sentence1 and sentence2) and label"


def main(argv: Sequence[str]) -> int:
    """Run the command line; return its exit code. The report goes to stdout, all else to stderr."""
    return train(TextClassification, argv)


@dataclass
class TextArguments(DataArguments):
    """Which texts, and how many of their tokens are read."""

    command: ClassVar[str] = "text-classification"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "f1")
    set_flags: ClassVar[tuple[str, ...]] = ("--dataset_name", "--task_name")

    task_name: str | None = flag(None, f"a task of GLUE: {', '.join(_GLUE_TASKS)}")
    dataset_name: str | None = flag(None, "sst2, glue or another set of labelled texts of the datasets package")
    train_file: str | None = flag(None, _FILES)
    validation_file: str | None = flag(None, _FILES)
    test_file: str | None = flag(None, f"{_FILES}, for --do_predict")
    input_column_names: str | None = flag(None, "column of the texts, or two with a comma, if not one of the usual")
    label_column_name: str = flag(LABEL, "column of the labels")
    max_seq_length: int = flag(MAX_LENGTH, "tokens of a text, or of a pair; what is longer is cut")

    @property
    def named_set(self) -> tuple[str, str | None] | None:
        """The set of the datasets package that the flags name, and its configuration."""
        if self.dataset_name is None:
            return None if self.task_name is None else (_GLUE, self.task_name)
        is_glue = self.dataset_name in ("glue", _GLUE)
        return self.dataset_name, self.dataset_config_name or (self.task_name if is_glue else None)

    @property
    def columns(self) -> Columns:
        """The columns to read."""
        names = tuple(name.strip() for name in (self.input_column_names or "").split(",") if name.strip())
        return Columns(names or None, self.label_column_name)

    def check(self) -> None:
        """Raise FlagsError for tasks and columns that can't be used."""
        if self.task_name is not None:
            self.task_name = self.task_name.lower()
        if _MEASURED in (self.task_name, self.dataset_config_name):
            raise FlagsError(f"{_MEASURED} has measures for labels: regression is not supported")
        if self.task_name is not None and self.task_name not in _GLUE_TASKS:
            raise FlagsError(f"--task_name {self.task_name} is no task of GLUE: {', '.join(_GLUE_TASKS)}")
        if len(self.columns.texts or ()) > 2:
            raise FlagsError("--input_column_names takes one column, or two for pairs of texts")


class TextClassification(ClassifierRun[TextArguments, LabelledText]):
    """Texts, or pairs of them, get one of several labels; judged by accuracy, and by F1 where there are two."""

    task = "text_classification"
    flags = TextArguments
    architecture = AutoModelForSequenceClassification
    ending = "ForSequenceClassification"

    def read_file(self, file: str) -> list[LabelledText]:
        """Read TSV, CSV or JSON."""
        return read_labelled(file, self.data_args.columns)

    def read_set(self, split: str) -> tuple[list[LabelledText], tuple[str, ...] | None]:
        """Read a split of the named set, with the labels that it declares."""
        return named_examples(self.data_args, split)

    def labels_in(self, example: LabelledText) -> tuple[str]:
        """Return the text's label."""
        return (example.label,)

    def order(self, labels: Collection[str], place: str) -> tuple[str, ...]:
        """Return numbers by size, names by alphabet."""
        return label_order(labels, place)

    def make_features(self, examples: Sequence[LabelledText], *, labels: bool) -> list[Feature]:  # noqa: ARG002 - labels are judged too
        """Return a row of tokens and the label's id for each example."""
        ids = [self.id_of(example.label, example.place) for example in examples]
        try:
            rows = text_rows(self.plain, [e.texts for e in examples], max_length=self.data_args.max_seq_length)
        except ValueError as error:
            raise TrainingError(f"--max_seq_length: {error}") from error
        return [Feature(number, row, {"labels": ids[number]}) for number, row in enumerate(rows)]

    def judge(self, outputs: Mapping[str, Sequence[Tensor]]) -> tuple[dict[str, float], dict[str, Any]]:
        """Return accuracy, and f1 for two labels; eval_predictions.json, a row an example."""
        chances = torch.stack(list(outputs["logits"])).softmax(-1)
        best = chances.argmax(-1).tolist()
        right = [int(feature.labels["labels"]) for feature in self.eval_set.features]
        names = self.labels.names
        rows = [
            {"label": names[mine], "probability": float(chance[mine]), "expected": names[wanted]}
            for mine, wanted, chance in zip(best, right, chances, strict=True)
        ]
        return label_scores(best, right, len(names)), {"eval_predictions.json": rows}

    def texts(self, example: LabelledText) -> tuple[str, ...]:
        """Return the text, or the pair."""
        return example.texts


def named_examples(data: TextArguments, split: str) -> tuple[list[LabelledText], tuple[str, ...] | None]:
    """Read a split with the `datasets` package; return its texts, and the labels that the set declares, by id.

    Raises TrainingError where the package isn't installed, the set can't be loaded, or has another form.
    """
    name, configuration = data.named_set or ("", None)
    if configuration == "mnli" and split == "validation":
        split = "validation_matched"
    rows = load_split(name, configuration, split)
    features = getattr(rows, "features", None) or {}
    column = data.label_column_name
    names = getattr(features.get(column), "names", None)
    place = told(data.named_set, split)
    label = None if names is None else partial(name_of, tuple(names))
    found = labelled(placed_rows(rows, place, column, label), data.columns)
    if not found:
        raise TrainingError(f"{place}: holds no rows")
    return found, None if names is None else tuple(names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
