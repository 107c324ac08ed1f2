"""Files of rows, as texts and JSON hold them: what the readers of labelled data share.

Errors are TrainingErrors that name the place: the file, and the line or the number of the row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo.errors import TrainingError


def read_text(path: Path) -> str:
    """Return what a file holds. Raises TrainingError where it can't be read, isn't UTF-8, or is empty."""
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


def json_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object of a list, alone or as "data" of an object, or of a line, with its place.

    `text`: what the file `path` holds. Raises TrainingError where it is no such JSON.
    """
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
        raise TrainingError(f"{place}: is {kind_of(row)}; expected an object of named columns")
    return row


def missing_column(row: Mapping[str, Any], name: str, place: str, remedy: str) -> TrainingError:
    """Return the error of a column that a row lacks; `remedy` says what to do."""
    held = ", ".join(map(str, row)) or "none"
    return TrainingError(f"{place}: there is no column {name}; the columns are {held}; {remedy}")


def text_of(value: object, name: str, place: str) -> str:
    """Return the text that a column holds. Raises TrainingError where it is none."""
    if not isinstance(value, str):
        raise TrainingError(f"{place}: {name} is {kind_of(value)}; expected text")
    return value


def label_of(value: object, name: str, place: str) -> str:
    """Return a label as text. Raises TrainingError where it is neither a name nor a whole number."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if not value.is_integer():
            raise measure_error(place, value)
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise TrainingError(f"{place}: {name} is {kind_of(value)}; expected a name or a whole number")
    return value.strip()


def measure_error(place: str, label: object) -> TrainingError:
    """Return the error of a label that isn't one of several, but says how much."""
    return TrainingError(
        f"{place}: the label {label} is a measure; regression is not supported, labels must be names or whole numbers"
    )


def kind_of(value: object) -> str:
    """Return how messages call a value that was not expected."""
    kinds = {dict: "an object", list: "a list", int: "a number", float: "a number", bool: "true or false"}
    if value is None:
        return "missing"
    if isinstance(value, str):
        return "text" if value.strip() else "empty"
    return kinds.get(type(value), type(value).__name__)
