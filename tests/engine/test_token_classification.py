"""Token classification: against transformers' pipeline on a random model, and on one whose answers are known."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from engine.errors import ModelError, PipelineError
from engine.pipelines import Pipeline
from tests.engine.random_models import RandomModel, byte_pairs, random_model
from tests.engine.tiny_models import (
    ENGINES,
    WORDS,
    embedding_model,
    text_classification_model,
    tiny_tokenizer,
    token_classification_model,
)

STRATEGIES = ["none", "simple", "first", "average", "max"]
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]
LONG = "the cat sat in paris. spring was in spring paris, paris, it was. " * 40


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> RandomModel:
    folder = tmp_path_factory.mktemp("random")
    return random_model(folder, "BertForTokenClassification", LABELS, seed=9)


def expected(drawn: RandomModel, inputs: Any, strategy: str, **options: Any) -> list[dict[str, Any]]:
    """What transformers finds in one text, in our words."""
    asked = drawn.pipeline("token-classification", aggregation_strategy=strategy)
    told = asked(inputs, **options)
    grouped = strategy != "none"
    return [
        {
            "entity": row["entity_group" if grouped else "entity"],
            "score": pytest.approx(float(row["score"]), abs=1e-4),
            "word": row["word"],
            "start": row["start"],
            "end": row["end"],
            "index": None if grouped else row["index"],
            "is_grouped": grouped,
        }
        for row in (told[0] if told and isinstance(told[0], list) else told)
    ]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return token_classification_model(tmp_path_factory.mktemp("known"))


def found(folder: Path, inputs: Any, *, split: bool = False, **options: Any) -> list[list[dict[str, Any]]]:
    with Pipeline.create("ner", folder, batch_size=None, **options) as pipeline:
        result = pipeline(inputs=inputs, is_split_into_words=split)
    return [[entity.model_dump() for entity in row] for row in result.predictions]


def some_texts() -> list[str]:
    """Texts of known words, words in pieces, punctuation, unknown characters and letters that are simplified."""
    chosen = random.Random(5)  # noqa: S311 - test data
    made = ["".join(chosen.choices("abcdefgh", k=chosen.randint(2, 6))) for _ in range(8)]
    odd = [
        "Paris",
        "Zo\u00eb",
        "\u00fcber",
        "\U0001f600",
        "\u6f22\u5b57",
        "caf\u00e9s",
        "don't",
        "U.K.",
        "a-b",
        "#",
        "A\u00a0b",
    ]
    every = [*WORDS, *made, *odd]
    return [" ".join(chosen.choices(every, k=chosen.randint(1, 14))) for _ in range(25)]


# against transformers


@pytest.mark.parametrize("ignored", [["O"], [], ["O", "PER", "B-LOC"]], ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_finds_what_transformers_finds(drawn: RandomModel, strategy: str, ignored: list[str]) -> None:
    texts = some_texts()
    mine = found(drawn.folder, texts, aggregation_strategy=strategy, ignore_labels=ignored)
    assert mine == [expected(drawn, text, strategy, ignore_labels=ignored) for text in texts]
    assert len({entity["entity"] for row in mine for entity in row}) >= 2
    assert any(len(row) > 3 for row in mine)


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_words_are_found_as_transformers_finds_them(drawn: RandomModel, strategy: str) -> None:
    texts = [["the", "cat", "abcab", "Paris", "\u00fcbgh"], ["hagfe", "?", "in", "at"]]
    mine = found(drawn.folder, texts, split=True, aggregation_strategy=strategy)
    assert mine == [expected(drawn, words, strategy, is_split_into_words=True) for words in texts]


def test_of_words_alone_each_has_the_label_of_its_first_token(drawn: RandomModel) -> None:
    words = ["the", "abcab", "Paris", "hagfe"]
    every = expected(drawn, words, "none", is_split_into_words=True, ignore_labels=[])
    starts = [len(" ".join([*words[:place], ""])) for place in range(len(words))]
    (mine,) = found(drawn.folder, words, split=True, ignore_labels=[])
    assert mine == [row for row in every if row["start"] in starts]
    assert [row["word"] for row in mine] == ["the", "a", "paris", "h"]


@pytest.mark.parametrize("engine_type", ENGINES)
def test_engines_agree(drawn: RandomModel, engine_type: str) -> None:
    text = some_texts()[0]
    (mine,) = found(drawn.folder, text, engine_type=engine_type, aggregation_strategy="average")
    assert mine == expected(drawn, text, "average")


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_pieces_of_bytes_are_put_together_too(tmp_path: Path) -> None:
    """transformers leaves the space before a word in `word`."""
    texts = [*some_texts(), "two  spaces", "in\nParis \U0001f600\U0001f600 caf\u00e9s"]
    texts = [text.replace("\u00a0", " ") for text in texts]
    model = random_model(tmp_path, "BertForTokenClassification", LABELS, seed=9, tokenizer=byte_pairs(texts))
    for strategy in STRATEGIES:
        chosen = [text for text in texts if strategy in ("none", "simple") or _agreed_words(model, text)]
        assert len(chosen) > 2
        mine = found(model.folder, chosen, aggregation_strategy=strategy, ignore_labels=[])
        for text, row in zip(chosen, mine, strict=True):
            theirs = expected(model, text, strategy, ignore_labels=[])
            for entity in theirs:
                entity["word"] = entity["word"].strip()
            assert row == theirs


def _agreed_words(model: RandomModel, text: str) -> bool:
    """Whether it has neither punctuation at a word, which transformers takes for a part of it, nor a space as a token
    of its own, behind which transformers cuts.
    """
    return re.fullmatch(r"[\w \U0001f600]+", text) is not None and "\u0120" not in model.tokenizer.tokenize(text)


# texts of any length


@pytest.mark.parametrize("engine_type", ENGINES)
@pytest.mark.parametrize(("length", "stride"), [(96, 128), (96, 0), (17, 5), (4, 128)])
def test_a_text_longer_than_the_model_is_read_to_its_end(
    known: Path, engine_type: str, length: int, stride: int
) -> None:
    (mine,) = found(known, LONG, engine_type=engine_type, max_seq_length=length, stride=stride)
    words = {"paris": "B-LOC", "spring": "B-TIME"}
    places = [(place, word) for word in words for place in range(len(LONG)) if LONG.startswith(word, place)]
    assert [(row["start"], row["word"], row["entity"]) for row in mine] == [
        (place, word, words[word]) for place, word in sorted(places)
    ]
    assert all(LONG[row["start"] : row["end"]] == row["word"] for row in mine)
    tokens = tiny_tokenizer().encode(LONG)
    assert [row["index"] for row in mine] == [i for i, token in enumerate(tokens.tokens) if token in words]


def test_an_entity_across_windows_is_one(known: Path) -> None:
    text = "paris " * 200
    every = found(known, text, aggregation_strategy="simple", max_seq_length=16)[0]
    assert len(every) == 200
    joined = found(known, "mat " * 200, aggregation_strategy="simple", max_seq_length=16)[0]
    assert [(row["entity"], row["start"], row["end"]) for row in joined] == [("THING", 0, 799)]


@given(count=st.integers(0, 60), length=st.integers(4, 20), stride=st.integers(0, 30))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_token_is_judged_once_where_most_text_surrounds_it(
    known: Path, count: int, length: int, stride: int
) -> None:
    options = {"max_seq_length": length, "stride": stride, "engine_type": "onnxruntime"}
    with Pipeline.create("ner", known, **options) as pipeline:
        windows = pipeline.encode(pipeline.request({"inputs": "cat " * count}))
    room, overlap = length - 2, min(stride, (length - 2) // 2)
    assert all(len(window.input_ids) <= length for window in windows)
    assert sum(window.judged.stop - window.judged.start for window in windows) == count
    least = overlap // 2
    for number, window in enumerate(windows):
        assert number == 0 or window.judged.start - 1 >= least
        assert number == len(windows) - 1 or 1 + room - window.judged.stop >= least


def test_texts_of_a_list_are_read_as_one_by_one(drawn: RandomModel) -> None:
    texts = ["", "paris", LONG, " \t", "the cat"]
    together = found(drawn.folder, texts, aggregation_strategy="max")
    assert [len(row) == 0 for row in together] == [True, False, False, True, False]
    for text, row in zip(texts, together, strict=True):
        assert row == [
            {**entity, "score": pytest.approx(entity["score"], abs=1e-5)}
            for entity in found(drawn.folder, text, aggregation_strategy="max")[0]
        ]
    assert found(drawn.folder, []) == []
    assert found(drawn.folder, [], split=True) == [[]]
    assert found(drawn.folder, [[], ["paris"]], split=True, ignore_labels=[])[0] == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=120), strategy=st.sampled_from(STRATEGIES))
def test_row_110_any_text_has_entities_within_it(drawn: RandomModel, text: str, strategy: str) -> None:
    options = {"engine_type": "onnxruntime", "max_seq_length": 16, "aggregation_strategy": strategy}
    (mine,) = found(drawn.folder, text, ignore_labels=[], **options)
    assert all(0 <= row["start"] <= row["end"] <= len(text) for row in mine)
    assert [row["start"] for row in mine] == sorted(row["start"] for row in mine)


# words and labels


def test_letters_that_are_dropped_leave_a_word_whole(drawn: RandomModel) -> None:
    """A combining accent belongs to no token, and is no reason to cut the word."""
    text = "abce\u0301ab the"
    (mine,) = found(drawn.folder, text, aggregation_strategy="first", ignore_labels=[])
    (precomposed,) = found(drawn.folder, "abc\u00e9ab the", aggregation_strategy="first", ignore_labels=[])
    assert [row["entity"] for row in mine] == [row["entity"] for row in precomposed]


def test_words_given_with_spaces_or_signs_inside_are_judged_whole(drawn: RandomModel) -> None:
    words = ["in the", "a-b", "", "cat"]
    (mine,) = found(drawn.folder, words, split=True, ignore_labels=[])
    assert [(row["word"], row["start"]) for row in mine] == [("in", 0), ("a", 7), ("cat", 12)]


def test_tokenizers_that_keep_spaces(known: Path, tmp_path: Path) -> None:
    """As SentencePiece's: a token holds the space before its word, and white space alone parts words."""
    vocab = [("<unk>", 0.0), *((piece, -1.0) for piece in ("\u2581paris", "\u2581the", "\u2581", "s", "mat", ","))]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    tokenizer.decoder = decoders.Metaspace()
    folder = tmp_path / "pieces"
    folder.mkdir()
    for name in ("model.onnx", "config.json"):
        (folder / name).write_bytes((known / name).read_bytes())
    tokenizer.save(str(folder / "tokenizer.json"))
    text = "the paris mats, paris"
    options = {"aggregation_strategy": "first", "ignore_labels": [], "engine_type": "onnxruntime"}
    with Pipeline.create("ner", folder, **options) as pipeline:
        (window,) = pipeline.encode(pipeline.request({"inputs": text}))
        (entities,) = pipeline(inputs=text).predictions
        (split,) = pipeline.encode(pipeline.request({"inputs": text.split(), "is_split_into_words": True}))
    assert window.tokens.words.tolist() == split.tokens.words.tolist() == [0, 1, 2, 2, 2, 2, 3]
    assert "".join(text[row.start : row.end].strip() for row in entities).replace(" ", "") == text.replace(" ", "")
    assert all(text[row.start] != " " for row in entities)


@pytest.mark.parametrize(
    ("labels", "kinds"),
    [
        (["B-A", "I-A", "E-A"], ["A"]),
        (["B-A", "L-A", "S-A"], ["A", "A"]),
        (["A", "A", "A"], ["A"]),
        (["well-known", "well-known", "I-A"], ["well-known", "A"]),
        (["I-A", "B-A", "I-B"], ["A", "A", "B"]),
    ],
)
def test_schemes_of_labels(known: Path, tmp_path: Path, labels: list[str], kinds: list[str]) -> None:
    words = dict(zip(("paris", "spring", "mat"), labels, strict=True))
    folder = token_classification_model(tmp_path, labels=words)
    (mine,) = found(folder, "the paris spring mat", aggregation_strategy="simple")
    assert [row["entity"] for row in mine] == kinds


def test_labels_without_names(known: Path, tmp_path: Path) -> None:
    for name in ("model.onnx", "tokenizer.json"):
        (tmp_path / name).write_bytes((known / name).read_bytes())
    (mine,) = found(tmp_path, "in paris", ignore_labels=["LABEL_0"], max_seq_length=16)
    assert [row["entity"] for row in mine] == ["LABEL_1"]


# what is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "inputs: Field required"),
        ({"inputs": 3}, "inputs"),
        ({"inputs": "a", "is_split_into_words": True}, "needs a list of words"),
        ({"inputs": [["a"]]}, "need is_split_into_words"),
        ({"inputs": ["a", 3], "is_split_into_words": True}, r"inputs.*1: "),
        ({"inputs": "\ud800"}, "half a surrogate pair"),
        ({"inputs": "a", "text": "b"}, "text: Extra"),
    ],
)
def test_wrong_requests_are_named(known: Path, fields: dict[str, Any], message: str) -> None:
    with (
        Pipeline.create("ner", known, engine_type="onnxruntime") as pipeline,
        pytest.raises(PipelineError, match=f"request for token_classification: .*{message}"),
    ):
        pipeline(**fields)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregation_strategy": "best"}, "aggregation_strategy"),
        ({"stride": -1}, "stride"),
        ({"max_seq_length": 97}, "97 is more than the model's 96"),
        ({"ignore_labels": "O"}, "ignore_labels"),
    ],
)
def test_wrong_options_are_named(known: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        Pipeline.create("ner", known, **options)


def test_the_originals_options_are_accepted(known: Path) -> None:
    options = {"sequence_length": [16, 64], "aggregation_strategy": "SIMPLE", "ignore_labels": ["O", "TIME"]}
    (mine,) = found(known, "spring in paris", **options)
    assert [(row["entity"], row["is_grouped"]) for row in mine] == [("LOC", True)]


def test_models_of_other_tasks_are_refused(tmp_path: Path) -> None:
    with (
        Pipeline.create("ner", text_classification_model(tmp_path / "text")) as pipeline,
        pytest.raises(ModelError, match="no finite logits for each token"),
    ):
        pipeline(inputs="paris")
    folder = embedding_model(tmp_path / "embedding")
    with Pipeline.create("ner", folder, aggregation_strategy="simple") as pipeline:
        assert pipeline(inputs="").predictions == [[]]
