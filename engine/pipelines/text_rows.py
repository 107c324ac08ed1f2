"""Texts, or pairs of texts, as one truncated token row each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
    """Encodes texts up to `length` tokens. It owns its tokenizer, so that no caller changes the truncation.

    `cut`: which part of a pair is cut, the longer one first or only the first one.
    """

    def __init__(
        self, tokenizer: Tokenizer, length: int, cut: Literal["longest_first", "only_first"] = "longest_first"
    ) -> None:
        special = tokenizer.num_special_tokens_to_add(True)
        if length < special + 2:
            raise PipelineError(f"sequence length {length} is too short; this tokenizer needs at least {special + 2}")
        self._tokenizer, self._length = tokenizer, length
        self._tokenizer.enable_truncation(length, strategy=cut)

    def __call__(self, texts: Sequence[str | tuple[str, str]]) -> list[TextRow]:
        """Encode each text, or pair. Raises PipelineError when the part that isn't cut leaves no room."""
        try:
            encodings = self._tokenizer.encode_batch(list(texts))
        except Exception as error:  # the Rust binding raises bare Exception
            raise PipelineError(f"a pair of texts can't be cut to {self._length} tokens: {error}") from error
        return [
            TextRow(*(np.array(values, np.int64) for values in (found.ids, found.attention_mask, found.type_ids)))
            for found in encodings
        ]
