"""Texts as token rows: trained on what is served."""

from __future__ import annotations

import pytest

from engine.pipelines.text_rows import TextEncoder
from tests.zoo.train.conftest import make_tokenizer
from zoo.texts import text_rows

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
