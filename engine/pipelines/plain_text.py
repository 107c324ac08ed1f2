"""Results as a terminal shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import singledispatch
from typing import cast

from engine.pipelines.embedding import EmbeddingResult
from engine.pipelines.pipeline import Schema
from engine.pipelines.question_answering import QuestionAnsweringResult
from engine.pipelines.text_classification import TextClassificationResult
from engine.pipelines.token_classification import Entity, TokenClassificationResult
from engine.pipelines.zero_shot_text_classification import ZeroShotResult


@singledispatch
def plain_text(result: Schema) -> str:
    """Return a pipeline's result as lines of text."""
    return result.model_dump_json(indent=1)


@plain_text.register
def _(result: QuestionAnsweringResult) -> str:
    return f"{result.answer}   (score {result.score:.3f}, characters {result.start}-{result.end})"


@plain_text.register
def _(result: TextClassificationResult) -> str:
    return "\n\n".join(map(_ranked, result.labels, result.scores))


@plain_text.register
def _(result: ZeroShotResult) -> str:
    if isinstance(result.sequences, str):
        return _ranked(cast("list[str]", result.labels), cast("list[float]", result.scores))
    return "\n\n".join(map(_ranked, cast("list[list[str]]", result.labels), cast("list[list[float]]", result.scores)))


@plain_text.register
def _(result: TokenClassificationResult) -> str:
    return "\n\n".join(map(_entities, result.predictions))


@plain_text.register
def _(result: EmbeddingResult) -> str:
    return "\n".join(" ".join(f"{value:.6g}" for value in vector) for vector in result.embeddings)


def _ranked(labels: Sequence[str], scores: Sequence[float]) -> str:
    return _columns((label, f"{score:.3f}") for label, score in zip(labels, scores, strict=True))


def _entities(entities: Sequence[Entity]) -> str:
    rows = ((row.entity, f"{row.score:.3f}", f"{row.start}-{row.end}", row.word) for row in entities)
    return _columns(rows) or "nothing found"


def _columns(rows: Iterable[Sequence[str]]) -> str:
    """Set cells below each other, the last one as long as it is."""
    kept = list(rows)
    widths = [max(map(len, column)) for column in zip(*kept, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in kept)
    return "\n".join(line.rstrip() for line in lines)
