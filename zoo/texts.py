"""Texts, or pairs of texts, as a classifier sees them: one token row each, cut to the model's length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from zoo.answers import plain_tokenizer

MAX_LENGTH = 128

_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, eq=False, slots=True)
class TextRow:
    """One text, or pair, of n tokens, special ones included: int64 [n] each."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    type_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.input_ids)


def text_rows(tokenizer: Tokenizer, texts: Sequence[tuple[str, ...]], *, max_length: int = MAX_LENGTH) -> list[TextRow]:
    """Return a row of at most `max_length` tokens for each text or pair of texts; of a pair, the longer is cut first.

    The tokenizer is only read. Raises ValueError when `max_length` has no room for a text.
    """
    special = tokenizer.num_special_tokens_to_add(True)
    if max_length < special + 2:
        raise ValueError(f"max_length is {max_length}; it must be at least {special + 2} for this tokenizer")
    cutting = plain_tokenizer(tokenizer)
    cutting.enable_truncation(max_length)
    # UTF-8 can't carry lone surrogates, which JSON may hold
    whole = [tuple(_LONE_SURROGATES.sub("\ufffd", part) for part in parts) for parts in texts]
    encoded = cutting.encode_batch([parts if len(parts) > 1 else parts[0] for parts in whole])
    return [
        TextRow(*(np.array(values, np.int64) for values in (found.ids, found.attention_mask, found.type_ids)))
        for found in encoded
    ]
