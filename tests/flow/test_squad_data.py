"""Windows and answers on the real SQuAD questions, where a copy of the data lies beside the checkout.

SPARROW_DATA names the folder that holds squad/dev.json; by default it is ../shared/data.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from zoo.answers import Window, best_answers, label_positions, make_windows, squad_metrics
from zoo.squad import Example, read_squad

DATA = Path(os.environ.get("SPARROW_DATA", Path(__file__).parents[3] / "shared" / "data")) / "squad"

pytestmark = pytest.mark.skipif(
    not (DATA / "dev.json").is_file(),
    reason=f"needs SQuAD: {DATA}/dev.json is not there (SPARROW_DATA names the folder)",
)


def _tokenizer(examples: list[Example]) -> Tokenizer:
    words = {word for e in examples for word in re.findall(r"\w+|[^\w\s]", (e.question + " " + e.context).lower())}
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(words)]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def _logits(windows: list[Window], example: Example) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What a model would say that knows the first answer: peaks at its tokens, in the windows that hold it."""
    text, start = example.answers[0]
    for window in windows:
        first, last = label_positions(window, start, start + len(text))
        starts, ends = np.zeros(len(window), np.float32), np.zeros(len(window), np.float32)
        if (first, last) != (0, 0):
            starts[first] = ends[last] = 10
        yield starts, ends


def test_a_model_that_knows_gets_full_marks() -> None:
    """At 128 tokens most contexts need several windows; answers cut at a token's edge cost the rest."""
    examples = read_squad(DATA / "dev.json")
    assert len(examples) > 1000
    tokenizer = _tokenizer(examples)
    predictions = {}
    for example in examples:
        windows = make_windows(tokenizer, example.question, example.context, max_length=128, doc_stride=48)
        starts, ends = zip(*_logits(windows, example), strict=True)
        best = best_answers(windows, starts, ends, example.context, max_answer_length=40)[0]
        assert best.text == example.context[best.start : best.end]
        predictions[example.id] = best.text
    scores = squad_metrics(predictions, {e.id: [text for text, _ in e.answers] for e in examples})
    assert scores["exact_match"] >= 98
    assert scores["f1"] >= 99


def test_training_questions_are_all_read() -> None:
    examples = read_squad(DATA / "train.json")
    assert len({example.id for example in examples}) == len(examples) > 7000
