"""Token classification: the named entities of a text, or whatever else a model says of each token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator

from engine.errors import ModelError
from engine.pipelines.entities import Span, Strategy, first_of_words, label_spans
from engine.pipelines.logits import logits_output, softmax
from engine.pipelines.pipeline import Outputs, Pipeline, Schema, SequenceLength, Text, Texts
from engine.pipelines.token_windows import Tokens, TokenWindow, WindowEncoder

LONGEST_WINDOW = 512


def _lowered(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


class TokenClassificationRequest(Schema):
    """`inputs`: a text or a list of texts; with `is_split_into_words`, the words of a text or a list of such lists.

    Words are read as if they stood with a space between them, and offsets count characters of that text.
    """

    inputs: Text | Texts | Annotated[list[Texts], Field(fail_fast=True)] = Field(
        examples=["Ada Lovelace was born in London."]
    )
    is_split_into_words: bool = False

    @model_validator(mode="after")
    def _agreeing(self) -> Self:
        if self.is_split_into_words and isinstance(self.inputs, str):
            raise ValueError("is_split_into_words needs a list of words in inputs, or a list of such lists")
        if not self.is_split_into_words and any(isinstance(text, list) for text in self.inputs):
            raise ValueError("lists of words in inputs need is_split_into_words")
        return self

    def texts(self) -> list[str | list[str]]:
        """Return the texts, each as it is or as its words."""
        if isinstance(self.inputs, str):
            return [self.inputs]
        words = [text for text in self.inputs if isinstance(text, str)]
        return [words] if self.is_split_into_words and len(words) == len(self.inputs) else list(self.inputs)


class TokenClassificationOptions(Schema):
    """`max_seq_length`: tokens that the model sees at once, default 512 or as many as it takes.

    A longer text is covered by windows that share `stride` tokens, at most half of one, and each token is judged in
    the window that shows most text around it; the originals read the first 128 tokens and no more.
    `aggregation_strategy`: none for a result a token; simple, first, average or max for one an entity.
    `ignore_labels`: what is left out; labels as the model names them (B-PER) for none, else without prefix (PER).
    """

    max_seq_length: SequenceLength = None
    stride: int = Field(default=128, ge=0)
    aggregation_strategy: Annotated[Strategy, BeforeValidator(_lowered)] = "none"
    ignore_labels: list[str] = Field(default=["O"])


class Entity(Schema):
    """A token, or with `is_grouped` all that names one entity: its characters are text[start:end].

    White space around it is left out. `word`: the tokens put together, as the vocabulary writes them. `index`: the
    place of a single token in its text's row, special tokens counted; None for a group. `score`: the probability of
    `entity`.
    """

    entity: str
    score: float = Field(ge=0, le=1)
    word: str
    start: int
    end: int
    index: int | None = None
    is_grouped: bool = False


class TokenClassificationResult(Schema):
    """Row i holds the entities of text i in order, those of `ignore_labels` left out."""

    predictions: list[list[Entity]]


class TokenClassificationPipeline(
    Pipeline[TokenClassificationRequest, TokenClassificationOptions, TokenClassificationResult]
):
    """`pipeline(inputs=)` -> predictions.

    A word, for the strategies that judge whole ones, is what the tokenizer's first cut leaves whole, and never holds
    white space; of a text given as words it is one of them. (For tokenizers other than WordPiece, transformers takes
    all between two spaces for a word, punctuation too.) For such a text and strategy none, only the first token
    of each word has a result.
    """

    task = "token_classification"
    aliases = ("ner",)
    form_fields = ("inputs",)
    request_type = TokenClassificationRequest
    options_type = TokenClassificationOptions
    result_type = TokenClassificationResult

    def prepare(self) -> None:
        """Size the windows by the options and the model."""
        length = self.longest(self.options.max_seq_length, LONGEST_WINDOW)
        self._encoder = WindowEncoder(self.tokenizer, length, self.options.stride)

    def choose_outputs(self, names: Sequence[str]) -> tuple[str, ...]:
        """Take the output `logits`, or the only one."""
        return logits_output(names, self.task)

    def count(self, fields: Mapping[str, Any]) -> int:
        """Return the number of texts: a list of words is one."""
        inputs = fields.get("inputs")
        if fields.get("is_split_into_words") is True and isinstance(inputs, list):
            return max(1, sum(isinstance(text, list) for text in inputs))
        return super().count(fields)

    def encode(self, request: TokenClassificationRequest, /) -> list[TokenWindow]:
        """Cover each text with one or more windows."""
        return self._encoder(request.texts())

    def decode(
        self, request: TokenClassificationRequest, rows: Sequence[Any], outputs: Sequence[Outputs], /
    ) -> TokenClassificationResult:
        """Put each text's windows together again, then its tokens into entities."""
        judged = [(row.tokens, self._judged(row, logits)) for row, (logits,) in zip(rows, outputs, strict=True)]
        texts = [list(windows) for _, windows in groupby(judged, key=lambda window: id(window[0]))]
        return TokenClassificationResult(
            predictions=[
                self._entities(windows[0][0], np.concatenate([logits for _, logits in windows]), request)
                for windows in texts
            ]
        )

    def _judged(self, row: TokenWindow, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits [tokens, labels] of the tokens that are judged in this window."""
        if logits.ndim != 2 or len(logits) < len(row.input_ids) or not np.isfinite(logits[row.judged]).all():
            raise ModelError(f"{self.folder.model} gives no finite logits for each token, but {logits.shape}")
        return logits[row.judged]

    def _entities(
        self, tokens: Tokens, logits: NDArray[np.float32], request: TokenClassificationRequest
    ) -> list[Entity]:
        strategy = self.options.aggregation_strategy
        names = [self.folder.label(index) for index in range(logits.shape[-1])]
        spans = label_spans(tokens, softmax(logits), names, strategy)
        if strategy == "none" and request.is_split_into_words:
            spans = first_of_words(tokens, spans)
        return [self._entity(tokens, span) for span in spans if span.label not in self.options.ignore_labels]

    def _entity(self, tokens: Tokens, span: Span) -> Entity:
        start, end = int(tokens.offsets[span.begin, 0]), int(tokens.offsets[span.end - 1, 1])
        grouped = self.options.aggregation_strategy != "none"
        pieces = tokens.pieces[span.begin : span.end]
        return Entity(
            entity=span.label,
            score=span.score,
            word=self._joined(pieces) if grouped else pieces[0],
            start=next((place for place in range(start, end) if not tokens.text[place].isspace()), start),
            end=end,
            index=None if grouped else tokens.first_index + span.begin,
            is_grouped=grouped,
        )

    def _joined(self, pieces: list[str]) -> str:
        decoder = self.tokenizer.decoder
        return (" ".join(pieces) if decoder is None else str(decoder.decode(pieces))).strip()
