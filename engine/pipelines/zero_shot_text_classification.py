"""Zero-shot text classification: which of any labels a text is about, asked of a model of entailment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from engine.errors import ModelError, PipelineError
from engine.pipelines.logits import logits_output, softmax
from engine.pipelines.pipeline import Outputs, Pipeline, Schema, SequenceLength, Text, Texts
from engine.pipelines.text_rows import DEFAULT_LENGTH, TextEncoder, TextRow

# The outputs of the originals' models, which name them LABEL_0 to LABEL_2.
_ENTAILMENT, _CONTRADICTION = 0, 2


def _with_place(template: str) -> str:
    if "{}" not in template:
        raise ValueError("needs {} where the label goes")
    return template


Template = Annotated[Text, AfterValidator(_with_place)]


def _parted(labels: str | list[str] | None) -> list[str]:
    if isinstance(labels, str):
        return [label.strip() for label in labels.split(",") if label.strip()]
    return labels or []


class ZeroShotRequest(Schema):
    """`sequences`: a text or a list of texts. `labels`: a list, or one text with commas between them.

    `hypothesis_template` and `multi_class` stand above the pipeline's options.
    """

    sequences: Text | Texts = Field(examples=["Who are you voting for?"])
    labels: Text | Texts | None = Field(default=None, examples=[["politics", "health", "sport"]])
    hypothesis_template: Template | None = None
    multi_class: bool | None = None


class ZeroShotOptions(Schema):
    """`labels`: those of every request, which then gives none. `hypothesis_template`: what a label becomes.

    `multi_class`: each label by itself, against its contradiction, rather than against the others. The two indexes
    are outputs of the model; without them its config.json tells them by name, else they are 0 and 2.
    `max_seq_length`: tokens of a text and a label together, default 128; only the text is cut.
    The originals' `model_config` may hold the four options that they had in it.
    """

    max_seq_length: SequenceLength = None
    model_scheme: Literal["mnli"] = "mnli"
    labels: Text | Texts | None = None
    hypothesis_template: Template = "This text is about {}"
    multi_class: bool = False
    entailment_index: int | None = Field(default=None, ge=0)
    contradiction_index: int | None = Field(default=None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _flattened(cls, options: object) -> object:
        if isinstance(options, dict) and isinstance(options.get("model_config"), dict):
            inner = {key: value for key, value in options.items() if key != "model_config"}
            return {**options["model_config"], **inner}
        return options


class ZeroShotResult(Schema):
    """All labels of a text, likeliest first, and their probabilities; lists of them where `sequences` is a list.

    They add up to 1, but with `multi_class` or a single label.
    """

    sequences: str | list[str]
    labels: list[str] | list[list[str]]
    scores: list[float] | list[list[float]]


class ZeroShotPipeline(Pipeline[ZeroShotRequest, ZeroShotOptions, ZeroShotResult]):
    """`pipeline(sequences=, labels=)` -> sequences, labels, scores."""

    task = "zero_shot_text_classification"
    aliases = ("zero_shot_classification",)
    form_fields = ("sequences", "labels")
    request_type = ZeroShotRequest
    options_type = ZeroShotOptions
    result_type = ZeroShotResult

    def prepare(self) -> None:
        """Size the token rows, and find the two outputs that count."""
        length = self.longest(self.options.max_seq_length, DEFAULT_LENGTH)
        self._encoder = TextEncoder(self.tokenizer, length, cut="only_first")
        self._entailment = self._output("entail", self.options.entailment_index, _ENTAILMENT)
        self._contradiction = self._output("contradict", self.options.contradiction_index, _CONTRADICTION)
        if self._entailment == self._contradiction:
            raise PipelineError(f"entailment_index and contradiction_index are both {self._entailment}")

    def _output(self, name: str, wanted: int | None, default: int) -> int:
        if wanted is not None:
            return wanted
        named = (index for index, label in self.folder.labels().items() if label.lower().startswith(name))
        return next(named, default)

    def choose_outputs(self, names: Sequence[str]) -> tuple[str, ...]:
        """Take the output `logits`, or the only one."""
        return logits_output(names, self.task)

    def count(self, fields: Mapping[str, Any]) -> int:
        """Return the number of pairs of a text and a label, each of which the model is asked about."""
        labels = fields.get("labels") if self.options.labels is None else self.options.labels
        known = labels if isinstance(labels, str | list) else None
        return max(1, len(_parted(known))) * super().count({"sequences": fields.get("sequences")})

    def encode(self, request: ZeroShotRequest, /) -> list[TextRow]:
        """Pair each text with what each label becomes. Raises PipelineError when there are no labels, or two sets."""
        template = request.hypothesis_template or self.options.hypothesis_template
        hypotheses = [template.replace("{}", label) for label in self._labels(request)]
        return self._encoder(list(product(self._texts(request), hypotheses)))

    def decode(self, request: ZeroShotRequest, _rows: Sequence[Any], outputs: Sequence[Outputs], /) -> ZeroShotResult:
        """Rank the labels of each text."""
        labels = self._labels(request)
        pairs = [self._pair(logits) for (logits,) in outputs]
        scores = self._scores(np.array(pairs).reshape(-1, len(labels), 2), request)
        order = np.argsort(-scores, axis=-1, kind="stable")
        ranked = [[labels[index] for index in row] for row in order.tolist()]
        sorted_scores = np.take_along_axis(scores, order, -1).tolist()
        one = isinstance(request.sequences, str)
        return ZeroShotResult(
            sequences=request.sequences,
            labels=ranked[0] if one else ranked,
            scores=sorted_scores[0] if one else sorted_scores,
        )

    def _scores(self, pairs: NDArray[np.float32], request: ZeroShotRequest) -> NDArray[np.float64]:
        """Return probabilities [texts, labels] of logits [texts, labels, (contradiction, entailment)]."""
        multi = self.options.multi_class if request.multi_class is None else request.multi_class
        # Among one label every text would be about it.
        if multi or pairs.shape[1] == 1:
            return softmax(pairs)[..., 1]
        return softmax(pairs[..., 1])

    def _pair(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        wanted = [self._contradiction, self._entailment]
        if logits.ndim != 1 or max(wanted) >= len(logits) or not np.isfinite(logits).all():
            raise ModelError(f"{self.folder.model} gives no logits of entailment, but {logits.shape}")
        return logits[wanted]

    def _texts(self, request: ZeroShotRequest) -> list[str]:
        return [request.sequences] if isinstance(request.sequences, str) else request.sequences

    def _labels(self, request: ZeroShotRequest) -> list[str]:
        if self.options.labels is not None and request.labels is not None:
            raise PipelineError("labels are given by this pipeline's options, so a request may not give others")
        labels = _parted(request.labels if self.options.labels is None else self.options.labels)
        if not labels:
            raise PipelineError("labels is empty; give a list of them, or one text with commas between them")
        return labels
