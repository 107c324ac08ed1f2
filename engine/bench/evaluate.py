"""F1 of a served model: the pipeline's own answers, compared as SQuAD compares them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.errors import PipelineError
from engine.pipelines import Pipeline
from zoo.answers import Example, squad_metrics

_AT_ONCE = 32


def evaluate_squad(
    pipeline: Pipeline[Any, Any, Any],
    examples: Sequence[Example],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Answer every example and return {"exact_match", "f1"} in percent.

    Examples of like length run together, so that little is padded. `progress` gets the number of examples
    answered and their total. Read examples with `zoo.answers.read_squad`.

    Raises PipelineError when the pipeline doesn't answer questions or there are no examples.
    """
    if pipeline.task != "question_answering" or not examples:
        raise PipelineError(f"SQuAD needs questions ({len(examples)}) and question_answering, not {pipeline.task}")
    ordered = sorted(examples, key=lambda example: len(example.question) + len(example.context))
    predictions = {}
    for start in range(0, len(ordered), _AT_ONCE):
        batch = ordered[start : start + _AT_ONCE]
        results = pipeline([{"question": example.question, "context": example.context} for example in batch])
        predictions.update({example.id: result.answer for example, result in zip(batch, results, strict=True)})
        if progress is not None:
            progress(len(predictions), len(examples))
    return squad_metrics(predictions, {e.id: [text for text, _ in e.answers] for e in examples})


def compare_argmax(one: Pipeline[Any, Any, Any], other: Pipeline[Any, Any, Any], examples: Sequence[Example]) -> float:
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
