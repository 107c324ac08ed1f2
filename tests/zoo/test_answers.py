"""Windows, answers, metrics and SQuAD files, through the public functions of zoo.answers."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from zoo import answers
from zoo.answers import Answer, Window, best_answers, label_positions, load_tokenizer, make_windows

WORDS = ["the", "cat", "sat", "on", "a", "mat", "in", "paris", "cafe", "2019", "who", "where", "?", ".", ","]


def bert_tokenizer() -> Tokenizer:
    """A WordPiece tokenizer as BERT's: lower case, accents stripped, unknown words by letters."""
    letters = [chr(c) for c in range(97, 123)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *letters, *("##" + letter for letter in letters)]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=20))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return tokenizer


def byte_tokenizer() -> Tokenizer:
    """A byte-level tokenizer as RoBERTa's: one character can be several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 1)],
    )
    return tokenizer


TOKENIZERS = {"bert": bert_tokenizer(), "bytes": byte_tokenizer()}
BERT = TOKENIZERS["bert"]


any_text = st.text(st.characters(), max_size=120) | st.text(
    "a e\u0301\u00e9\r\n\t\u202e\u05d0\U0001f600\ud800", max_size=80
)


def tokens(window: Window) -> list[str]:
    return [str(BERT.id_to_token(int(i))) for i in window.input_ids]


def logits_at(windows: list[Window], *spots: tuple[int, int, float]) -> list[np.ndarray]:
    rows = [np.zeros(len(window)) for window in windows]
    for window, token, value in spots:
        rows[window][token] = value
    return rows


def flat(windows: list[Window], value: float = 0.0) -> list[np.ndarray]:
    return [np.full(len(window), value) for window in windows]


# windows


def test_window_of_a_short_pair() -> None:
    [window] = make_windows(BERT, "who sat?", "The cat sat.")
    assert tokens(window) == ["[CLS]", "who", "sat", "?", "[SEP]", "the", "cat", "sat", ".", "[SEP]"]
    assert window.type_ids.tolist() == [0] * 5 + [1] * 5
    assert window.attention_mask.tolist() == [1] * 10
    assert window.offsets.tolist() == [[-1, -1]] * 5 + [[0, 3], [4, 7], [8, 11], [11, 12], [-1, -1]]
    assert window.max_context.tolist() == [False] * 5 + [True] * 4 + [False]
    assert [window.input_ids.dtype, window.type_ids.dtype, window.offsets.dtype] == [np.int64, np.int64, np.int32]


def test_windows_overlap_by_the_stride_and_cover_the_context() -> None:
    context = " ".join(WORDS[i % 6] for i in range(23))
    windows = make_windows(BERT, "who", context, max_length=12, doc_stride=3)  # 8 context tokens a window
    spans = [window.offsets[window.offsets[:, 0] >= 0] for window in windows]
    assert [len(span) for span in spans] == [8, 8, 8, 8]
    for left, right in itertools.pairwise(spans):
        assert left[-3:].tolist() == right[:3].tolist()
    assert {tuple(row) for span in spans for row in span.tolist()} == {
        (start, start + len(word)) for start, word in _places(context)
    }


def _places(text: str) -> list[tuple[int, str]]:
    places, at = [], 0
    for word in text.split(" "):
        places.append((at, word))
        at += len(word) + 1
    return places


def test_a_token_belongs_to_the_window_that_surrounds_it_best() -> None:
    windows = make_windows(BERT, "who", "cat " * 12, max_length=12, doc_stride=4)
    assert [int(window.max_context.sum()) for window in windows] == [6, 6]
    assert windows[0].max_context[3:11].tolist() == [True] * 6 + [False] * 2
    assert windows[1].max_context[3:11].tolist() == [False] * 2 + [True] * 6


def test_stride_wider_than_a_window_is_capped() -> None:
    context = "cat " * 100
    wide = make_windows(BERT, "who", context, max_length=20, doc_stride=10**9)
    half = make_windows(BERT, "who", context, max_length=20, doc_stride=8)
    assert [w.offsets.tolist() for w in wide] == [w.offsets.tolist() for w in half]


def test_row_110_question_longer_than_the_limit_is_cut() -> None:
    [window] = make_windows(BERT, "who " * 500, "the cat sat", max_question_length=7)
    assert tokens(window) == ["[CLS]", *["who"] * 7, "[SEP]", "the", "cat", "sat", "[SEP]"]
    small = make_windows(BERT, "who " * 500, "the cat sat", max_length=11)
    assert all(len(w) <= 11 and tokens(w)[1:5] == ["who"] * 4 for w in small)


@pytest.mark.parametrize("options", [{"max_length": 4}, {"doc_stride": -1}, {"max_question_length": 0}])
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        make_windows(BERT, "who", "the cat", **options)


@pytest.mark.parametrize(("question", "context"), [("", ""), ("who", ""), ("", "the cat"), (" ", "\r\n")])
def test_row_110_empty_texts_give_one_window(question: str, context: str) -> None:
    [window] = make_windows(BERT, question, context)
    [answer, *_] = best_answers([window], flat([window]), flat([window]), context)
    assert answer.text == context[answer.start : answer.end]


def test_row_110_a_megabyte_of_context() -> None:
    context = "the cat sat on a mat in paris . " * 32768
    windows = make_windows(BERT, "where", context)
    places = np.concatenate([w.offsets[w.max_context] for w in windows])
    assert len(context) == 2**20
    assert len(places) == 32768 * 9
    assert places[:, 1].max() == len(context) - 1


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_row_110_any_text_gives_a_span_of_the_context(kind: str, data: st.DataObject) -> None:
    question, context = data.draw(any_text), data.draw(any_text)
    length = data.draw(st.integers(6, 40))
    windows = make_windows(
        TOKENIZERS[kind], question, context, max_length=length, doc_stride=data.draw(st.integers(0, 50))
    )
    seed = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    start, end = ([seed.normal(size=len(w)) for w in windows] for _ in range(2))
    found = best_answers(windows, start, end, context, n_best=5, max_answer_length=data.draw(st.integers(1, 50)))
    assert all(len(window) <= length for window in windows)
    assert found
    for answer in found:
        assert 0 <= answer.start <= answer.end <= len(context)
        assert answer.text == context[answer.start : answer.end]
        assert 0 <= answer.score <= 1
    assert sum(answer.score for answer in found) <= 1 + 1e-9


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(context=any_text, stride=st.integers(0, 20))
def test_every_context_token_is_owned_once(kind: str, context: str, stride: int) -> None:
    tokenizer = TOKENIZERS[kind]
    windows = make_windows(tokenizer, "who", context, max_length=16, doc_stride=stride)
    owned = sum(int(w.max_context.sum()) for w in windows)
    [whole] = make_windows(tokenizer, "who", context, max_length=10**6)
    assert owned == int((whole.offsets[:, 0] >= 0).sum())


def test_a_tokenizer_that_truncates_and_pads_is_left_as_it_is(tmp_path: Path) -> None:
    tokenizer = bert_tokenizer()
    tokenizer.enable_truncation(6)
    tokenizer.enable_padding(length=50)
    context = "the cat sat on a mat"
    plain = make_windows(BERT, "who", context)
    assert [w.input_ids.tolist() for w in make_windows(tokenizer, "who", context)] == [
        w.input_ids.tolist() for w in plain
    ]
    assert tokenizer.truncation is not None
    assert tokenizer.padding is not None
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert (loaded.truncation, loaded.padding) == (None, None)


def test_a_file_that_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(ValueError, match="is no tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_threads_share_one_tokenizer() -> None:
    context = "the cat sat on a mat in paris . " * 20
    wanted = {n: [len(w) for w in make_windows(BERT, "who", context, max_length=n)] for n in range(20, 28)}
    wrong: list[int] = []

    def work(length: int) -> None:
        made = [make_windows(BERT, "who", context, max_length=length) for _ in range(20)]
        wrong.extend(length for windows in made if [len(w) for w in windows] != wanted[length])

    threads = [threading.Thread(target=work, args=(n,)) for n in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# labels


def test_label_positions_name_the_tokens_of_the_answer() -> None:
    [window] = make_windows(BERT, "who", "The cat sat on a mat.")
    assert label_positions(window, 4, 11) == (4, 5)  # "cat sat"
    assert label_positions(window, 5, 6) == (4, 4)  # inside of a token
    assert label_positions(window, 3, 7) == (4, 4)  # " cat"
    assert label_positions(window, 100, 104) == (0, 0)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_labels_and_answers_are_inverse(data: st.DataObject) -> None:
    words = data.draw(st.lists(st.sampled_from(WORDS[:9]), min_size=1, max_size=60))
    context = "  ".join(words)
    first = data.draw(st.integers(0, len(words) - 1))
    text = "  ".join(words[first : first + data.draw(st.integers(1, 3))])
    at = len("  ".join([*words[:first], ""])) if first else 0
    windows = make_windows(BERT, "who", context, max_length=14, doc_stride=5)
    start, end = flat(windows, -10.0), flat(windows, -10.0)
    for index, window in enumerate(windows):
        head, tail = label_positions(window, at, at + len(text))
        start[index][head], end[index][tail] = 10.0, 10.0
    assert best_answers(windows, start, end, context)[0].text == text


# answers


def test_best_span_its_probability_and_its_logit() -> None:
    context = "The cat sat"
    windows = make_windows(BERT, "who", context)  # [CLS] who [SEP] the cat sat [SEP]
    start, end = logits_at(windows, (0, 3, 2.0)), logits_at(windows, (0, 4, 3.0))
    found = best_answers(windows, start, end, context)
    # six spans: the 2+0, the-cat 2+3, the-cat-sat 2+0, cat 0+3, cat-sat 0, sat 0
    total = np.exp([2, 5, 2, 3, 0, 0]).sum()
    assert (found[0].text, found[0].start, found[0].end, found[0].logit) == ("The cat", 0, 7, 5.0)
    assert found[0].score == pytest.approx(np.exp(5) / total)
    assert [a.text for a in found] == ["The cat", "cat", "The", "The cat sat", "cat sat", "sat"]
    assert sum(a.score for a in found) == pytest.approx(1)
    assert best_answers(windows, start, end, context, n_best=2) == found[:2]


def test_spans_outside_of_the_context_backwards_or_too_long_are_dropped() -> None:
    context = "the cat sat on a mat"
    windows = make_windows(BERT, "who", context)
    start = logits_at(windows, (0, 1, 99.0), (0, 8, 50.0), (0, 3, 9.0))
    end = logits_at(windows, (0, 2, 99.0), (0, 3, 1.0), (0, 8, 5.0), (0, 5, 4.0))
    assert best_answers(windows, start, end, context)[0].text == "mat"
    start[0][8] = 0
    assert best_answers(windows, start, end, context)[0].text == context
    assert best_answers(windows, start, end, context, max_answer_length=5)[0].text == "the cat sat"
    assert best_answers(windows, start, end, context, max_answer_length=1)[0].text == "the"


def test_a_start_counts_only_where_it_has_most_context() -> None:
    context = "cat " * 12
    windows = make_windows(BERT, "who", context, max_length=12, doc_stride=4)
    start = logits_at(windows, (0, 9, 50.0), (1, 7, 5.0))  # token 6 of the context belongs to the second window
    assert best_answers(windows, start, flat(windows), context)[0].logit == 5.0


def test_padding_after_the_window_is_ignored() -> None:
    context = "the cat sat"
    windows = make_windows(BERT, "who", context)
    padded = np.full((1, 40), 77.0)
    padded[0, : len(windows[0])] = 0
    padded[0, 4] = 1
    assert best_answers(windows, padded, padded, context)[0].text == "cat"


def test_row_110_no_valid_span_is_the_empty_answer() -> None:
    windows = make_windows(BERT, "who", "")
    assert best_answers(windows, flat(windows), flat(windows), "") == [Answer("", 0, 0, 0.0, 0.0)]
    assert best_answers([], [], [], "") == [Answer("", 0, 0, 0.0, 0.0)]
    windows = make_windows(BERT, "who", "the cat")
    nans = flat(windows, float("nan"))
    assert best_answers(windows, nans, nans, "the cat") == [Answer("", 0, 0, 0.0, 0.0)]


def test_infinite_logits_keep_their_order() -> None:
    windows = make_windows(BERT, "who", "the cat sat")
    rows = logits_at(windows, (0, 4, float("inf")), (0, 5, float("-inf")))
    [best, *_] = best_answers(windows, rows, rows, "the cat sat")
    assert (best.text, best.score) == ("cat", 1.0)
    assert np.isfinite(best.logit)


def test_the_empty_answer_of_squad_2() -> None:
    context = "the cat sat"
    windows = make_windows(BERT, "who", context)
    rows = logits_at(windows, (0, 0, 2.0), (0, 4, 1.0))
    assert best_answers(windows, rows, rows, context)[0].text == "cat"
    found = best_answers(windows, rows, rows, context, version_2_with_negative=True)
    total = np.exp([4, 2, 1, 1, 0, 0, 1]).sum()  # none; cat; the-cat, cat-sat; the, sat; the-cat-sat has 0
    assert (found[0].text, found[0].logit) == ("", 4.0)
    assert found[0].score == pytest.approx(np.exp(4) / (total - np.exp(1) + 1))
    kept = best_answers(windows, rows, rows, context, version_2_with_negative=True, null_score_diff_threshold=3.0)
    assert [a.text for a in kept[:2]] == ["cat", ""]


def test_logits_that_do_not_match_the_windows_are_refused() -> None:
    windows = make_windows(BERT, "who", "the cat")
    with pytest.raises(ValueError, match="0 rows of logits for 1 windows"):
        best_answers(windows, [], [], "the cat")
    with pytest.raises(ValueError, match="logits of shape"):
        best_answers(windows, [np.zeros(3)], [np.zeros(3)], "the cat")
    with pytest.raises(ValueError, match="1 or more"):
        best_answers(windows, flat(windows), flat(windows), "the cat", n_best=0)


@pytest.mark.parametrize("context", ["Café\r\nin Paris, 2019.", "cafe\u0301 \U0001f600 paris", "CAFÉ on a \u05d0 mat"])
def test_offsets_index_the_original_context(context: str) -> None:
    windows = make_windows(BERT, "where", context)
    found = best_answers(windows, flat(windows), flat(windows), context, n_best=1000)
    assert {a.text for a in found} >= {context.split()[0]}
    assert all(a.text == context[a.start : a.end] for a in found)


def test_public_names() -> None:
    assert answers.__all__ == sorted(answers.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
