"""A registry's JSON answers, read as what any server may have sent. Everything here raises `UnavailableError`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from zoo.errors import UnavailableError


def first_line(body: bytes) -> str:
    """The first non-empty line of a text, shortened and printable: enough to recognise a page by."""
    text = body[:4096].decode("utf-8", "replace")
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return ascii(line[:120])


def read_document(body: bytes, where: str) -> Any:
    """Decodes a JSON answer; the error shows the first line of anything else."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise UnavailableError(
            f"{where} doesn't answer as a registry does; its answer begins with {first_line(body)}. "
            "Check ZOO_ENDPOINT, and whether a proxy or a login page stands in between"
        ) from None


def object_of(answer: Any) -> dict[str, Any]:
    """The answer, if it is an object."""
    if not isinstance(answer, dict):
        raise UnavailableError("the registry's answer is no JSON object")
    return answer


def items_of(answer: Any) -> list[Any]:
    """The answer's list of items."""
    items = object_of(answer).get("items")
    if not isinstance(items, list):
        raise UnavailableError("the registry's answer has no list of items")
    return items


def text_in(answer: Mapping[str, Any], key: str) -> str:
    """A text of letters and digits, safe as a part of an address."""
    value = answer.get(key)
    if not isinstance(value, str) or not value.isalnum():
        raise UnavailableError(f"the registry's answer has no {key}")
    return value


def count_in(answer: Mapping[str, Any], key: str) -> int:
    """A number that isn't negative."""
    value = answer.get(key)
    if not isinstance(value, int) or value < 0:
        raise UnavailableError(f"the registry's answer has no {key}")
    return value
