"""Choosing a version from a registry that is a folder of files behind a plain web server: the client chooses itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.errors import NotFoundError, ZooError
from zoo.stub import Stub

MARK = "static_registry"


def is_static(answer: object) -> bool:
    """Whether an answer is the mark of a folder of files."""
    return isinstance(answer, dict) and answer.get(MARK) == 1


def path_of(stub: Stub) -> str:
    """Where the folder holds a model's versions."""
    return f"/static/{stub.full_name.replace('/', '+')}.json"


def versions_in(document: object) -> list[Mapping[str, Any]]:
    """The versions in a model's file, the newest first."""
    found = document.get("versions") if isinstance(document, dict) else None
    return [version for version in found if isinstance(version, dict)] if isinstance(found, list) else []


def choose(document: object, stub: Stub) -> Mapping[str, Any]:
    """The version that a stub's pin names; raises `NotFoundError`."""
    versions = versions_in(document)
    for version in versions:
        tags = version.get("tags")
        pins = {f"v{version.get('version')}", version.get("digest"), *(tags if isinstance(tags, list) else ())}
        if (stub.pin or "latest") in pins:
            return version
    if versions and stub.pin in (None, "latest"):
        newest = f"v{versions[0].get('version')}"
        raise NotFoundError(
            f"all versions of zoo:{stub.full_name} are yanked; choose another model, or pin one to use it all the "
            f"same, such as {stub.pinned(newest)}. {newest}: {versions[0].get('yank_reason')}"
        )
    known = ", ".join(f"v{version.get('version')}" for version in versions)
    raise NotFoundError(f"zoo:{stub.full_name} has no {stub.pin or 'latest'}; it has {known or 'no version'}")


def matching(items: object, wanted: Mapping[str, object], limit: int) -> list[Any]:
    """The models that match a search: every word in name, alias or description, and every filter.

    Raises `ZooError` for a filter that such a folder can't answer: it holds no measurements.
    """
    if "latency_max_ms" in wanted:
        raise ZooError("a registry of plain files holds no measurements: leave the latency out, or ask a registry")
    rows = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return [item for item in rows if _matches(item, wanted)][:limit]


def _matches(item: Mapping[str, Any], wanted: Mapping[str, object]) -> bool:
    facts: Mapping[str, Any] = item.get("metadata") or {}
    text = f"{item.get('name')} {item.get('alias')} {facts.get('description')}".casefold()
    numbers = {
        "sparsity": facts.get("sparsity"),
        "f1": (facts.get("metrics") or {}).get("f1"),
        "size": item.get("size_bytes"),
    }
    for key, value in wanted.items():
        if key == "q":
            fits = all(word in text for word in str(value).casefold().split())
        elif key.endswith(("_min", "_max")):
            number = numbers[key[:-4]]
            fits = number is not None and (number >= value if key.endswith("_min") else number <= value)
        elif key == "license":
            fits = str(facts.get(key)).lower() == str(value).lower()
        else:
            fits = facts.get(key) == value
        if not fits:
            return False
    return True
