"""Answers as a person reads them on the server's page: HTML that is safe whatever the texts hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

_MOST_ROWS = 500
_MOST_CHARACTERS = 20_000


def shown(task: str, answer: Mapping[str, Any], fields: Mapping[str, str]) -> str:
    """Return the HTML of what a task's pipeline answered to a form's fields."""
    show = _SHOWN.get(task)
    if show is not None:
        return show(answer, fields)
    return f"<pre>{escape(json.dumps(answer, indent=1, ensure_ascii=False)[:_MOST_CHARACTERS])}</pre>"


def _answer(answer: Mapping[str, Any], fields: Mapping[str, str]) -> str:
    said = escape(answer["answer"]) or "no answer"
    marked = _marked(fields["context"], [(answer["start"], answer["end"], "")])
    return f'<p class="answer">{said}</p><p>score {answer["score"]:.3f}</p>{marked}'


def _entities(answer: Mapping[str, Any], fields: Mapping[str, str]) -> str:
    found = answer["predictions"][0]
    if not found:
        return '<p class="answer">nothing found</p>'
    marked = _marked(fields["inputs"], [(row["start"], row["end"], row["entity"]) for row in found[:_MOST_ROWS]])
    cells = ([row["entity"], row["word"], f"{row['start']}-{row['end']}", row["score"]] for row in found[:_MOST_ROWS])
    more = f"<p>and {len(found) - _MOST_ROWS} more</p>" if len(found) > _MOST_ROWS else ""
    return marked + _table(("entity", "word", "characters", "score"), cells) + more


def _labels(answer: Mapping[str, Any], _fields: Mapping[str, str]) -> str:
    labels, scores = answer["labels"], answer["scores"]
    if isinstance(labels[0], list):
        labels, scores = labels[0], scores[0]
    return _table(("label", "score"), zip(labels, scores, strict=True))


def _marked(text: str, spans: Iterable[tuple[int, int, str]]) -> str:
    """Mark spans of characters, in order, with their names; where two meet in one character, the first has it."""
    parts, reached = [], 0
    for start, end, name in spans:
        start = max(start, reached)
        if start < end:
            small = f" <small>{escape(name)}</small>" if name else ""
            parts.append(f"{escape(text[reached:start])}<mark>{escape(text[start:end])}{small}</mark>")
            reached = end
    return f'<p class="context">{"".join(parts)}{escape(text[reached:])}</p>'


def _table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    return f"<td>{value:.3f}</td>" if isinstance(value, float) else f"<td>{escape(str(value))}</td>"


_SHOWN: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, str]], str]] = {
    "question_answering": _answer,
    "text_classification": _labels,
    "token_classification": _entities,
    "zero_shot_text_classification": _labels,
}
