"""SQuAD files: the nested form of v1.1 and v2.0, and the flat form of the Hugging Face example scripts.

    nested  {"data": [{"paragraphs": [{"context", "qas": [{"id", "question", "answers": [...]}]}]}]}
    flat    {"data": [{"id", "question", "context", "answers": {"text": [...], "answer_start": [...]}}]}

Answers may stand in either form in both: a list of {"text", "answer_start"}, or two lists. Where they are
missing, the example has none. Offsets count Unicode characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from zoo.errors import TrainingError

_T = TypeVar("_T")
_KINDS = {str: "text", list: "a list", dict: "an object", int: "a whole number"}


@dataclass(frozen=True, slots=True)
class Example:
    """A question on a context. `answers` are (text, start): `context[start:start + len(text)] == text`."""

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]


class _RowError(Exception):
    """What is wrong, and at which place in the document."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")


def read_squad(path: Path | str) -> list[Example]:
    """Read and check a SQuAD file, nested or flat.

    Raises TrainingError naming the file and the row: not readable, not UTF-8, not JSON, a missing or
    mistyped field, an answer that isn't where its offset says, an id used twice, or no question at all.
    """
    path = Path(path)
    document = _read_json(path)
    try:
        examples = _checked(document)
    except _RowError as error:
        raise TrainingError(f"{path}: {error}") from None
    if not examples:
        raise TrainingError(f"{path}: holds no questions; expected them under data[].paragraphs[].qas[] or data[]")
    return examples


def _read_json(path: Path) -> object:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TrainingError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path}: isn't UTF-8 (byte {error.start}); save it as UTF-8") from error
    if not text.strip():
        raise TrainingError(f"{path}: is empty")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise TrainingError(f"{path}: isn't JSON: {error.msg}, line {error.lineno} column {error.colno}") from error
    except (RecursionError, ValueError) as error:
        raise TrainingError(f"{path}: isn't usable JSON: {error}") from error


def _checked(document: object) -> list[Example]:
    seen: dict[str, str] = {}
    examples = []
    for place, example in _examples(document):
        if example.id in seen:
            raise _RowError(place, f"id {example.id!r} stands already at {seen[example.id]}")
        seen[example.id] = place
        examples.append(example)
    return examples


def _examples(document: object) -> Iterator[tuple[str, Example]]:
    if not isinstance(document, dict):
        raise _RowError("top", f"is {_kind(document)}; expected an object with a list 'data'")
    for number, article in enumerate(_field(document, "data", list, "top")):
        place = f"data[{number}]"
        row = _typed(article, dict, place)
        if "paragraphs" in row:
            yield from _paragraphs(row, place)
        else:
            yield place, _example(row, _field(row, "context", str, place), place)


def _paragraphs(article: dict[str, object], place: str) -> Iterator[tuple[str, Example]]:
    for number, value in enumerate(_field(article, "paragraphs", list, place)):
        inner = f"{place}.paragraphs[{number}]"
        paragraph = _typed(value, dict, inner)
        context = _field(paragraph, "context", str, inner)
        for index, question in enumerate(_field(paragraph, "qas", list, inner)):
            row = f"{inner}.qas[{index}]"
            yield row, _example(_typed(question, dict, row), context, row)


def _example(row: dict[str, object], context: str, place: str) -> Example:
    key = row.get("id")
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    return Example(
        id=_typed(key, str, f"{place}.id"),
        question=_field(row, "question", str, place),
        context=context,
        answers=_answers(row.get("answers", []), context, f"{place}.answers"),
    )


def _answers(value: object, context: str, place: str) -> tuple[tuple[str, int], ...]:
    if isinstance(value, dict):
        texts, starts = _field(value, "text", list, place), _field(value, "answer_start", list, place)
        if len(texts) != len(starts):
            raise _RowError(place, f"{len(texts)} texts but {len(starts)} starts")
        value = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    rows = enumerate(_typed(value, list, place))
    return tuple(_answer(_typed(row, dict, f"{place}[{i}]"), context, f"{place}[{i}]") for i, row in rows)


def _answer(row: dict[str, object], context: str, place: str) -> tuple[str, int]:
    text, start = _field(row, "text", str, place), _field(row, "answer_start", int, place)
    if not text:
        raise _RowError(place, "the answer's text is empty; leave 'answers' empty where there is none")
    if start < 0 or start + len(text) > len(context):
        raise _RowError(place, f"answer_start {start} lies outside of the context ({len(context)} characters)")
    found = context[start : start + len(text)]
    if found != text:
        raise _RowError(place, f"at {start} the context says {found[:40]!r}, not {text[:40]!r}")
    return text, start


def _field(row: dict[str, object], name: str, kind: type[_T], place: str) -> _T:
    if name not in row:
        raise _RowError(place, f"has no {name!r}")
    return _typed(row[name], kind, f"{place}.{name}")


def _typed(value: object, kind: type[_T], place: str) -> _T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _RowError(place, f"is {_kind(value)}; expected {_KINDS[kind]}")
    return value


def _kind(value: object) -> str:
    return "missing" if value is None else _KINDS.get(type(value), type(value).__name__)
