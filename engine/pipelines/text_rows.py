"""Texts, or pairs of texts, as one truncated token row each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from engine.errors import PipelineError

DEFAULT_LENGTH = 128


@dataclass(frozen=True, eq=False, slots=True)
class TextRow:
    """One text of n tokens, special ones included: int64 [n] each."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    type_ids: NDArray[np.int64]


class TextEncoder:
    """Encodes texts up to `length` tokens. It owns its tokenizer, so that no caller changes the truncation."""

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        special = tokenizer.num_special_tokens_to_add(True)
        if length < special + 2:
            raise PipelineError(f"sequence length {length} is too short; this tokenizer needs at least {special + 2}")
        self._tokenizer = tokenizer
        self._tokenizer.enable_truncation(length)

    def __call__(self, texts: Sequence[str | tuple[str, str]]) -> list[TextRow]:
        """Encode each text, or pair; of a pair, the longer part is cut first."""
        return [
            TextRow(*(np.array(values, np.int64) for values in (found.ids, found.attention_mask, found.type_ids)))
            for found in self._tokenizer.encode_batch(list(texts))
        ]
