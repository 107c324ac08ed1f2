"""What runs share whose models tell labels apart: whose labels they are, and which head gives them."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from transformers import PreTrainedModel

from zoo.errors import TrainingError
from zoo.train.arguments import DataArguments
from zoo.train.hub_sets import told
from zoo.train.labels import Labels, ids_on, labels_for
from zoo.train.models import labels_of, load_model
from zoo.train.run import Run

log = logging.getLogger("zoo.train")

DataT = TypeVar("DataT", bound=DataArguments)
ExampleT = TypeVar("ExampleT")


class ClassifierRun(Run[DataT, ExampleT]):
    """A run for labels. A task says where they stand, and in what order they get their ids."""

    label_names = ("labels",)
    architecture: ClassVar[Any]  # the class in transformers
    ending: ClassVar[str]  # of the names of models that have such a head

    found: tuple[str, ...] = ()  # labels of the data, those of rows that --max_train_samples leaves out included
    ordered = False  # whether that order gives the ids that the data mean
    labels: Labels

    @abstractmethod
    def read_file(self, file: str) -> list[ExampleT]:
        """Read a file. Raises TrainingError."""

    @abstractmethod
    def read_set(self, split: str) -> tuple[list[ExampleT], tuple[str, ...] | None]:
        """Read a split of the named set; return it, and the labels that the set declares. Raises TrainingError."""

    @abstractmethod
    def labels_in(self, example: ExampleT) -> Iterable[str]:
        """Return the example's labels, as the data spell them."""

    @abstractmethod
    def order(self, labels: Collection[str], place: str) -> tuple[str, ...]:
        """Return labels in the order of their ids. Raises TrainingError, naming `place`, for none that can be used."""

    def read(self, file: str | None, split: str) -> list[ExampleT]:
        """Read a file, or a split of a named set."""
        examples, declared = self.read_set(split) if file is None else (self.read_file(file), None)
        if split == "train" or not self.changes_model:
            known = tuple(dict.fromkeys(label for example in examples for label in self.labels_in(example)))
            place = file or told(self.data_args.named_set, split)
            self.found = declared or (self.order(known, place) if split == "train" else known)
            self.ordered = declared is not None or self.found == tuple(map(str, range(len(self.found))))
        return examples

    def load_student(self, folder: Path, teacher: Path | None) -> PreTrainedModel:
        """Load the model to train, with the head that the data's labels need."""
        base = labels_of(folder, self.ending)
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
        return load_model(folder, architecture=self.architecture, head=head)

    def _teachers_labels(self, folder: Path) -> tuple[str, ...]:
        names = labels_of(folder, self.ending)
        if names is None:
            raise TrainingError(f"the teacher in {folder} is no classifier; name one that is trained")
        return names

    def load_teacher(self, folder: Path) -> PreTrainedModel:
        """Load the model that teaches."""
        return load_model(folder, architecture=self.architecture)

    def id_of(self, label: str, place: str) -> int:
        """Return a label's id in the model. Raises TrainingError, naming `place`, where it has none."""
        if label not in self.labels.ids:
            raise TrainingError(
                f"{place}: the label {label!r} is none of the model's: {', '.join(self.labels.ids)}; "
                "leave such rows out, or train on data that have it"
            )
        return self.labels.ids[label]
