"""`zoo train question-answering`: fine-tune, prune, quantize and distil on SQuAD-like data, then export."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from zoo.answers import (
    Answer,
    Example,
    Window,
    best_answers,
    label_positions,
    make_windows,
    plain_tokenizer,
    read_squad,
    squad_metrics,
)
from zoo.errors import TrainingError
from zoo.train.arguments import DataArguments, flag
from zoo.train.features import Feature
from zoo.train.hub_sets import load_split
from zoo.train.models import load_model
from zoo.train.run import Run, train


def main(argv: Sequence[str]) -> int:
    """Run the command line; return its exit code. The report goes to stdout, all else to stderr."""
    return train(QuestionAnswering, argv)


@dataclass
class QuestionArguments(DataArguments):
    """Which questions, and how they are cut into windows."""

    command: ClassVar[str] = "question-answering"
    metrics: ClassVar[tuple[str, ...]] = ("f1", "exact_match")

    dataset_name: str | None = flag(None, "squad or another question-answering set of the datasets package")
    train_file: str | None = flag(None, "SQuAD JSON, nested or flat")
    validation_file: str | None = flag(None, "SQuAD JSON, nested or flat")
    test_file: str | None = flag(None, "SQuAD JSON for --do_predict")
    max_seq_length: int = flag(384, "tokens of a window, question and context together")
    doc_stride: int = flag(128, "tokens that neighbouring windows share")
    version_2_with_negative: bool = flag(False, "questions may have no answer, as in SQuAD 2")
    null_score_diff_threshold: float = flag(0.0, "how much no answer must win by")
    n_best_size: int = flag(20, "answers kept for each question in eval_nbest_predictions.json")
    max_answer_length: int = flag(30, "longest answer, in tokens")


class QuestionAnswering(Run[QuestionArguments, Example]):
    """Answers are spans of a context; judged by exact match and F1."""

    task = "question_answering"
    flags = QuestionArguments
    label_names = ("start_positions", "end_positions")

    def read(self, file: str | None, split: str) -> list[Example]:
        """Read SQuAD JSON, or a split of a named set."""
        return read_squad(Path(file)) if file is not None else hub_examples(self.data_args, split)

    def load_student(self, folder: Path, teacher: Path | None) -> PreTrainedModel:  # noqa: ARG002 - any teacher will do
        """Load the model to train."""
        return load_model(folder)

    def load_teacher(self, folder: Path) -> PreTrainedModel:
        """Load the model that teaches."""
        return load_model(folder)

    def make_features(self, examples: Sequence[Example], *, labels: bool) -> list[Feature]:
        """Cut every question into windows; with `labels`, mark its first answer in each."""
        if labels and not self.data_args.version_2_with_negative:
            unanswered = next((e.id for e in examples if not e.answers), None)
            if unanswered is not None:
                raise TrainingError(
                    f"question {unanswered!r} has no answer; give --version_2_with_negative to train on such"
                )
        return window_features(
            self.plain,
            examples,
            max_length=self.data_args.max_seq_length,
            doc_stride=self.data_args.doc_stride,
            labels=labels,
        )

    def judge(self, outputs: Mapping[str, Sequence[Tensor]]) -> tuple[dict[str, float], dict[str, Any]]:
        """Return exact_match and f1; eval_predictions.json and eval_nbest_predictions.json."""
        examples = self.eval_set.examples
        best = self.answers(outputs)
        predictions = {example.id: found[0].text for example, found in zip(examples, best, strict=True)}
        references = {example.id: [text for text, _ in example.answers] for example in examples}
        several = {example.id: [_plain(a) for a in found] for example, found in zip(examples, best, strict=True)}
        files = {"eval_predictions.json": predictions, "eval_nbest_predictions.json": several}
        return squad_metrics(predictions, references), files

    def answers(self, outputs: Mapping[str, Sequence[Tensor]]) -> list[list[Answer]]:
        """Return the best answers of every validation question."""
        data, windows = self.data_args, self.eval_set.features
        places: list[list[int]] = [[] for _ in self.eval_set.examples]
        for index, feature in enumerate(windows):
            places[feature.example].append(index)
        return [
            best_answers(
                [cast("Window", windows[i].tokens) for i in mine],
                [outputs["start_logits"][i].numpy() for i in mine],
                [outputs["end_logits"][i].numpy() for i in mine],
                example.context,
                n_best=data.n_best_size,
                max_answer_length=data.max_answer_length,
                version_2_with_negative=data.version_2_with_negative,
                null_score_diff_threshold=data.null_score_diff_threshold,
            )
            for example, mine in zip(self.eval_set.examples, places, strict=True)
        ]

    def texts(self, example: Example) -> tuple[str, ...]:
        """Return question and context."""
        return example.question, example.context


def window_features(
    tokenizer: Tokenizer, examples: Sequence[Example], *, max_length: int, doc_stride: int, labels: bool
) -> list[Feature]:
    """Return the windows of every question; with `labels`, its first answer in each, (0, 0) where it isn't there.

    Raises TrainingError naming the example when it can't be tokenized.
    """
    plain = plain_tokenizer(tokenizer)
    features = []
    for number, example in enumerate(examples):
        try:
            windows = make_windows(
                plain, example.question, example.context, max_length=max_length, doc_stride=doc_stride
            )
        except ValueError as error:
            raise TrainingError(f"example {number} (id {example.id!r}) can't be cut into windows: {error}") from error
        features += [Feature(number, window, _span(window, example, labels)) for window in windows]
    return features


def _span(window: Window, example: Example, labels: bool) -> dict[str, int]:
    start = end = 0
    if labels and example.answers:
        text, place = example.answers[0]
        start, end = label_positions(window, place, place + len(text))
    return {"start_positions": start, "end_positions": end}


def _plain(answer: Answer) -> dict[str, Any]:
    return {"text": answer.text, "start": answer.start, "end": answer.end, "probability": answer.score}


def hub_examples(data: DataArguments, split: str) -> list[Example]:
    """Read a split with the `datasets` package. Raises TrainingError where that isn't installed or fails."""
    rows = load_split(str(data.dataset_name), data.dataset_config_name, split)
    try:
        return [_example(row) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"--dataset_name {data.dataset_name}, split {split}, isn't in the form of SQuAD ({error!r}): each row must "
            "have id, question, context and answers, which hold lists text and answer_start of one length"
        ) from error


def _example(row: Mapping[str, Any]) -> Example:
    answers = tuple(zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True))
    return Example(row["id"], row["question"], row["context"], answers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
