"""A registry as plain files, which any web server can serve and the client reads like a registry.

    api/v1/blobs/sha256:HEX          the blobs, under the path that a registry serves them at
    api/v1/static/NAME.json          all versions of a model, for each of its names; "/" is written "+"
    api/v1/models                    what a search without filters finds
    api/v1/names                     all models, also those whose versions are all yanked
    api/v1/resolve  api/v1/versions  a mark that tells the client to choose for itself

A web server ignores the query of a URL, so that the last three answer every question with the same file. They are
written last: before them the folder resolves nothing. What an earlier export wrote and this one doesn't name, since
it was deleted or became private, is removed after that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry import queries, version_queries
from registry.caller import ANYONE
from registry.errors import ExportError
from registry.progress import Report, Sizes, counted, silent
from registry.schemas import SearchIn, VersionView
from registry.service import Registry
from zoo.stub import PREFIX

MARK = {"static_registry": 1}
_NAMES = {"blobs", "static", "models", "names", "resolve", "versions"}
_PAGE = 100


@dataclass(frozen=True)
class StaticReport:
    """What a folder holds after an export."""

    models: int
    versions: int
    size_bytes: int


def export_static(registry: Registry, folder: Path, report: Report = silent) -> StaticReport:
    """Writes every public model into a folder; what is there already with the right size is left as it is.

    Raises `ExportError` if the folder can't be written or holds what no export writes, `DamagedBlobError` for a blob
    that is damaged.
    """
    base = folder / "api" / "v1"
    models, versions = 0, 0
    written, documents = dict[str, int](), set[str]()
    try:
        _check_ours(base)
        for name in ("blobs", "static"):
            (base / name).mkdir(parents=True, exist_ok=True)
        names = list(_names(registry))
        for stub in counted(names, report, "models", len(names)):
            views = [registry.resolve(f"{stub}@v{version.version}") for version in registry.versions(stub)]
            for view in views:
                written |= {file.sha256: file.size_bytes for file in view.files}
                _copy_blobs(registry, view, base / "blobs", report)
            document = json.dumps({"versions": [view.model_dump(mode="json") for view in views]}).encode()
            for name in _names_of(registry, stub):
                documents.add(f"{name.replace('/', '+')}.json")
                _write(base / "static" / f"{name.replace('/', '+')}.json", document)
            models, versions = models + 1, versions + len(views)
        _write(base / "models", json.dumps({**MARK, "items": list(_models(registry)), "next_cursor": None}).encode())
        _write(base / "names", json.dumps({**MARK, "items": names, "next_after": None}).encode())
        for name in ("versions", "resolve"):
            _write(base / name, json.dumps(MARK).encode())
        _prune((base / "static").glob("*.json"), documents)
        _prune((base / "blobs").glob("sha256:*"), written)
    except OSError as error:
        raise ExportError(f"{folder} can't be written: {error.strerror or error}") from error
    return StaticReport(models, versions, sum(written.values()))


def _check_ours(base: Path) -> None:
    """Refuses a folder in which files could be another program's, since what isn't written again is removed."""
    found = {path.name for path in base.iterdir()} if base.exists() else set()
    foreign = sorted(name for name in found - _NAMES if not name.startswith("."))
    if foreign:
        raise ExportError(f"{base} holds {foreign[0]}, which no export writes; export to an empty folder")


def _prune(found: Iterable[Path], kept: Container[str]) -> None:
    for path in found:
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _models(registry: Registry) -> Iterator[dict[str, Any]]:
    cursor = None
    while True:
        page = registry.search(SearchIn(limit=_PAGE, cursor=cursor), ANYONE)
        yield from (item.model_dump(mode="json") for item in page.items)
        cursor = page.next_cursor
        if cursor is None:
            return


def _names(registry: Registry) -> Iterator[str]:
    after = None
    while True:
        page = registry.names(ANYONE, after)
        yield from page.items
        after = page.next_after
        if after is None:
            return


def _names_of(registry: Registry, stub: str) -> list[str]:
    with registry.database.read() as session:
        model = queries.holder_of(session, stub.removeprefix(PREFIX))
        return list(version_queries.names_of(session, model.id)) if model else []


def _copy_blobs(registry: Registry, view: VersionView, folder: Path, report: Report) -> None:
    sizes = Sizes(report, "files", view.size_bytes)
    for file in view.files:
        target = folder / file.sha256
        if target.exists() and target.stat().st_size == file.size_bytes:
            continue
        with _fresh(target) as fresh, fresh.open("wb") as stream:
            for block in sizes.blocks(registry.blobs.read_whole(file.sha256, registry.blobs.size(file.sha256))):
                stream.write(block)


def _write(path: Path, data: bytes) -> None:
    with _fresh(path) as fresh:
        fresh.write_bytes(data)


@contextmanager
def _fresh(target: Path) -> Iterator[Path]:
    """A file of this process that becomes the target when it is whole, and is removed otherwise."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield fresh
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
