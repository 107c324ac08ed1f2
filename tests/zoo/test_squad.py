"""SQuAD: files of both forms, and what an answer is worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo.answers import read_squad, squad_metrics
from zoo.errors import TrainingError

# metrics


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "f1"),
    [
        ("The Cat.", ["cat"], 100, 100),
        ("a black cat", ["the cat"], 0, 100 * 2 / 3),
        ("black  cat sat", ["dog", "cat sat down"], 0, 100 * 2 / 3),
        ("cat cat", ["cat"], 0, 100 * 2 / 3),
        ("dog", ["cat"], 0, 0),
        ("", [], 100, 100),
        ("dog", [], 0, 0),
        ("The", ["a"], 100, 100),
        ("U.S.A", ["usa"], 100, 100),
        ("an theatre", ["theatre"], 100, 100),
    ],
)
def test_metrics_by_hand(prediction: str, golds: list[str], exact: float, f1: float) -> None:
    metrics = squad_metrics({"q": prediction}, {"q": golds})
    assert metrics == {"exact_match": exact, "f1": pytest.approx(f1)}


def test_metrics_average_over_the_references() -> None:
    metrics = squad_metrics({"1": "cat", "2": "a dog ran", "extra": "x"}, {"1": ["cat"], "2": ["dog"], "3": ["z"]})
    assert metrics == {"exact_match": pytest.approx(100 / 3), "f1": pytest.approx(100 * (1 + 2 / 3) / 3)}
    with pytest.raises(ValueError, match="no reference"):
        squad_metrics({}, {})


# SQuAD files

NESTED = {
    "version": "1.1",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": "Zoë sat.",
                    "qas": [{"id": "1", "question": "who?", "answers": [{"text": "sat", "answer_start": 4}]}],
                }
            ],
        }
    ],
}
FLAT_ROW = {"id": "1", "question": "who?", "context": "Zoë sat.", "answers": {"text": ["sat"], "answer_start": [4]}}


def written(tmp_path: Path, document: object) -> Path:
    path = tmp_path / "squad.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("document", [NESTED, {"data": [FLAT_ROW]}, "\ufeff" + json.dumps(NESTED)])
def test_both_forms_read_alike(tmp_path: Path, document: object) -> None:
    [example] = read_squad(written(tmp_path, document))
    assert (example.id, example.question, example.context) == ("1", "who?", "Zoë sat.")
    assert example.answers == (("sat", 4),)


def test_answers_may_be_missing_or_empty(tmp_path: Path) -> None:
    bare = {"id": 7, "question": "q", "context": "c"}
    rows = [bare, {**bare, "id": "8", "answers": {"text": [], "answer_start": []}}, {**bare, "id": "9", "answers": []}]
    assert [(e.id, e.answers) for e in read_squad(written(tmp_path, {"data": rows}))] == [
        ("7", ()),
        ("8", ()),
        ("9", ()),
    ]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("{", "isn't JSON.*line 1 column 2"),
        ("[" * 100_000, "isn't usable JSON|isn't JSON"),
        ("9" * 10_000, "isn't usable JSON|isn't JSON|top"),
        ([], "top: is a list; expected an object"),
        ({}, "top: has no 'data'"),
        ({"data": []}, "holds no questions"),
        ({"data": [3]}, r"data\[0\]: is a whole number; expected an object"),
        ({"data": [FLAT_ROW, FLAT_ROW]}, r"data\[1\]: id '1' stands already at data\[0\]"),
        ({"data": [{**FLAT_ROW, "id": None}]}, r"data\[0\].id: is missing; expected text"),
        ({"data": [{**FLAT_ROW, "question": 5}]}, r"data\[0\].question: is a whole number"),
        ({"data": [{**FLAT_ROW, "answers": "sat"}]}, r"data\[0\].answers: is text; expected a list"),
        ({"data": [{**FLAT_ROW, "answers": {"text": ["sat"]}}]}, r"answers: has no 'answer_start'"),
        ({"data": [{**FLAT_ROW, "answers": {"text": ["sat"], "answer_start": []}}]}, "1 texts but 0 starts"),
        ({"data": [{**FLAT_ROW, "answers": [{"text": "sat", "answer_start": 5}]}]}, "the context says 'at.'"),
        ({"data": [{**FLAT_ROW, "answers": [{"text": "sat", "answer_start": -4}]}]}, "outside of the context"),
        ({"data": [{**FLAT_ROW, "answers": [{"text": "sat.x", "answer_start": 4}]}]}, "outside of the context"),
        ({"data": [{**FLAT_ROW, "answers": [{"text": "sat", "answer_start": True}]}]}, "expected a whole number"),
        ({"data": [{**FLAT_ROW, "answers": [{"text": "", "answer_start": 0}]}]}, "text is empty"),
        ({"data": [{"paragraphs": [{"context": "c", "qas": [{}]}]}]}, r"data\[0\].paragraphs\[0\].qas\[0\]"),
    ],
)
def test_a_wrong_file_is_named_with_its_row(tmp_path: Path, document: object, message: str) -> None:
    path = written(tmp_path, document)
    with pytest.raises(TrainingError, match=message) as caught:
        read_squad(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_absent_or_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="can't be read"):
        read_squad(tmp_path / "none.json")
    path = tmp_path / "latin.json"
    path.write_bytes('{"data": "é"}'.encode("latin-1"))
    with pytest.raises(TrainingError, match=r"isn't UTF-8 \(byte 10\)"):
        read_squad(path)
