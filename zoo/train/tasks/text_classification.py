"""`zoo train text-classification`: fine-tune, prune, quantize and distil on labelled texts, then export."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from zoo.errors import TrainingError
from zoo.labelled import LABEL, Columns, LabelledText, label_order, labelled, read_labelled
from zoo.texts import MAX_LENGTH, text_rows
from zoo.train.arguments import DataArguments, FlagsError, flag
from zoo.train.features import Feature
from zoo.train.hub_sets import load_split
from zoo.train.labels import Labels, ids_on, labels_for
from zoo.train.models import labels_of, load_model
from zoo.train.run import Run, train

log = logging.getLogger("zoo.train")

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


class TextClassification(Run[TextArguments, LabelledText]):
    """Texts, or pairs of them, get one of several labels; judged by accuracy, and by F1 where there are two."""

    task = "text_classification"
    flags = TextArguments
    label_names = ("labels",)

    found: tuple[str, ...] = ()  # labels of the data, those of rows that --max_train_samples leaves out included
    ordered = False  # whether that order gives the ids that the data mean
    labels: Labels

    def read(self, file: str | None, split: str) -> list[LabelledText]:
        """Read a file, or a split of a named set."""
        data = self.data_args
        examples, declared = named_examples(data, split) if file is None else (read_labelled(file, data.columns), None)
        if split == "train" or not self.changes_model:
            known = tuple(dict.fromkeys(example.label for example in examples))
            self.found = declared or (label_order(known, file or told(data, split)) if split == "train" else known)
            self.ordered = declared is not None or self.found == tuple(map(str, range(len(self.found))))
        return examples

    def load_student(self, folder: Path, teacher: Path | None) -> PreTrainedModel:
        """Load the model to train, with the head that the data's labels need."""
        base = labels_of(folder)
        head = None
        if self.changes_model:
            taught = None if teacher is None else self._teachers_labels(teacher)
            self.labels, head = labels_for(self.found, base, taught, ordered=self.ordered)
            what = "a new head" if head.fresh else "the head of the base"
            log.info("labels: %s (%s)", ", ".join(self.labels.names), what)
        elif base is None:
            raise TrainingError(f"the model in {folder} is no classifier yet; train one with --do_train")
        else:
            ids = ids_on(base, self.found, ordered=self.ordered)
            self.labels = Labels(base, ids or {name: index for index, name in enumerate(base)})
        return load_model(folder, architecture=AutoModelForSequenceClassification, head=head)

    @staticmethod
    def _teachers_labels(folder: Path) -> tuple[str, ...]:
        names = labels_of(folder)
        if names is None:
            raise TrainingError(f"the teacher in {folder} is no classifier; name one that is trained")
        return names

    def load_teacher(self, folder: Path) -> PreTrainedModel:
        """Load the model that teaches."""
        return load_model(folder, architecture=AutoModelForSequenceClassification)

    def make_features(self, examples: Sequence[LabelledText], *, labels: bool) -> list[Feature]:  # noqa: ARG002 - labels are judged too
        """Return a row of tokens and the label's id for each example."""
        ids = self.labels.ids
        wrong = next((example for example in examples if example.label not in ids), None)
        if wrong is not None:
            raise TrainingError(
                f"{wrong.place}: the label {wrong.label!r} is none of the model's: {', '.join(ids)}; "
                "leave such rows out, or train on data that have it"
            )
        try:
            rows = text_rows(self.plain, [e.texts for e in examples], max_length=self.data_args.max_seq_length)
        except ValueError as error:
            raise TrainingError(f"--max_seq_length: {error}") from error
        pairs = zip(examples, rows, strict=True)
        return [Feature(number, row, {"labels": ids[e.label]}) for number, (e, row) in enumerate(pairs)]

    def judge(self, outputs: Mapping[str, Sequence[Tensor]]) -> tuple[dict[str, float], dict[str, Any]]:
        """Return accuracy, and f1 for two labels; eval_predictions.json, a row an example."""
        chances = torch.stack(list(outputs["logits"])).softmax(-1)
        best = chances.argmax(-1).tolist()
        right = [feature.labels["labels"] for feature in self.eval_set.features]
        names = self.labels.names
        rows = [
            {"label": names[mine], "probability": float(chance[mine]), "expected": names[wanted]}
            for mine, wanted, chance in zip(best, right, chances, strict=True)
        ]
        metrics = {"accuracy": sum(a == b for a, b in zip(best, right, strict=True)) / len(right)}
        if len(names) == 2:
            metrics["f1"] = f1_of(best, right)
        return metrics, {"eval_predictions.json": rows}

    def texts(self, example: LabelledText) -> tuple[str, ...]:
        """Return the text, or the pair."""
        return example.texts


def f1_of(given: Sequence[int], right: Sequence[int]) -> float:
    """Return the F1 score of label 1 among 0 and 1, in [0, 1]: the harmonic mean of its precision and recall."""
    both = sum(a == b == 1 for a, b in zip(given, right, strict=True))
    either = sum(given) + sum(right)
    return 2 * both / either if either else 0.0


def told(data: TextArguments, split: str) -> str:
    """Return how messages name a split of a named set."""
    name, configuration = data.named_set or ("", None)
    return " ".join(filter(None, ("--dataset_name", name, configuration))) + f", split {split}"


def named_examples(data: TextArguments, split: str) -> tuple[list[LabelledText], tuple[str, ...] | None]:
    """Read a split with the `datasets` package; return its texts, and the labels that the set declares, by id.

    Raises TrainingError where the package isn't installed, the set can't be loaded, or has another form.
    """
    name, configuration = data.named_set or ("", None)
    if configuration == "mnli" and split == "validation":
        split = "validation_matched"
    rows = load_split(name, configuration, split)
    features = getattr(rows, "features", None) or {}
    names = getattr(features.get(data.label_column_name), "names", None)
    place = told(data, split)

    def named() -> Iterator[tuple[str, Mapping[str, Any]]]:
        for number, row in enumerate(rows, 1):
            yield f"{place}: row {number}", _with_name(row, data.label_column_name, names, f"{place}: row {number}")

    found = labelled(named(), data.columns)
    if not found:
        raise TrainingError(f"{place}: holds no rows")
    return found, None if names is None else tuple(names)


def _with_name(row: Mapping[str, Any], column: str, names: Sequence[str] | None, place: str) -> Mapping[str, Any]:
    """Return the row with its label's name for its number."""
    if names is None or column not in row:
        return row
    number = row[column]
    if not isinstance(number, int) or not 0 <= number < len(names):
        raise TrainingError(f"{place}: has no label ({number}); sets without labels can't be used")
    return {**row, column: names[number]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
