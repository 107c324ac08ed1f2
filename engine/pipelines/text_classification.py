"""Text classification: the most likely labels of a text or of a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict

from engine.errors import ModelError
from engine.pipelines.logits import logits_output, softmax
from engine.pipelines.pipeline import Outputs, Pipeline, Schema, SequenceLength, Text
from engine.pipelines.text_rows import DEFAULT_LENGTH, TextEncoder, TextRow

# JSON has no tuples, so a list must do for one.
Pair = Annotated[tuple[Text, Text], Strict(False)]


class TextClassificationRequest(Schema):
    """`sequences`: a text, a list of texts, or a list of [text, second text] pairs."""

    sequences: Text | list[Text] | list[Pair] = Field(examples=["a warm and funny film"])

    def texts(self) -> list[str | tuple[str, str]]:
        """Return the texts as a list."""
        return [self.sequences] if isinstance(self.sequences, str) else list(self.sequences)


class TextClassificationOptions(Schema):
    """`max_seq_length`: tokens of a text that are read, default 128. `top_k`: labels returned for a text."""

    max_seq_length: SequenceLength = None
    top_k: int = Field(default=1, ge=1)


class TextClassificationResult(Schema):
    """Row i belongs to text i: its labels, most likely first, and their probabilities."""

    labels: list[list[str]]
    scores: list[list[float]]


class TextClassificationPipeline(
    Pipeline[TextClassificationRequest, TextClassificationOptions, TextClassificationResult]
):
    """`pipeline(sequences=)` -> labels, scores."""

    task = "text_classification"
    aliases = ("glue", "sentiment_analysis")
    form_fields = ("sequences",)
    request_type = TextClassificationRequest
    options_type = TextClassificationOptions
    result_type = TextClassificationResult

    def prepare(self) -> None:
        """Size the token rows by the options and the model."""
        self._encoder = TextEncoder(self.tokenizer, self.longest(self.options.max_seq_length, DEFAULT_LENGTH))

    def choose_outputs(self, names: Sequence[str]) -> tuple[str, ...]:
        """Take the output `logits`, or the only one."""
        return logits_output(names, self.task)

    def encode(self, request: TextClassificationRequest, /) -> list[TextRow]:
        """Make one row for each text."""
        return self._encoder(request.texts())

    def decode(
        self, _request: TextClassificationRequest, _rows: Sequence[Any], outputs: Sequence[Outputs], /
    ) -> TextClassificationResult:
        """Rank the labels of each text by softmax."""
        ranked = [self._rank(logits) for (logits,) in outputs]
        return TextClassificationResult(
            labels=[labels for labels, _ in ranked], scores=[scores for _, scores in ranked]
        )

    def _rank(self, logits: NDArray[np.float32]) -> tuple[list[str], list[float]]:
        if logits.ndim != 1 or not np.isfinite(logits).all():
            raise ModelError(f"{self.folder.model} gives no logits, one finite number a label, but {logits.shape}")
        probabilities = softmax(logits)
        order = np.argsort(-probabilities, kind="stable")[: self.options.top_k].tolist()
        return [self.folder.label(index) for index in order], probabilities[order].tolist()
