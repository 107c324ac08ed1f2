"""Probabilities of tokens into entities: a label for each token or word, then groups of what belongs together.

Labels are those of the BIO scheme (Ramshaw and Marcus 1995) and its longer forms, or plain names without a prefix.
The strategies are those of transformers' pipeline.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.pipelines.token_windows import Tokens

Strategy = Literal["none", "simple", "first", "average", "max"]

# B begins an entity, I goes on and E or L ends it; S or U is one alone.
_PREFIXED = re.compile(r"([BIELSU])-(.+)", re.DOTALL)
_BEGINS = frozenset("BSU")


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens [begin, end) of a text under one label, and its probability."""

    begin: int
    end: int
    label: str
    score: float


def label_spans(
    tokens: Tokens, probabilities: NDArray[np.float64], names: Sequence[str], strategy: Strategy
) -> list[Span]:
    """Return the spans of a text in order, whatever their label; `probabilities` are [tokens, labels].

    none: each token by itself. simple: neighbours whose labels name the same kind are one span, and its score is
    the mean of theirs. first, average, max: the same of whole words, whose label is that of their first token,
    of the mean of their tokens' probabilities, or of the token that is surest.
    """
    by_word = strategy not in ("none", "simple")
    starts = _word_starts(tokens) if by_word else list(range(len(tokens.pieces)))
    rows = _word_rows(probabilities, starts, strategy) if by_word else probabilities
    best = rows.argmax(-1)
    scores = rows[np.arange(len(rows)), best].tolist()
    labels = [names[index] for index in best.tolist()]
    bounds = pairwise([*starts, len(tokens.pieces)])
    spans = [Span(*bound, label, score) for bound, label, score in zip(bounds, labels, scores, strict=True)]
    return spans if strategy == "none" else [_joined(group) for group in _groups(spans)]


def first_of_words(tokens: Tokens, spans: Sequence[Span]) -> list[Span]:
    """Return the spans that begin where a word does."""
    starts = set(_word_starts(tokens))
    return [span for span in spans if span.begin in starts]


def _word_starts(tokens: Tokens) -> list[int]:
    starts: list[int] = np.flatnonzero(np.diff(tokens.words, prepend=-1)).tolist()
    return starts


def _word_rows(rows: NDArray[np.float64], starts: list[int], strategy: Strategy) -> NDArray[np.float64]:
    """Return one row of probabilities for each word."""
    if strategy == "first" or not starts:
        return rows[starts]
    if strategy == "average":
        counts = np.diff([*starts, len(rows)])
        means: NDArray[np.float64] = np.add.reduceat(rows, starts) / counts[:, None]
        return means
    surest = rows.max(-1)
    return rows[[start + int(surest[start:end].argmax()) for start, end in pairwise([*starts, len(rows)])]]


def _groups(spans: Sequence[Span]) -> Iterator[list[Span]]:
    group: list[Span] = []
    for span in spans:
        prefix, kind = _parted(span.label)
        if group and (prefix in _BEGINS or kind != _parted(group[-1].label)[1]):
            yield group
            group = []
        group.append(span)
    if group:
        yield group


def _joined(group: Sequence[Span]) -> Span:
    score = float(np.mean([span.score for span in group]))
    return Span(group[0].begin, group[-1].end, _parted(group[0].label)[1], score)


def _parted(label: str) -> tuple[str, str]:
    """Return a label's prefix, empty without one, and what kind of entity it names."""
    found = _PREFIXED.fullmatch(label)
    return (found[1], found[2]) if found else ("", label)
