"""Files of sentences whose words bear tags: CoNLL's columns, JSON and JSON lines.

CoNLL  a word a line, the word first and its tag last, columns cut by tabs, or else by spaces; an empty line ends a
       sentence; lines of -DOCSTART- are skipped
JSON   a list of objects, alone or as "data" of an object; or an object a line: lists `tokens` (or `words`) and
       `ner_tags` (or `tags` or `labels`) of one length. Tags are names or whole numbers
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import TrainingError
from zoo.rows import json_rows, kind_of, label_of, missing_column, read_text, text_of

WORDS = ("tokens", "words")
TAGS = ("ner_tags", "tags", "labels")

_DOCUMENT = "-DOCSTART-"
_SPACES = re.compile("[ \t]+")


@dataclass(frozen=True, slots=True)
class TaggedWords:
    """A sentence: its words, and the tag of each. `place`: its file and row, or, with `line`, the file alone.

    line: the number of the first word's line, in files of a word a line.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    place: str
    line: int | None = None

    def place_of(self, word: int) -> str:
        """Return where a word stands, by its number from 0."""
        return f"{self.place}: word {word + 1}" if self.line is None else f"{self.place}: line {self.line + word}"


@dataclass(frozen=True)
class Columns:
    """The columns that may hold words and tags; the first that is there is read."""

    words: tuple[str, ...] = WORDS
    tags: tuple[str, ...] = TAGS


def read_tagged(path: Path | str, columns: Columns | None = None) -> list[TaggedWords]:
    """Read and check a file; a name that ends in .json or .jsonl means JSON, any other CoNLL's columns.

    Raises TrainingError naming the file and the line, or the object's number: not readable, not UTF-8, of another
    form, a column that is missing, words and tags of different number, or no words at all.
    """
    path = Path(path)
    text = read_text(path)
    is_json = path.suffix.lower() in (".json", ".jsonl")
    if columns is not None and not is_json:
        raise TrainingError(f"{path}: CoNLL's columns have no names: the word is the first, its tag the last")
    found = tagged(json_rows(path, text), columns or Columns()) if is_json else list(_sentences(path, text))
    if not found:
        raise TrainingError(f"{path}: holds no words")
    return found


def tagged(rows: Iterable[tuple[str, Mapping[str, Any]]], columns: Columns) -> list[TaggedWords]:
    """Return the sentences of rows, each given with its place; rows without words are left out.

    Raises TrainingError naming the place, see above.
    """
    sentences = (_sentence(row, columns, place) for place, row in rows)
    return [sentence for sentence in sentences if sentence.words]


def _sentence(row: Mapping[str, Any], columns: Columns, place: str) -> TaggedWords:
    words_column = _column(row, columns.words, place, "--text_column_name names another")
    tags_column = _column(row, columns.tags, place, "--label_column_name names another")
    words, tags = (_list(row[name], name, place) for name in (words_column, tags_column))
    if len(words) != len(tags):
        raise TrainingError(
            f"{place}: {words_column} holds {len(words)} words and {tags_column} {len(tags)} tags; each word needs one"
        )
    return TaggedWords(
        tuple(text_of(word, f"{words_column}[{number}]", place) for number, word in enumerate(words)),
        tuple(label_of(tag, f"{tags_column}[{number}]", place) for number, tag in enumerate(tags)),
        place,
    )


def _column(row: Mapping[str, Any], names: tuple[str, ...], place: str, remedy: str) -> str:
    found = next((name for name in names if name in row), None)
    if found is None:
        raise missing_column(row, " or ".join(names), place, remedy)
    return found


def _list(value: object, name: str, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise TrainingError(f"{place}: {name} is {kind_of(value)}; expected a list, an item a word")
    return value


def _sentences(path: Path, text: str) -> Iterator[TaggedWords]:
    words: list[str] = []
    tags: list[str] = []
    width, number = 0, 0
    for number, line in enumerate(text.split("\n"), 1):
        cells = _cells(line)
        if cells and cells[0] != _DOCUMENT:
            width = width or len(cells)
            _check(cells, width, f"{path}: line {number}")
            words.append(cells[0])
            tags.append(cells[-1])
        elif words:
            yield TaggedWords(tuple(words), tuple(tags), str(path), number - len(words))
            words, tags = [], []
    if words:
        yield TaggedWords(tuple(words), tuple(tags), str(path), number - len(words) + 1)


def _cells(line: str) -> list[str]:
    """Return the columns of a line; none where it is empty."""
    stripped = line.strip(" \t\r")
    if not stripped:
        return []
    return [cell.strip() for cell in line.rstrip("\r").split("\t")] if "\t" in stripped else _SPACES.split(stripped)


def _check(cells: list[str], width: int, place: str) -> None:
    if len(cells) < 2:
        raise TrainingError(f"{place}: has one column; expected the word first and its tag last")
    if not cells[0] or not cells[-1]:
        raise TrainingError(f"{place}: has an empty {'word' if not cells[0] else 'tag'}; each word needs a tag")
    if len(cells) != width:
        raise TrainingError(
            f"{place}: has {len(cells)} columns, the lines before it have {width}; "
            "where words hold spaces, cut columns by tabs"
        )
