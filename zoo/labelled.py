"""Files of labelled texts: TSV, CSV, JSON and JSON lines.

    TSV    a header, then a row a line; quotes are text, as in GLUE's files
    CSV    a header, then rows; a text with a comma, a quote or a line break stands in quotes
    JSON   a list of objects, alone or as "data" of an object; or an object a line

Columns: `label`; and `sentence` or `text`, or for pairs one of `PAIRS`; or one column of any other name. Labels are
names or whole numbers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import TrainingError
from zoo.rows import json_rows, label_of, measure_error, missing_column, read_text, text_of

LABEL = "label"
PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"))
TEXTS = ("sentence", "text")

_NUMBERING = ("idx", "id", "index", "")
_WHOLE = re.compile(r"-?\d+")
_FORMS = (".tsv", ".csv", ".json", ".jsonl")


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text, or a pair, with its label as the data spells it; `place` says where it stands, file and line."""

    texts: tuple[str, ...]
    label: str
    place: str


@dataclass(frozen=True)
class Columns:
    """The columns to read. `texts`: one or two names; found by the names that there are when it is None."""

    texts: tuple[str, ...] | None = None
    label: str = LABEL


def read_labelled(path: Path | str, columns: Columns | None = None) -> list[LabelledText]:
    """Read and check a file; its name's end tells its form.

    Raises TrainingError naming the file and the line, or the object's number: not readable, not UTF-8, of another
    form, a column that is missing, a row of too many or too few columns, no label, or no rows at all.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMS:
        raise TrainingError(f"{path}: its name must end in {', '.join(_FORMS)}, which tells how to read it")
    text = read_text(path)
    rows = _table(path, text) if path.suffix.lower() in (".tsv", ".csv") else json_rows(path, text)
    found = labelled(rows, columns or Columns())
    if not found:
        raise TrainingError(f"{path}: holds no rows")
    return found


def labelled(rows: Iterable[tuple[str, Mapping[str, Any]]], columns: Columns) -> list[LabelledText]:
    """Return the texts of rows, each given with its place. Raises TrainingError naming the place, see above."""
    found: list[LabelledText] = []
    names: tuple[str, ...] | None = None
    for place, row in rows:
        names = names or _text_columns(row, columns, place)
        texts = tuple(text_of(row.get(name), name, place) for name in names)
        found.append(LabelledText(texts, label_of(row.get(columns.label), columns.label, place), place))
    return found


def label_order(labels: Collection[str], place: str) -> tuple[str, ...]:
    """Return the labels in the order of their ids: numbers by size, names by alphabet.

    Raises TrainingError, naming `place`, for labels that are measures, and when there is no choice among them.
    """
    if len(labels) < 2:
        raise TrainingError(f"{place}: the only label is {next(iter(labels), '')!r}; a classifier needs two or more")
    if all(_WHOLE.fullmatch(label) for label in labels):
        return tuple(sorted(labels, key=int))
    if all(_is_number(label) for label in labels):
        raise measure_error(place, next(label for label in labels if not _WHOLE.fullmatch(label)))
    return tuple(sorted(labels))


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def _table(path: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    tabs = path.suffix.lower() == ".tsv"
    form: Any = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"strict": True}
    remedy = "a text can't hold a tab" if tabs else "put texts that hold commas in quotes"
    reader = csv.reader(io.StringIO(text, newline=""), **form)
    header: list[str] = []
    while True:
        place = f"{path}: line {reader.line_num + 1}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise TrainingError(f"{place}: can't be read ({error}); {remedy}") from error
        if row is None:
            return
        if not row:
            continue
        if not header:
            header = _header(row, place)
            continue
        if len(row) != len(header):
            told = f"has {len(row)} columns, the header has {len(header)} ({', '.join(header)})"
            raise TrainingError(f"{place}: {told}; {remedy}")
        yield place, dict(zip(header, row, strict=True))


def _header(row: Sequence[str], place: str) -> list[str]:
    names = [name.strip() for name in row]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise TrainingError(f"{place}: the header names the column {twice!r} twice")
    return names


def _text_columns(row: Mapping[str, Any], columns: Columns, place: str) -> tuple[str, ...]:
    """Return the columns that hold the texts. Raises TrainingError where they, or the label's, aren't there."""
    if columns.label not in row:
        raise missing_column(row, columns.label, place, "--label_column_name names another")
    if columns.texts is not None:
        for name in columns.texts:
            if name not in row:
                raise missing_column(row, name, place, "--input_column_names names others")
        return columns.texts
    others = [name for name in row if name != columns.label and name not in _NUMBERING]
    known = (*PAIRS, *((name,) for name in TEXTS), *((name,) for name in others if len(others) == 1))
    for names in known:
        if all(name in others for name in names):
            return names
    raise missing_column(row, " or ".join(TEXTS), place, "--input_column_names a,b names others")
