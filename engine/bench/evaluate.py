"""How right a served model is: what its pipeline says of a file of examples, measured as training measures it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import PipelineError
from engine.pipelines import Pipeline
from engine.pipelines.tasks import find_task
from zoo.answers import Example, squad_metrics
from zoo.entities import OUTSIDE, entity_scores
from zoo.labelled import LabelledText, read_labelled
from zoo.scores import label_scores
from zoo.squad import read_squad
from zoo.tagged import TaggedWords, read_tagged

_AT_ONCE = 32

Progress = Callable[[int, int], None]
AnyPipeline = Pipeline[Any, Any, Any]


@dataclass(frozen=True)
class Evaluation:
    """How the models of a task are measured: what a file holds, and the pipeline's options besides those of users.

    `measure` takes a pipeline, examples and who is told how far it is; it returns scores by name.
    """

    task: str
    unit: str
    read: Callable[[Path], Sequence[Any]]
    measure: Callable[[AnyPipeline, Sequence[Any], Progress | None], dict[str, float]]
    options: Mapping[str, Any] = field(default_factory=dict)
    percent: bool = False  # scores are of 100, else of 1


def evaluation_of(task: str) -> Evaluation:
    """Return how a task is measured. Raises PipelineError for a task without measures, and for an unknown one."""
    name = find_task(task).task
    found = next((one for one in EVALUATIONS if one.task == name), None)
    if found is None:
        raise PipelineError(f"{name} can't be measured; {', '.join(one.task for one in EVALUATIONS)} can")
    return found


def evaluate_squad(
    pipeline: AnyPipeline, examples: Sequence[Example], progress: Progress | None = None
) -> dict[str, float]:
    """Answer every example and return {"exact_match", "f1"} in percent.

    `progress` gets the number of examples answered and their total. Read examples with `zoo.squad.read_squad`.
    Raises PipelineError when the pipeline doesn't answer questions or there are no examples.
    """
    _check(pipeline, "question_answering", examples)

    def ask(batch: Sequence[Example]) -> list[str]:
        results = pipeline([{"question": example.question, "context": example.context} for example in batch])
        return [result.answer for result in results]

    answers = _by_length(examples, lambda e: len(e.question) + len(e.context), ask, progress)
    predictions = {example.id: answer for example, answer in zip(examples, answers, strict=True)}
    return squad_metrics(predictions, {e.id: [text for text, _ in e.answers] for e in examples})


def evaluate_labels(
    pipeline: AnyPipeline, examples: Sequence[LabelledText], progress: Progress | None = None
) -> dict[str, float]:
    """Classify every text and return {"accuracy"}, in [0, 1], and "f1" of label 1 where there are two.

    Labels of the file are the model's names, in any case, or their numbers. Raises PipelineError when the pipeline
    doesn't classify, there are no examples, or one has a label that the model doesn't know.
    """
    _check(pipeline, "text_classification", examples)
    names = pipeline.folder.labels()
    numbers = {name.casefold(): number for number, name in names.items()}
    right = [_number_of(example, names, numbers) for example in examples]

    def ask(batch: Sequence[LabelledText]) -> list[int]:
        texts = [example.texts if len(example.texts) > 1 else example.texts[0] for example in batch]
        best = [labels[0] for labels in pipeline(sequences=texts).labels]
        return [numbers[label.casefold()] if names else int(label.removeprefix("LABEL_")) for label in best]

    given = _by_length(examples, lambda e: sum(map(len, e.texts)), ask, progress)
    return label_scores(given, right, len(names))


def evaluate_tags(
    pipeline: AnyPipeline, sentences: Sequence[TaggedWords], progress: Progress | None = None
) -> dict[str, float]:
    """Tag every word and return {"accuracy"} of words, and "precision", "recall" and "f1" of entities, in [0, 1].

    The pipeline gives each token a result and leaves none out. Raises PipelineError when it doesn't classify tokens, or
    there are no sentences.
    """
    _check(pipeline, "token_classification", sentences)

    def ask(batch: Sequence[TaggedWords]) -> list[list[str]]:
        found = pipeline(inputs=[list(one.words) for one in batch], is_split_into_words=True).predictions
        return [_tags_of(one.words, predictions) for one, predictions in zip(batch, found, strict=True)]

    given = _by_length(sentences, lambda s: sum(map(len, s.words)), ask, progress)
    right = [sentence.tags for sentence in sentences]
    pairs = [pair for mine, theirs in zip(given, right, strict=True) for pair in zip(mine, theirs, strict=True)]
    return {"accuracy": sum(a == b for a, b in pairs) / len(pairs), **entity_scores(given, right)}


def compare_argmax(one: AnyPipeline, other: AnyPipeline, examples: Sequence[Example]) -> float:
    """Return the share, 0 to 1, of token rows for which both pipelines' start and end logits peak at the same tokens.

    The pipelines run the same model on two engines. Raises PipelineError, EngineError.
    """
    rows = [
        row
        for example in examples
        for row in one.encode(one.request({"question": example.question, "context": example.context}))
    ]
    equal = [
        all(
            np.argmax(a[: len(row.input_ids)]) == np.argmax(b[: len(row.input_ids)])
            for a, b in zip(mine, theirs, strict=True)
        )
        for row, mine, theirs in zip(rows, one.compute(rows), other.compute(rows), strict=True)
    ]
    return float(np.mean(equal))


def _check(pipeline: AnyPipeline, task: str, examples: Sequence[Any]) -> None:
    if pipeline.task != task or not examples:
        raise PipelineError(f"{task} is measured on examples ({len(examples)}) by its pipeline, not {pipeline.task}")


def _by_length(
    examples: Sequence[Any],
    length: Callable[[Any], int],
    ask: Callable[[Sequence[Any]], list[Any]],
    progress: Progress | None,
) -> list[Any]:
    """What `ask` gives for each example. Those of like length run together, so that little is padded."""
    order = sorted(range(len(examples)), key=lambda place: length(examples[place]))
    found: list[Any] = [None] * len(order)
    for start in range(0, len(order), _AT_ONCE):
        places = order[start : start + _AT_ONCE]
        for place, answer in zip(places, ask([examples[place] for place in places]), strict=True):
            found[place] = answer
        if progress is not None:
            progress(start + len(places), len(order))
    return found


def _number_of(example: LabelledText, names: Mapping[int, str], numbers: Mapping[str, int]) -> int:
    number = numbers.get(example.label.casefold())
    if number is None and example.label.isdecimal() and (not names or int(example.label) in names):
        number = int(example.label)
    if number is None:
        known = ", ".join(names.values()) or "numbers, for its config.json names none"
        raise PipelineError(f"{example.place}: the label {example.label!r} is none of the model's: {known}")
    return number


def _tags_of(words: Sequence[str], predictions: Sequence[Any]) -> list[str]:
    """The label of each word, which the token that it begins with has; OUTSIDE where it has no token."""
    tags = [OUTSIDE] * len(words)
    ends = np.array(list(accumulate(len(word) + 1 for word in words)))
    for prediction in predictions:
        tags[int(np.searchsorted(ends, prediction.start, side="right"))] = prediction.entity
    return tags


EVALUATIONS = (
    Evaluation("question_answering", "questions", read_squad, evaluate_squad, percent=True),
    Evaluation("text_classification", "texts", read_labelled, evaluate_labels),
    Evaluation(
        "token_classification",
        "sentences",
        read_tagged,
        evaluate_tags,
        {"aggregation_strategy": "none", "ignore_labels": []},
    ),
)
