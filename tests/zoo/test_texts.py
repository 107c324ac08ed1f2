"""Texts as token rows: trained on what is served."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from engine.pipelines.text_rows import TextEncoder
from engine.pipelines.token_windows import WindowEncoder
from tests.zoo.train.conftest import make_tokenizer
from zoo.texts import text_rows, word_rows

TEXTS = [
    ("the sea",),
    ("the river ends in the sea . " * 9,),
    ("who ?", "the lake " * 20),
    ("the hill " * 20, "ada"),
    ("",),
]


def test_rows_are_those_of_the_pipeline() -> None:
    tokenizer = make_tokenizer().backend_tokenizer
    served = TextEncoder(make_tokenizer().backend_tokenizer, 16)([t if len(t) > 1 else t[0] for t in TEXTS])
    for ours, theirs in zip(text_rows(tokenizer, TEXTS, max_length=16), served, strict=True):
        assert 2 <= len(ours) <= 16
        for name in ("input_ids", "attention_mask", "type_ids"):
            assert getattr(ours, name).tolist() == getattr(theirs, name).tolist()
    assert tokenizer.truncation is None


def test_what_utf8_cannot_carry_is_replaced() -> None:
    tokenizer = make_tokenizer().backend_tokenizer
    (row,) = text_rows(tokenizer, [("the \ud800 sea",)])
    assert row.input_ids.tolist() == tokenizer.encode("the \ufffd sea").ids


def test_a_length_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="max_length is 4; it must be at least 5"):
        text_rows(make_tokenizer().backend_tokenizer, TEXTS, max_length=4)


SENTENCES = [
    ("the", "seaside", ",", "\u00e9t\u00e9"),
    ("New York", "", "is", "large"),
    ("a",) * 20,
    ("\u200b", "\ud800"),
]


def byte_pairs() -> Tokenizer:
    """Bytes alone: a space is a token, that of the word behind it."""
    symbols = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ends = [("<s>", 0), ("</s>", 1)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return tokenizer


@pytest.mark.parametrize("make", [lambda: make_tokenizer().backend_tokenizer, byte_pairs])
def test_words_are_rows_as_the_pipeline_reads_them(make: Callable[[], Tokenizer]) -> None:
    served = WindowEncoder(make(), 512, 0)([[word.replace("\ud800", "\ufffd") for word in one] for one in SENTENCES])
    for row, window in zip(word_rows(make(), SENTENCES, max_length=512), served, strict=True):
        assert row.input_ids.tolist() == window.input_ids.tolist()
        assert row.words.tolist() == [-1, *window.tokens.words.tolist(), -1]


def test_words_know_their_first_tokens_and_those_that_were_cut_have_none() -> None:
    vocabulary = ["s", "##ea", "##side", "the", ","]
    tokenizer = make_tokenizer(vocabulary).backend_tokenizer
    (row, cut, empty) = word_rows(tokenizer, [("the", "seaside", ","), ("the",) * 9, ()], max_length=6)
    assert row.words.tolist() == [-1, 0, 1, 1, 1, -1]
    assert row.firsts.tolist() == [1, 2]
    assert cut.words.tolist() == [-1, 0, 1, 2, 3, -1]
    assert (empty.words.tolist(), empty.firsts.tolist()) == ([-1, -1], [])
    with pytest.raises(ValueError, match="max_length is 3; it must be at least 4"):
        word_rows(tokenizer, [("the",)], max_length=3)
