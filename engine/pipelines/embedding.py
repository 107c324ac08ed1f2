"""Embeddings: one vector for a text, pooled from the encoder's token vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from engine.errors import ModelError, PipelineError
from engine.pipelines.pipeline import Outputs, Pipeline, Schema, SequenceLength, Text
from engine.pipelines.text_rows import DEFAULT_LENGTH, TextEncoder, TextRow


class EmbeddingRequest(Schema):
    """`inputs`: a text or a list of texts."""

    inputs: Text | list[Text] = Field(examples=["sparse models"])


class EmbeddingOptions(Schema):
    """`extraction_strategy`: how token vectors become one; `normalize` scales it to length 1."""

    max_seq_length: SequenceLength = None
    extraction_strategy: Literal["reduce_mean", "reduce_max", "cls_token"] = "reduce_mean"
    normalize: bool = False


class EmbeddingResult(Schema):
    """Row i is the vector of text i."""

    embeddings: list[list[float]]


class EmbeddingPipeline(Pipeline[EmbeddingRequest, EmbeddingOptions, EmbeddingResult]):
    """`pipeline(inputs=)` -> embeddings."""

    task = "embedding"
    aliases = ("transformers_embedding_extraction",)
    form_fields = ("inputs",)
    request_type = EmbeddingRequest
    options_type = EmbeddingOptions
    result_type = EmbeddingResult

    def prepare(self) -> None:
        """Size the token rows by the options and the model."""
        self._encoder = TextEncoder(self.tokenizer, self.longest(self.options.max_seq_length, DEFAULT_LENGTH))

    def choose_outputs(self, names: Sequence[str]) -> tuple[str, ...]:
        """Take the output `last_hidden_state`, or the only one."""
        if "last_hidden_state" in names or len(names) == 1:
            return ("last_hidden_state",) if "last_hidden_state" in names else tuple(names)
        raise PipelineError(f"the model's outputs are {list(names)}; {self.task} needs last_hidden_state")

    def encode(self, request: EmbeddingRequest, /) -> list[TextRow]:
        """Make one row for each text."""
        return self._encoder([request.inputs] if isinstance(request.inputs, str) else request.inputs)

    def decode(self, _request: EmbeddingRequest, rows: Sequence[Any], outputs: Sequence[Outputs], /) -> EmbeddingResult:
        """Pool each text's token vectors, padding left out."""
        vectors = [self._pool(hidden[: len(row.input_ids)]) for row, (hidden,) in zip(rows, outputs, strict=True)]
        return EmbeddingResult(embeddings=[vector.tolist() for vector in vectors])

    def _pool(self, hidden: NDArray[np.float32]) -> NDArray[np.float64]:
        """Pool float32 [tokens, channels] into [channels]."""
        if hidden.ndim != 2 or not np.isfinite(hidden).all():
            raise ModelError(f"{self.folder.model} gives no finite vector for each token, but {hidden.shape}")
        wide: NDArray[np.float64] = hidden.astype(np.float64)
        strategy = self.options.extraction_strategy
        vector: NDArray[np.float64] = (
            wide[0] if strategy == "cls_token" else wide.max(0) if strategy == "reduce_max" else wide.mean(0)
        )
        length = float(np.linalg.norm(vector)) if self.options.normalize else 0.0
        return vector / length if length > 0 else vector
