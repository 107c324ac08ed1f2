"""`zoo train token-classification`: fine-tune, prune, quantize and distil on sentences of tagged words, then export."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForTokenClassification

from zoo.entities import OUTSIDE, entity_scores
from zoo.errors import TrainingError
from zoo.labelled import label_order
from zoo.tagged import TAGS, WORDS, Columns, TaggedWords, read_tagged, tagged
from zoo.texts import MAX_WORDS_LENGTH, WordRow, word_rows
from zoo.train.arguments import DataArguments, FlagsError, flag
from zoo.train.classifier import ClassifierRun
from zoo.train.distillation import IGNORED
from zoo.train.features import Feature
from zoo.train.hub_sets import load_split, name_of, placed_rows, told
from zoo.train.run import train

log = logging.getLogger("zoo.train")

_FILES = "CoNLL's columns (word first, tag last), or JSON or JSON lines with tokens and ner_tags"


def main(argv: Sequence[str]) -> int:
    """Run the command line; return its exit code. The report goes to stdout, all else to stderr."""
    return train(TokenClassification, argv)


@dataclass
class TokenArguments(DataArguments):
    """Which sentences, and which of their tokens bear a label."""

    command: ClassVar[str] = "token-classification"
    metrics: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "accuracy")

    task_name: str | None = flag(None, "ner, which it is without")
    dataset_name: str | None = flag(None, "conll2003 or another set of tagged words of the datasets package")
    train_file: str | None = flag(None, _FILES)
    validation_file: str | None = flag(None, _FILES)
    test_file: str | None = flag(None, f"{_FILES}, for --do_predict")
    text_column_name: str | None = flag(None, f"column of the words, if not {' or '.join(WORDS)}")
    label_column_name: str | None = flag(None, f"column of the tags, if not {' or '.join(TAGS)}")
    label_all_tokens: bool = flag(False, "label all pieces of a word, those behind the first I- where it is B-")
    max_seq_length: int = flag(MAX_WORDS_LENGTH, "tokens of a sentence; what is longer is cut")

    @property
    def columns(self) -> Columns | None:
        """The columns to read; None where no flag names one."""
        words, tags = self.text_column_name, self.label_column_name
        if words is None and tags is None:
            return None
        return Columns(WORDS if words is None else (words,), TAGS if tags is None else (tags,))

    def check(self) -> None:
        """Raise FlagsError for another task."""
        if self.task_name not in (None, "ner"):
            raise FlagsError(f"--task_name is {self.task_name}; ner is known, --label_column_name names other tags")


class TokenClassification(ClassifierRun[TokenArguments, TaggedWords]):
    """Words get tags; judged by the accuracy of words, and by precision, recall and F1 of entities."""

    task = "token_classification"
    flags = TokenArguments
    architecture = AutoModelForTokenClassification
    ending = "ForTokenClassification"

    def read_file(self, file: str) -> list[TaggedWords]:
        """Read CoNLL's columns or JSON."""
        return read_tagged(file, self.data_args.columns)

    def read_set(self, split: str) -> tuple[list[TaggedWords], tuple[str, ...] | None]:
        """Read a split of the named set, with the tags that it declares."""
        return named_examples(self.data_args, split)

    def labels_in(self, example: TaggedWords) -> tuple[str, ...]:
        """Return the tags."""
        return example.tags

    def order(self, labels: Collection[str], place: str) -> tuple[str, ...]:
        """Return O, then the others by alphabet; numbers by size."""
        return tuple(sorted(label_order(labels, place), key=lambda label: label != OUTSIDE))

    def make_features(self, examples: Sequence[TaggedWords], *, labels: bool) -> list[Feature]:
        """Return a row of tokens for each sentence, and the labels of its words, on their first tokens.

        With `labels`, what is trained on: further tokens of a word have one too if --label_all_tokens says so.
        Sentences without any token of a word are left out.
        """
        ids = [[self.id_of(tag, one.place_of(number)) for number, tag in enumerate(one.tags)] for one in examples]
        try:
            rows = word_rows(self.plain, [one.words for one in examples], max_length=self.data_args.max_seq_length)
        except ValueError as error:
            raise TrainingError(f"--max_seq_length: {error}") from error
        name = "train" if labels else "validation"
        kept = sum(len(row.firsts) for row in rows)
        if kept < (total := sum(map(len, ids))):
            limit = self.data_args.max_seq_length
            log.info("%s: %d of %d words have no token among the first %d", name, total - kept, total, limit)
        if examples and not kept:
            raise TrainingError(f"{name}: no word has a token; give a longer --max_seq_length, or another tokenizer")
        following = self._following if labels and self.data_args.label_all_tokens else None
        return [
            Feature(number, row, {"labels": token_labels(row, np.array(mine, np.int64), following)})
            for number, (row, mine) in enumerate(zip(rows, ids, strict=True))
            if len(row.firsts)
        ]

    @property
    def _following(self) -> NDArray[np.int64]:
        """The label of a word's further tokens for that of its first one: int64 [labels]."""
        names = self.labels.names
        known = {name: index for index, name in enumerate(names)}
        inner = [f"I-{name[2:]}" if name.startswith("B-") else name for name in names]
        return np.array([known.get(name, index) for index, name in enumerate(inner)], np.int64)

    def judge(self, outputs: Mapping[str, Sequence[Tensor]]) -> tuple[dict[str, float], dict[str, Any]]:
        """Return accuracy, precision, recall and f1 of all words that have a token; eval_predictions.json."""
        names = np.array(self.labels.names)
        given, right, documents = [], [], []
        for feature, logits in zip(self.eval_set.features, outputs["logits"], strict=True):
            row: Any = feature.tokens
            example, seen = self.eval_set.examples[feature.example], row.words[row.firsts]
            mine = names[logits.numpy()[row.firsts].argmax(-1)].tolist()
            told_of = dict(zip(seen.tolist(), mine, strict=True))
            all_right = names[[self.labels.ids[tag] for tag in example.tags]].tolist()
            given.append(mine)
            right.append([all_right[word] for word in told_of])
            labels = [told_of.get(word) for word in range(len(example.words))]
            documents.append({"words": list(example.words), "labels": labels, "expected": all_right})
        return self._metrics(given, right), {"eval_predictions.json": documents}

    def _metrics(self, given: list[list[str]], right: list[list[str]]) -> dict[str, float]:
        pairs = [pair for ours, theirs in zip(given, right, strict=True) for pair in zip(ours, theirs, strict=True)]
        accuracy = {"accuracy": sum(a == b for a, b in pairs) / len(pairs)}
        if all(name.removeprefix("LABEL_").isdecimal() for name in self.labels.names):
            log.info("labels are numbers: accuracy alone is told, for entities are told apart by names such as B-PER")
            return accuracy
        return {**entity_scores(given, right), **accuracy}

    def texts(self, example: TaggedWords) -> tuple[str, ...]:
        """Return the sentence."""
        return (" ".join(example.words),)


def token_labels(row: WordRow, ids: NDArray[np.int64], following: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return the label of each token, int64 [n], given that of each word: IGNORED but for the first tokens of words.

    following: int64 [labels], if further tokens have labels too: for each label of a word, theirs.
    """
    labels = np.full(len(row), IGNORED, np.int64)
    if following is not None and len(ids):
        labels = np.where(row.words < 0, IGNORED, following[ids[row.words]])
    labels[row.firsts] = ids[row.words[row.firsts]]
    return labels


def named_examples(data: TokenArguments, split: str) -> tuple[list[TaggedWords], tuple[str, ...] | None]:
    """Read a split with the `datasets` package; return its sentences, and the tags that the set declares, by id.

    Raises TrainingError where the package isn't installed, the set can't be loaded, or has another form.
    """
    name, configuration = data.named_set or ("", None)
    rows = load_split(name, configuration, split)
    features = getattr(rows, "features", None) or {}
    columns, place = data.columns or Columns(), told(data.named_set, split)
    column = next((one for one in columns.tags if one in features), None)
    names = getattr(getattr(features.get(column), "feature", None), "names", None)
    label = None if names is None else partial(_names_of, tuple(names))
    found = tagged(placed_rows(rows, place, column, label), columns)
    if not found:
        raise TrainingError(f"{place}: holds no words")
    return found, None if names is None else tuple(names)


def _names_of(names: Sequence[str], numbers: Any, place: str) -> Any:
    return [name_of(names, number, place) for number in numbers] if isinstance(numbers, list) else numbers


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
