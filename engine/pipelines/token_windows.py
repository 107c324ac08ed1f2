"""Texts of any length as windows of tokens, in which each token is judged once: where most text surrounds it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from engine.errors import PipelineError

_UNKNOWN = ("[UNK]", "<unk>")


@dataclass(frozen=True, eq=False, slots=True)
class Tokens:
    """The n tokens of one text, special ones left out.

    `pieces`: as the vocabulary writes them; unknown ones as the text does. `offsets`: int64 [n, 2], their
    characters in `text`. `words`: int64 [n], the number of the word that a token belongs to. `first_index`: the
    place of token 0 when the whole text is one row, behind the special tokens that come first.
    """

    text: str
    pieces: list[str]
    offsets: NDArray[np.int64]
    words: NDArray[np.int64]
    first_index: int


@dataclass(frozen=True, eq=False, slots=True)
class TokenWindow:
    """One model input of n tokens, special ones included: int64 [n] each.

    `judged`: which places of the row count. Those of a text's windows, one after the other, are its `tokens`.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    type_ids: NDArray[np.int64]
    tokens: Tokens
    judged: slice


class WindowEncoder:
    """Covers texts with windows of at most `length` tokens; neighbours share `stride`, at most half of a window.

    Raises PipelineError when a window of that length has no room for two tokens of a text.
    """

    def __init__(self, tokenizer: Tokenizer, length: int, stride: int) -> None:
        special = tokenizer.num_special_tokens_to_add(False)
        if length < special + 2:
            raise PipelineError(f"sequence length {length} is too short; this tokenizer needs at least {special + 2}")
        self._tokenizer = tokenizer
        self._room = length - special
        self._overlap = min(stride, self._room // 2)

    def __call__(self, texts: Sequence[str | Sequence[str]]) -> list[TokenWindow]:
        """Encode each text, which may be given as its words; those are joined by spaces. None is without a window.

        Raises PipelineError when the tokenizer's template puts special tokens into the text.
        """
        joined = [text if isinstance(text, str) else " ".join(text) for text in texts]
        encodings = self._tokenizer.encode_batch(joined)
        return [
            window
            for given, text, encoding in zip(texts, joined, encodings, strict=True)
            for window in self._windows(text, None if isinstance(given, str) else given, encoding)
        ]

    def _windows(self, text: str, words: Sequence[str] | None, encoding: Encoding) -> Iterator[TokenWindow]:
        places = np.flatnonzero(np.array(encoding.special_tokens_mask) == 0)
        begin, end = (int(places[0]), int(places[-1]) + 1) if len(places) else (len(encoding),) * 2
        if end - begin != len(places):
            raise PipelineError("the tokenizer's template puts special tokens into the text")
        tokens = _tokens(text, words, encoding, begin, end)
        ids, types = np.array(encoding.ids, np.int64), np.array(encoding.type_ids, np.int64)
        for start, stop, judged in _spans(end - begin, self._room, self._overlap):
            row = np.r_[0:begin, begin + start : begin + stop, end : len(ids)]
            place = slice(begin + judged.start - start, begin + judged.stop - start)
            yield TokenWindow(ids[row], np.ones(len(row), np.int64), types[row], tokens, place)


def _spans(count: int, room: int, overlap: int) -> Iterator[tuple[int, int, slice]]:
    """Yield each window's first and last token, and those that it judges: neighbours meet in the middle of what
    they share.
    """
    starts = [*range(0, count - room, room - overlap), max(count - room, 0)]
    middles = [(one + room + other) // 2 for one, other in pairwise(starts)]
    for start, judged in zip(starts, pairwise([0, *middles, count]), strict=True):
        yield start, min(start + room, count), slice(*judged)


def _tokens(text: str, words: Sequence[str] | None, encoding: Encoding, begin: int, end: int) -> Tokens:
    offsets = np.array(encoding.offsets[begin:end], np.int64).reshape(-1, 2)
    pieces = [
        text[start:stop] if piece in _UNKNOWN else piece
        for piece, (start, stop) in zip(encoding.tokens[begin:end], offsets.tolist(), strict=True)
    ]
    numbers = _found_words(text, encoding.word_ids[begin:end], offsets) if words is None else _given(words, offsets)
    return Tokens(text, pieces, offsets, numbers, begin)


def _given(words: Sequence[str], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number tokens by the words, joined by spaces, in which they end; the space before a word belongs to it."""
    starts = np.array([0, *accumulate(len(word) + 1 for word in words)][: len(words)], np.int64)
    return np.searchsorted(starts, offsets[:, 1], side="right") - 1


def _found_words(text: str, ids: Sequence[int | None], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number tokens by the words that the tokenizer cut the text into, and at white space: not all cut there."""
    numbers, number, previous, reached = [], -1, None, 0
    for word, (start, stop) in zip(ids, offsets.tolist(), strict=True):
        if word is None or word != previous or any(map(str.isspace, text[reached : start + 1])):
            number += 1
        numbers.append(number)
        previous, reached = word, stop
    return np.array(numbers, np.int64)
