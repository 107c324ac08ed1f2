"""Files of labelled texts, in each of their forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo.errors import TrainingError
from zoo.labelled import Columns, LabelledText, label_order, read_labelled

ROWS = [{"sentence": 'so "bad" it , hurts', "label": 0}, {"sentence": "a warm film ", "label": 1}]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("a.tsv", 'sentence\tlabel\nso "bad" it , hurts\t0\n\na warm film \t1\n', ["line 2", "line 4"]),
        (
            "a.tsv",
            '\ufeffidx\tsentence\tlabel\r\n0\tso "bad" it , hurts\t0\r\n1\ta warm film \t1',
            ["line 2", "line 3"],
        ),
        ("a.csv", 'label,sentence\n0,"so ""bad"" it , hurts"\n1,a warm film \n', ["line 2", "line 3"]),
        ("a.json", json.dumps(ROWS), ["row 1", "row 2"]),
        ("a.json", json.dumps({"data": ROWS}, indent=1), ["row 1", "row 2"]),
        ("a.json", "\n".join(map(json.dumps, ROWS)), ["line 1", "line 2"]),
        ("a.jsonl", "\n\n".join(map(json.dumps, ROWS)), ["line 1", "line 3"]),
    ],
)
def test_every_form_gives_the_same_rows(name: str, content: str, places: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, name, content)
    found = read_labelled(path)
    assert found == [
        LabelledText((str(row["sentence"]),), str(row["label"]), f"{path}: {place}")
        for row, place in zip(ROWS, places, strict=True)
    ]


@pytest.mark.parametrize(
    ("header", "texts"),
    [
        ("sentence1,sentence2,label", ("a", "b")),
        ("question,sentence,label", ("a", "b")),
        ("title,text,label", ("b",)),
        ("idx,words,label", ("b",)),
    ],
)
def test_columns_are_found_by_their_names(header: str, texts: tuple[str, ...], tmp_path: Path) -> None:
    (found,) = read_labelled(write(tmp_path, "a.csv", f"{header}\na,b,c\n"))
    assert (found.texts, found.label) == (texts, "c")


def test_columns_may_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "sentence,reply,grade\na,b,c\n")
    (found,) = read_labelled(path, Columns(("reply", "sentence"), "grade"))
    assert (found.texts, found.label) == (("b", "a"), "c")


def test_a_row_over_several_lines_counts_them(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'sentence,label\n"two\nlines",1\nshort\n')
    with pytest.raises(TrainingError, match=r"a\.csv: line 4: has 1 columns, the header has 2 \(sentence, label\)"):
        read_labelled(path)


@pytest.mark.parametrize(
    ("value", "label"), [(3, "3"), (1.0, "1"), (True, "true"), (" good ", "good"), ("07", "07"), (-1, "-1")]
)
def test_labels_are_names(value: object, label: str, tmp_path: Path) -> None:
    (found,) = read_labelled(write(tmp_path, "a.json", json.dumps([{"text": "a", "label": value}])))
    assert found.label == label


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "x", "its name must end in .tsv, .csv, .json, .jsonl"),
        ("a.tsv", b"sentence\tlabel\na\t1\n\xff\t0\n", "line 3: isn't UTF-8; save it as UTF-8"),
        ("a.tsv", "label\tlabel\n", "line 1: the header names the column 'label' twice"),
        ("a.csv", 'sentence,label\n"a,1\n', "line 2: can't be read"),
        ("a.json", "[1]", "row 1: is a number; expected an object"),
        ("a.json", "[{]", "isn't JSON"),
        ("a.json", "3", "must hold a list of objects"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": ', "line 2: isn't JSON"),
        ("a.json", '[{"text": "a", "label": 1}, {"text": null, "label": 1}]', "row 2: text is missing; expected text"),
        ("a.json", '[{"text": "a", "label": 1}, {"text": "b"}]', "row 2: label is missing; expected a name"),
        ("a.json", '[{"text": "a", "label": 0.5}]', "row 1: the label 0.5 is a measure"),
        ("a.json", '[{"text": "a", "label": [1]}]', "row 1: label is a list"),
        ("a.json", "[{}]", "row 1: there is no column label; the columns are none"),
    ],
)
def test_bad_files_are_named(name: str, content: str | bytes, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(TrainingError) as caught:
        read_labelled(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"none\.tsv: can't be read: No such file"):
        read_labelled(tmp_path / "none.tsv")


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["neutral", "bad", "good"], ("bad", "good", "neutral")),
        (["2", "two"], ("2", "two")),
    ],
)
def test_labels_are_numbered_by_size_or_alphabet(labels: list[str], order: tuple[str, ...]) -> None:
    assert label_order(labels, "here") == order
