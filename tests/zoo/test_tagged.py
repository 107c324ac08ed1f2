"""Files of tagged words, in each of their forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo.errors import TrainingError
from zoo.tagged import Columns, read_tagged

SENTENCES = [(("Ada", "Lovelace", "wrote"), ("B-PER", "I-PER", "O")), (("London",), ("B-LOC",))]
OBJECTS = [{"id": 7, "tokens": list(words), "ner_tags": list(tags)} for words, tags in SENTENCES]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("a.conll", "Ada B-PER\nLovelace I-PER\nwrote O\n\nLondon B-LOC\n", ["line 2", "line 5"]),
        ("a.txt", "Ada\tN\tB-PER\r\nLovelace\tN\tI-PER\r\nwrote\tV\tO\r\n \r\nLondon\tN\tB-LOC", ["line 2", "line 5"]),
        (
            "eng.testa",
            (
                "-DOCSTART- -X- O O\n\nAda N  X B-PER\nLovelace N X I-PER\nwrote V X O\n\n"
                "-DOCSTART- -X- O O\n\n\nLondon N X B-LOC\n\n"
            ),
            ["line 4", "line 10"],
        ),
        ("a.json", json.dumps(OBJECTS), ["row 1: word 2", "row 2: word 1"]),
        ("a.json", json.dumps({"data": OBJECTS}, indent=1), ["row 1: word 2", "row 2: word 1"]),
        ("a.json", "\n".join(map(json.dumps, OBJECTS)), ["line 1: word 2", "line 2: word 1"]),
        ("a.jsonl", "\n\n".join(map(json.dumps, OBJECTS)), ["line 1: word 2", "line 3: word 1"]),
    ],
)
def test_every_form_gives_the_same_sentences(name: str, content: str, places: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, name, content)
    found = read_tagged(path)
    assert [(one.words, one.tags) for one in found] == SENTENCES
    assert [found[0].place_of(1), found[1].place_of(0)] == [f"{path}: {place}" for place in places]


def test_words_keep_what_is_no_column(tmp_path: Path) -> None:
    """A no-break space, a line separator; and with tabs, a space."""
    (spaced,) = read_tagged(write(tmp_path, "a.conll", "1\u00a0000 O\na\u2028b O\n"))
    assert spaced.words == ("1\u00a0000", "a\u2028b")
    (tabbed,) = read_tagged(write(tmp_path, "a.tsv", "New York\tB-LOC\n"))
    assert tabbed.words == ("New York",)


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"words": ["a"], "labels": [3]}, None),
        ({"tokens": ["a"], "tags": [3], "labels": ["x"]}, None),
        ({"tokens": ["x"], "said": ["a"], "pos_tags": [3]}, Columns(("said",), ("pos_tags",))),
    ],
)
def test_columns_are_found_by_their_names(
    row: dict[str, list[object]], columns: Columns | None, tmp_path: Path
) -> None:
    (found,) = read_tagged(write(tmp_path, "a.json", json.dumps([row])), columns)
    assert (found.words, found.tags) == (("a",), ("3",))


def test_sentences_without_words_are_left_out(tmp_path: Path) -> None:
    rows = [{"tokens": [], "ner_tags": []}, *OBJECTS]
    assert len(read_tagged(write(tmp_path, "a.json", json.dumps(rows)))) == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.conll", "", "is empty"),
        ("a.conll", "-DOCSTART- O\n\n", "holds no words"),
        ("a.conll", b"a O\n\xff O\n", "line 2: isn't UTF-8; save it as UTF-8"),
        ("a.conll", "a O\nb\n", "line 2: has one column; expected the word first and its tag last"),
        ("a.conll", "a N O\n\nb O\n", "line 3: has 2 columns, the lines before it have 3; where words hold spaces"),
        ("a.conll", "a\tO\nb\t\tO\n", "line 2: has 3 columns"),
        ("a.conll", "a\tN\tO\nb\tN\t\n", "line 2: has an empty tag; each word needs a tag"),
        (
            "a.json",
            '[{"tokens": ["a"]}]',
            "row 1: there is no column ner_tags or tags or labels; the columns are tokens",
        ),
        ("a.json", '[{"ner_tags": [0]}]', "there is no column tokens or words"),
        ("a.json", '[{"tokens": ["a", "b"], "ner_tags": [0]}]', "row 1: tokens holds 2 words and ner_tags 1 tags"),
        ("a.json", '[{"tokens": "a", "ner_tags": [0]}]', "row 1: tokens is text; expected a list"),
        ("a.json", '[{"tokens": ["a", 3], "ner_tags": [0, 0]}]', "row 1: tokens[1] is a number; expected text"),
        ("a.json", '[{"tokens": ["a"], "ner_tags": [null]}]', "row 1: ner_tags[0] is missing; expected a name"),
        ("a.json", '[{"tokens": ["a"], "ner_tags": [0.5]}]', "row 1: the label 0.5 is a measure"),
        ("a.jsonl", '{"tokens": ["a"], "ner_tags": [0]}\n[]\n', "line 2: is a list; expected an object"),
    ],
)
def test_bad_files_are_named(name: str, content: str | bytes, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(TrainingError) as caught:
        read_tagged(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


def test_names_of_columns_are_no_use_without_names(tmp_path: Path) -> None:
    path = write(tmp_path, "a.conll", "a O\n")
    with pytest.raises(TrainingError, match=r"a\.conll: CoNLL's columns have no names: the word is the first"):
        read_tagged(path, Columns(("said",)))
