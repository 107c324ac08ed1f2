"""Questions into windows, logits into answers: what training evaluates is what serving answers.

A question and its context are tokenized once; a context longer than the model's sequence is covered by
overlapping windows. The rules are those of the SQuAD evaluation (Rajpurkar et al. 2016) and of BERT's reference
code (Devlin et al. 2018): overlap of `doc_stride` tokens, and a start counts only in the window where its
token has most context around it.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tokenizers import Encoding, Tokenizer

from zoo.squad import Example, read_squad

__all__ = [
    "DOC_STRIDE",
    "MAX_ANSWER_LENGTH",
    "MAX_LENGTH",
    "MAX_QUESTION_LENGTH",
    "N_BEST",
    "Answer",
    "Example",
    "Window",
    "best_answers",
    "label_positions",
    "load_tokenizer",
    "make_windows",
    "plain_tokenizer",
    "read_squad",
    "squad_metrics",
]

MAX_LENGTH = 384
DOC_STRIDE = 128
MAX_QUESTION_LENGTH = 64
MAX_ANSWER_LENGTH = 30
N_BEST = 20

_LONE_SURROGATES = re.compile("[\ud800-\udfff]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, eq=False, slots=True)
class Window:
    """One model input of n tokens, unpadded.

    `input_ids`, `attention_mask`, `type_ids`: int64 [n]. `offsets`: int32 [n, 2], the token's characters in
    the context, (-1, -1) outside of it. `max_context`: bool [n], true where this window, of all that hold
    the token, surrounds it best; every context token is true in exactly one window.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    type_ids: NDArray[np.int64]
    offsets: NDArray[np.int32]
    max_context: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Answer:
    """A span of the context: `text == context[start:end]`, in characters; empty means no answer.

    `score` is its probability among all spans allowed (and no answer, where that is allowed), in [0, 1].
    `logit` is the raw sum of its start and end logits.
    """

    text: str
    start: int
    end: int
    score: float
    logit: float


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The whole encoded pair, and where the context's tokens lie in it: [begin, end)."""

    ids: NDArray[np.int64]
    type_ids: NDArray[np.int64]
    offsets: NDArray[np.int32]
    begin: int
    end: int


def plain_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy that neither truncates nor pads; `make_windows` is fastest with such a one."""
    copy: Tokenizer = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`, without the truncation and padding that it may ask for.

    Raises OSError when the file can't be read and ValueError when it is no tokenizer.
    """
    text = path.read_text(encoding="utf-8")
    try:
        tokenizer: Tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the Rust binding raises bare Exception
        raise ValueError(f"{path} is no tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def make_windows(
    tokenizer: Tokenizer,
    question: str,
    context: str,
    *,
    max_length: int = MAX_LENGTH,
    doc_stride: int = DOC_STRIDE,
    max_question_length: int = MAX_QUESTION_LENGTH,
) -> list[Window]:
    """Cover the context by windows of at most `max_length` tokens, each with the question before it.

    Neighbouring windows share `doc_stride` tokens, at most half of what a window holds. A question is cut
    to `max_question_length` tokens, and to half of a window. There is always at least one window, even for
    empty texts. The tokenizer is only read; one that truncates or pads is copied first, which is slow.

    Raises ValueError when an option is out of range or the tokenizer's template puts the context apart.
    """
    if tokenizer.truncation is not None or tokenizer.padding is not None:
        tokenizer = plain_tokenizer(tokenizer)
    special = tokenizer.num_special_tokens_to_add(True)
    room = max_length - special
    if room < 2:
        raise ValueError(f"max_length is {max_length}; it must be at least {special + 2} for this tokenizer")
    if doc_stride < 0 or max_question_length < 1:
        raise ValueError("doc_stride must be 0 or more, and max_question_length 1 or more")
    encoding = tokenizer.encode(_encodable(question), _encodable(context))
    tokens = _cut_question(encoding, min(max_question_length, room // 2))
    usable = max_length - (len(tokens.ids) - (tokens.end - tokens.begin))
    return _slide(tokens, usable, min(doc_stride, usable // 2))


def _encodable(text: str) -> str:
    """Replace lone surrogates, which UTF-8 can't carry, one character by one: offsets stay true."""
    return _LONE_SURROGATES.sub("\ufffd", text)


def _cut_question(encoding: Encoding, limit: int) -> _Tokens:
    sequence = np.array([-1 if s is None else s for s in encoding.sequence_ids], np.int8)
    question = np.flatnonzero(sequence == 0)
    keep = np.ones(len(sequence), np.bool_)
    keep[question[limit:]] = False
    in_context = sequence[keep] == 1
    positions = np.flatnonzero(in_context)
    begin, end = (int(positions[0]), int(positions[-1]) + 1) if len(positions) else (len(in_context),) * 2
    if end - begin != len(positions):
        raise ValueError("the tokenizer's template splits the context; a pair template must keep it whole")
    offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)[keep]
    offsets[~in_context] = -1
    ids = np.array(encoding.ids, np.int64)[keep]
    return _Tokens(ids, np.array(encoding.type_ids, np.int64)[keep], offsets, begin, end)


def _slide(tokens: _Tokens, usable: int, overlap: int) -> list[Window]:
    count = tokens.end - tokens.begin
    last = max(count - usable, 0)
    step = usable - overlap
    starts = range(0, last + step, step) if last else range(1)
    spans = [(start, min(start + usable, count)) for start in starts]
    owner = _best_window(spans, count)
    return [_window(tokens, span, owner[span[0] : span[1]] == index) for index, span in enumerate(spans)]


def _best_window(spans: Sequence[tuple[int, int]], count: int) -> NDArray[np.intp]:
    """Return for each context token the window where the shorter of its two sides is longest; ties: first.

    A hundredth of the window's length breaks ties between unequal windows, as in BERT's reference code.
    """
    best = np.full(count, -1.0)
    owner = np.zeros(count, np.intp)
    for index, (start, end) in enumerate(spans):
        place = np.arange(end - start)
        score = np.minimum(place, place[::-1]) + 0.01 * (end - start)
        better = score > best[start:end]
        best[start:end][better] = score[better]
        owner[start:end][better] = index
    return owner


def _window(tokens: _Tokens, span: tuple[int, int], owned: NDArray[np.bool_]) -> Window:
    begin, end = tokens.begin, tokens.end
    kept = np.r_[0:begin, begin + span[0] : begin + span[1], end : len(tokens.ids)]
    max_context = np.zeros(len(kept), np.bool_)
    max_context[begin : begin + len(owned)] = owned
    return Window(
        input_ids=tokens.ids[kept],
        attention_mask=np.ones(len(kept), np.int64),
        type_ids=tokens.type_ids[kept],
        offsets=tokens.offsets[kept],
        max_context=max_context,
    )


def label_positions(window: Window, start: int, end: int) -> tuple[int, int]:
    """Return the first and last token of the answer context[start:end]; (0, 0), the first token of the
    window, when the window doesn't hold all of it.
    """
    held = window.offsets[window.offsets[:, 0] >= 0]
    if not len(held) or held[0, 0] > start or held[-1, 1] < end:
        return 0, 0
    answer = np.flatnonzero((window.offsets[:, 0] < end) & (window.offsets[:, 1] > start))
    return (int(answer[0]), int(answer[-1])) if len(answer) else (0, 0)


@dataclass(frozen=True, slots=True)
class _Spans:
    """Candidate spans of one window: characters int32 [k, 2] and logits float64 [k]; and the sum of
    exp(logit) over all allowed spans of the window, as its logarithm.
    """

    characters: NDArray[np.int32]
    logits: NDArray[np.float64]
    log_total: float


def best_answers(
    windows: Sequence[Window],
    start_logits: Sequence[ArrayLike] | NDArray[np.floating],
    end_logits: Sequence[ArrayLike] | NDArray[np.floating],
    context: str,
    *,
    n_best: int = N_BEST,
    max_answer_length: int = MAX_ANSWER_LENGTH,
    version_2_with_negative: bool = False,
    null_score_diff_threshold: float = 0.0,
) -> list[Answer]:
    """Return the best spans of the context, best first, at most `n_best` and never none.

    Row i of each logits argument belongs to `windows[i]`; values past the window's length are padding. All
    spans of at most `max_answer_length` tokens are weighed. With `version_2_with_negative` the empty answer
    (start and end at the first token, least over the windows) competes, and comes first when it beats the
    best span by more than `null_score_diff_threshold`. Without any valid span the one answer is empty, with
    score 0. A NaN makes its spans invalid.

    Raises ValueError when the rows don't match the windows or an option is out of range.
    """
    if n_best < 1 or max_answer_length < 1:
        raise ValueError("n_best and max_answer_length must be 1 or more")
    rows = list(zip(windows, _rows(start_logits, windows), _rows(end_logits, windows), strict=True))
    found = [_spans(window, start, end, n_best, max_answer_length) for window, start, end in rows]
    null = min((_finite(start[0] + end[0]) for _, start, end in rows), default=0.0)
    totals = [spans.log_total for spans in found] + ([null] if version_2_with_negative else [])
    log_total = float(np.logaddexp.reduce(totals)) if totals else -np.inf
    answers = _rank(found, context, log_total, n_best)
    if version_2_with_negative and windows:
        empty = Answer("", 0, 0, _probability(null, log_total), null)
        return _place_empty(answers, empty, null_score_diff_threshold)[:n_best]
    return answers or [Answer("", 0, 0, 0.0, 0.0)]


def _rows(logits: Sequence[ArrayLike] | NDArray[np.floating], windows: Sequence[Window]) -> list[NDArray[np.float64]]:
    if len(logits) != len(windows):
        raise ValueError(f"{len(logits)} rows of logits for {len(windows)} windows")
    rows = [np.asarray(row, np.float64) for row in logits]
    for row, window in zip(rows, windows, strict=True):
        if row.ndim != 1 or len(row) < len(window):
            raise ValueError(f"logits of shape {row.shape} for a window of {len(window)} tokens")
    # Infinite logits would make differences of infinities; the largest floats keep their order.
    limit = float(np.finfo(np.float32).max)
    return [np.clip(row[: len(window)], -limit, limit) for row, window in zip(rows, windows, strict=True)]


def _spans(
    window: Window,
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    n_best: int,
    max_answer_length: int,
) -> _Spans:
    """Weigh all spans at once: row s, column k is the span of tokens s to s + k."""
    length = min(max_answer_length, len(window))
    reach = np.arange(len(window))[:, None] + np.arange(length)
    inside = reach < len(window)
    reach = np.minimum(reach, len(window) - 1)
    logits = start[:, None] + end[reach]
    begins, ends = window.offsets[:, 0], window.offsets[:, 1]
    valid = inside & window.max_context[:, None] & (begins[:, None] >= 0) & (ends[reach] > begins[:, None])
    logits[~valid | np.isnan(logits)] = -np.inf
    flat = logits.ravel()
    top = np.argpartition(-flat, n_best)[:n_best] if n_best < flat.size else np.arange(flat.size)
    top = top[flat[top] > -np.inf]
    characters = np.stack([begins[top // length], ends[reach.ravel()[top]]], axis=1)
    return _Spans(characters, flat[top], _log_sum_exp(flat))


def _log_sum_exp(values: NDArray[np.float64]) -> float:
    highest = values.max(initial=-np.inf)
    if highest == -np.inf:
        return -np.inf
    return float(highest + np.log(np.exp(values - highest).sum()))


def _rank(found: Sequence[_Spans], context: str, log_total: float, n_best: int) -> list[Answer]:
    if not found:
        return []
    characters = np.concatenate([spans.characters for spans in found])
    logits = np.concatenate([spans.logits for spans in found])
    order = np.lexsort((characters[:, 1], characters[:, 0], -logits))[:n_best]
    answers = []
    for (start, end), logit in zip(characters[order].tolist(), logits[order].tolist(), strict=True):
        end = _past_marks(context, end)
        answers.append(Answer(context[start:end], start, end, _probability(logit, log_total), logit))
    return answers


def _past_marks(context: str, end: int) -> int:
    """Move `end` past the combining marks of its last letter, at most 16: accent-stripping tokenizers
    leave them outside of every token.
    """
    marks = context[end : end + 16]
    return end + next((i for i, mark in enumerate(marks) if not unicodedata.combining(mark)), len(marks))


def _probability(logit: float, log_total: float) -> float:
    return float(min(np.exp(logit - log_total), 1.0)) if log_total > -np.inf else 0.0


def _finite(value: np.float64) -> float:
    return float(value) if np.isfinite(value) else -2.0 * float(np.finfo(np.float32).max)


def _place_empty(answers: list[Answer], empty: Answer, threshold: float) -> list[Answer]:
    """Put the empty answer first when it wins, else at its place but never before the best span."""
    if not answers or empty.logit - answers[0].logit > threshold:
        return [empty, *answers]
    return [answers[0], *sorted([*answers[1:], empty], key=lambda answer: -answer.logit)]


def squad_metrics(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return {"exact_match", "f1"} in percent over all references, as SQuAD v1.1 defines them.

    A reference without a prediction scores 0; one without answers means that no answer is right. Two texts
    that normalise to nothing agree fully (the v2.0 rule; v1.1 leaves their F1 at 0).

    Raises ValueError when there are no references.
    """
    if not references:
        raise ValueError("there are no reference answers to compare with")
    exact = overlap = 0.0
    for key, golds in references.items():
        if key in predictions:
            prediction = _normalise(predictions[key])
            accepted = [_normalise(gold) for gold in golds] or [""]
            exact += max(float(prediction == gold) for gold in accepted)
            overlap += max(_token_f1(prediction, gold) for gold in accepted)
    return {"exact_match": 100 * exact / len(references), "f1": 100 * overlap / len(references)}


def _normalise(text: str) -> str:
    """Lower case, without ASCII punctuation, then without articles, words joined by single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _token_f1(prediction: str, gold: str) -> float:
    predicted, wanted = prediction.split(), gold.split()
    if not predicted or not wanted:
        return float(predicted == wanted)
    same = (Counter(predicted) & Counter(wanted)).total()
    # harmonic mean of same/len(predicted) and same/len(wanted)
    return 2 * same / (len(predicted) + len(wanted))
