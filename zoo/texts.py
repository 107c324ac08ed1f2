"""Texts, pairs of texts and words as models see them: one token row each, cut to the model's length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from zoo.answers import plain_tokenizer

MAX_LENGTH = 128
MAX_WORDS_LENGTH = 256

_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, eq=False, slots=True)
class TextRow:
    """One text, or pair, of n tokens, special ones included: int64 [n] each."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    type_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, eq=False, slots=True)
class WordRow(TextRow):
    """One sentence of n tokens. `words`: int64 [n], the number of the word that a token belongs to; -1, special ones.

    A word that was cut away, or that the tokenizer makes nothing of, has no token.
    """

    words: NDArray[np.int64]

    @property
    def firsts(self) -> NDArray[np.int64]:
        """The places of the tokens that begin a word."""
        return np.flatnonzero((self.words >= 0) & (np.diff(self.words, prepend=-1) != 0))


def text_rows(tokenizer: Tokenizer, texts: Sequence[tuple[str, ...]], *, max_length: int = MAX_LENGTH) -> list[TextRow]:
    """Return a row of at most `max_length` tokens for each text or pair of texts; of a pair, the longer is cut first.

    The tokenizer is only read. Raises ValueError when `max_length` has no room for a text.
    """
    whole = [tuple(map(_encodable, parts)) for parts in texts]
    inputs = [parts if len(parts) > 1 else parts[0] for parts in whole]
    return [TextRow(*_arrays(found)) for found in _encode(tokenizer, inputs, max_length, is_pair=True)]


def word_rows(
    tokenizer: Tokenizer, sentences: Sequence[Sequence[str]], *, max_length: int = MAX_WORDS_LENGTH
) -> list[WordRow]:
    """Return a row of at most `max_length` tokens for each sentence, given as its words.

    They are read as the served text is, with a space between them: what marks a space in a vocabulary of byte pairs
    stands where it stood in pretraining. The tokenizer is only read. Raises ValueError when `max_length` has no room
    for a word.
    """
    joined = [_encodable(" ".join(words)) for words in sentences]
    encoded = _encode(tokenizer, joined, max_length, is_pair=False)
    return [
        WordRow(*_arrays(found), _word_numbers(found, words)) for words, found in zip(sentences, encoded, strict=True)
    ]


def _word_numbers(encoding: Encoding, words: Sequence[str]) -> NDArray[np.int64]:
    """Number tokens by the words in which they end; the space before a word belongs to it."""
    starts = np.array([0, *accumulate(len(word) + 1 for word in words)][: len(words)], np.int64)
    ends = np.array([end for _, end in encoding.offsets], np.int64)
    special = np.array(encoding.special_tokens_mask) != 0
    return np.where(special, -1, np.searchsorted(starts, ends, side="right") - 1)


def _encodable(text: str) -> str:
    """Return the text without lone surrogates, which JSON may hold, and UTF-8 can't carry."""
    return _LONE_SURROGATES.sub("\ufffd", text)


def _encode(tokenizer: Tokenizer, inputs: Sequence[Any], max_length: int, *, is_pair: bool) -> list[Encoding]:
    least = tokenizer.num_special_tokens_to_add(is_pair) + 2
    if max_length < least:
        raise ValueError(f"max_length is {max_length}; it must be at least {least} for this tokenizer")
    cutting = plain_tokenizer(tokenizer)
    cutting.enable_truncation(max_length)
    encoded: list[Encoding] = cutting.encode_batch(inputs)
    return encoded


def _arrays(found: Encoding) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    return np.array(found.ids, np.int64), np.array(found.attention_mask, np.int64), np.array(found.type_ids, np.int64)
