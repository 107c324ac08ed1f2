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
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import TrainingError

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
    text = _text_of(path)
    rows = _table(path, text) if path.suffix.lower() in (".tsv", ".csv") else _objects(path, text)
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
        texts = tuple(_text(row, name, place) for name in names)
        found.append(LabelledText(texts, _label(row, columns.label, place), place))
    return found


def label_order(labels: Collection[str], place: str) -> tuple[str, ...]:
    """Return the labels in the order of their ids: numbers by size, names by alphabet.

    Raises TrainingError, naming `place`, for labels that are measures, and when there is no choice among them.
    """
    if len(labels) < 2:
        raise TrainingError(
            f"{place}: all rows have the label {next(iter(labels), '')!r}; a classifier needs two or more"
        )
    if all(_WHOLE.fullmatch(label) for label in labels):
        return tuple(sorted(labels, key=int))
    if all(_is_number(label) for label in labels):
        raise _measure(place, next(label for label in labels if not _WHOLE.fullmatch(label)))
    return tuple(sorted(labels))


def _measure(place: str, label: object) -> TrainingError:
    return TrainingError(
        f"{place}: the label {label} is a measure; regression is not supported, labels must be names or whole numbers"
    )


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def _text_of(path: Path) -> str:
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise TrainingError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise TrainingError(f"{path}: line {line}: isn't UTF-8; save it as UTF-8") from error
    if not text.strip():
        raise TrainingError(f"{path}: is empty")
    return text


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


def _objects(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = path.suffix.lower() == ".jsonl"
    document = None if lines else _document(path, text)
    if document is None:
        rows = ((f"{path}: line {n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip())
        for place, line in rows:
            yield place, _object(_json(line, place), place)
    else:
        for number, row in enumerate(document, 1):
            place = f"{path}: row {number}"
            yield place, _object(row, place)


def _document(path: Path, text: str) -> list[Any] | None:
    """Return the rows of a document; None where the file holds an object a line."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        if not text.lstrip().startswith("{"):
            document = _json(text, str(path))  # which says what is wrong
        else:
            return None
    if isinstance(document, dict):
        document = document.get("data", [document])
    if not isinstance(document, list):
        raise TrainingError(f"{path}: must hold a list of objects, alone or as 'data', or an object a line")
    return document


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise TrainingError(f"{place}: isn't JSON: {error.msg}, {where}") from error
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{place}: isn't usable JSON: {error}") from error


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise TrainingError(f"{place}: is {_kind(row)}; expected an object with a text and its label")
    return row


def _text_columns(row: Mapping[str, Any], columns: Columns, place: str) -> tuple[str, ...]:
    """Return the columns that hold the texts. Raises TrainingError where they, or the label's, aren't there."""
    if columns.label not in row:
        raise _missing(row, columns.label, place, "--label_column_name names another")
    if columns.texts is not None:
        for name in columns.texts:
            if name not in row:
                raise _missing(row, name, place, "--input_column_names names others")
        return columns.texts
    others = [name for name in row if name != columns.label and name not in _NUMBERING]
    known = (*PAIRS, *((name,) for name in TEXTS), *((name,) for name in others if len(others) == 1))
    for names in known:
        if all(name in others for name in names):
            return names
    raise _missing(row, " or ".join(TEXTS), place, "--input_column_names a,b names others")


def _missing(row: Mapping[str, Any], name: str, place: str, remedy: str) -> TrainingError:
    held = ", ".join(map(str, row)) or "none"
    return TrainingError(f"{place}: there is no column {name}; the columns are {held}; {remedy}")


def _text(row: Mapping[str, Any], name: str, place: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise TrainingError(f"{place}: {name} is {_kind(value)}; expected text")
    return value


def _label(row: Mapping[str, Any], name: str, place: str) -> str:
    value = row.get(name)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if not value.is_integer():
            raise _measure(place, value)
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise TrainingError(f"{place}: {name} is {_kind(value)}; expected a name or a whole number")
    return value.strip()


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", int: "a number", float: "a number", bool: "true or false"}
    if value is None:
        return "missing"
    if isinstance(value, str):
        return "text" if value.strip() else "empty"
    return kinds.get(type(value), type(value).__name__)
