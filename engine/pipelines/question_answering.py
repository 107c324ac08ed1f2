"""Extractive question answering: the span of a context that answers a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pydantic import AliasChoices, Field

from engine.errors import ModelError, PipelineError
from engine.pipelines.pipeline import Outputs, Pipeline, Schema, SequenceLength, Text
from zoo.answers import (
    DOC_STRIDE,
    MAX_ANSWER_LENGTH,
    MAX_LENGTH,
    MAX_QUESTION_LENGTH,
    N_BEST,
    Window,
    best_answers,
    make_windows,
)


class QuestionAnsweringRequest(Schema):
    """A question on a context. `id` is accepted, as the originals did, and changes nothing."""

    question: Text = Field(examples=["Who wrote Faust?"])
    context: Text = Field(examples=["Faust is a tragic play by Johann Wolfgang von Goethe."])
    id: str | None = None


class QuestionAnsweringOptions(Schema):
    """Lengths are in tokens. Defaults are those of training; the originals served with 128, 64, 64, 15, 20.

    `num_spans`: most windows of one context; what lies behind is not read. `pad_to_max_length` is accepted
    and changes nothing: padding never changes an answer.
    """

    max_seq_length: SequenceLength = Field(default=None, ge=8)
    doc_stride: int = Field(default=DOC_STRIDE, ge=0)
    max_question_length: int = Field(default=MAX_QUESTION_LENGTH, ge=1)
    max_answer_length: int = Field(default=MAX_ANSWER_LENGTH, ge=1)
    n_best_size: int = Field(default=N_BEST, ge=1, validation_alias=AliasChoices("n_best_size", "n_best"))
    version_2_with_negative: bool = False
    null_score_diff_threshold: float = 0.0
    num_spans: int | None = Field(default=None, ge=1)
    pad_to_max_length: bool = True


class QuestionAnsweringResult(Schema):
    """The best span: `answer == context[start:end]` in characters, its probability and raw logit sum."""

    score: float = Field(ge=0, le=1)
    answer: str
    start: int
    end: int
    logit: float


class QuestionAnsweringPipeline(Pipeline[QuestionAnsweringRequest, QuestionAnsweringOptions, QuestionAnsweringResult]):
    """`pipeline(question=, context=)` -> score, answer, start, end, logit."""

    task = "question_answering"
    aliases = ("qa",)
    form_fields = ("question", "context")
    request_type = QuestionAnsweringRequest
    options_type = QuestionAnsweringOptions
    result_type = QuestionAnsweringResult

    def prepare(self) -> None:
        """Size the token rows by the options and the model."""
        self._window = {
            "max_length": self.longest(self.options.max_seq_length, MAX_LENGTH),
            "doc_stride": self.options.doc_stride,
            "max_question_length": self.options.max_question_length,
        }
        try:
            make_windows(self.tokenizer, "", "", **self._window)
        except ValueError as error:
            raise PipelineError(f"options of {self.task}: {error}") from None

    def choose_outputs(self, names: Sequence[str]) -> tuple[str, ...]:
        """Take start_logits and end_logits by name, or the only two outputs in their order."""
        if {"start_logits", "end_logits"} <= set(names):
            return "start_logits", "end_logits"
        if len(names) == 2:
            return tuple(names)
        raise PipelineError(f"the model's outputs are {list(names)}; {self.task} needs start_logits and end_logits")

    def encode(self, request: QuestionAnsweringRequest, /) -> list[Window]:
        """Cover the context with windows, at most `num_spans`."""
        windows = make_windows(self.tokenizer, request.question, request.context, **self._window)
        return windows[: self.options.num_spans]

    def decode(
        self, request: QuestionAnsweringRequest, rows: Sequence[Any], outputs: Sequence[Outputs], /
    ) -> QuestionAnsweringResult:
        """Choose the best span of all windows."""
        try:
            best, *_ = best_answers(
                rows,
                [start for start, _ in outputs],
                [end for _, end in outputs],
                request.context,
                n_best=self.options.n_best_size,
                max_answer_length=self.options.max_answer_length,
                version_2_with_negative=self.options.version_2_with_negative,
                null_score_diff_threshold=self.options.null_score_diff_threshold,
            )
        except ValueError as error:
            raise ModelError(f"{self.folder.model} doesn't answer questions: {error}") from error
        fields = asdict(best)
        return QuestionAnsweringResult(answer=fields.pop("text"), **fields)
