"""Versions of another registry into this one: what is missing, verified, one version after the other.

Each version becomes visible by itself, so that a mirror that was cut off goes on where it stood. Tags and yanked state
follow the other registry. What was deleted there is yanked here, so that nobody takes it anew and who pinned it still
has it, or deleted here too; that concerns only what came from elsewhere, since the other registry is not to decide on
what was published here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from registry import queries, retire
from registry.adopt import Adopted, VersionRecord, adopt, check_record, is_known
from registry.audit import OPERATOR, was_noted
from registry.errors import InvalidRequestError, TakenError, UnknownModelError
from registry.progress import Report, silent
from registry.queries import LATEST
from registry.schemas import VersionSummary
from registry.service import Registry
from zoo.errors import IntegrityError, ManifestError, NotFoundError
from zoo.manifest import Manifest
from zoo.stub import PREFIX

_DELETED = "deleted in the registry that it came from: "
_MAX_REASON = 900  # with that, a reason's 1,024 characters aren't exceeded


class Source(Protocol):
    """The other registry. Names are stubs without a pin; documents are what its API answers."""

    def names(self, prefixes: Sequence[str]) -> Iterator[str]:
        """Its models."""

    def versions(self, name: str) -> Sequence[Mapping[str, Any]]:
        """A model's versions without their manifests, the oldest first; none if it isn't there."""

    def version(self, stub: str) -> Mapping[str, Any]:
        """A version with its manifest."""

    def deletion(self, stub: str) -> str | None:
        """Why a version was deleted; None if it wasn't, or isn't known there."""

    def files(self, manifest: Manifest, digests: Collection[str]) -> Iterator[tuple[str, Path]]:
        """Those of a version's files, each there until the next is asked for."""


@dataclass
class MirrorReport:
    """What came of it; `size_bytes` is what came in.

    `deleted` counts versions that were deleted there, and are yanked or deleted here now. `refused` tells of each
    version that can't be taken or deleted, and why.
    """

    added: int = 0
    changed: int = 0
    deleted: int = 0
    known: int = 0
    size_bytes: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def mirror(
    registry: Registry, source: Source, prefixes: Sequence[str] = (), report: Report = silent, *, delete: bool = False
) -> MirrorReport:
    """Copies what is missing of the models whose names begin with one of the prefixes, or of all.

    `delete`: what was deleted there is deleted here, rather than yanked.
    A version that can't be taken is told of, and the others go on. Raises what the source raises where it can't be
    reached; running it again goes on from there.
    """
    result, outcomes = MirrorReport(), Counter[Adopted]()
    names = dict.fromkeys(chain(source.names(prefixes), _own_names(registry, prefixes)))
    for place, name in enumerate(names):
        report("models", place, len(names))
        here, there = _versions_here(registry, name), source.versions(name)
        for document in there:
            stub = f"{name}@v{document['version']}"
            if _is_current(document, here.get(document["version"])):
                outcomes[Adopted.KNOWN] += 1
                continue
            with _refusals(result, stub):
                outcomes[_take(registry, source, stub, result)] += 1
        for number in sorted(here.keys() - {document["version"] for document in there}):
            with _refusals(result, f"{name}@v{number}"):
                result.deleted += _follow_deletion(registry, source, here[number], delete=delete)
    result.added, result.changed = outcomes[Adopted.ADDED], outcomes[Adopted.CHANGED]
    result.known = outcomes[Adopted.KNOWN] + outcomes[Adopted.DELETED]
    return result


@contextmanager
def _refusals(result: MirrorReport, stub: str) -> Iterator[None]:
    """Notes why nothing can be done with a version; one that was deleted since it was listed is passed over."""
    try:
        yield
    except NotFoundError:
        return
    except (InvalidRequestError, TakenError, IntegrityError, ManifestError, ValidationError) as error:
        result.refused[stub] = (str(error).splitlines() or [""])[0]


def _follow_deletion(registry: Registry, source: Source, here: VersionSummary, *, delete: bool) -> bool:
    """Yanks or deletes a version that isn't there any more, if the other registry says that it was deleted."""
    stub, told = f"{here.name}@v{here.version}", here.yank_reason or ""
    if (told.startswith(_DELETED) and not delete) or not _came_from_elsewhere(registry, stub):
        return False
    said = source.deletion(f"{here.name}@{here.digest}")
    if said is None:
        return False
    reason = "".join(char if char.isprintable() else " " for char in said)[:_MAX_REASON] or "no reason was given"
    if delete:
        retire.delete(registry, stub, reason, OPERATOR)
    else:
        retire.yank(registry, stub, _DELETED + reason, OPERATOR)
    return True


def _came_from_elsewhere(registry: Registry, stub: str) -> bool:
    with registry.database.read() as session:
        return was_noted(session, Adopted.ADDED.value, stub.removeprefix(PREFIX))


def _take(registry: Registry, source: Source, stub: str, result: MirrorReport) -> Adopted:
    record = VersionRecord.model_validate(source.version(stub))
    if not is_known(registry, record):
        manifest = record.read_manifest()
        missing = registry.blobs.missing((entry.sha256 for entry in manifest.files), OPERATOR)
        for digest, path in source.files(manifest, missing):
            with path.open("rb") as stream, registry.blobs.received(stream, digest) as file:
                registry.blobs.keep(file, digest, OPERATOR)
            result.size_bytes += file.size_bytes
    checked = check_record(registry, record)
    return registry.database.write(lambda session: adopt(session, record, checked, tags=True))


def _versions_here(registry: Registry, name: str) -> dict[int, VersionSummary]:
    try:
        return {version.version: version for version in registry.versions(name, OPERATOR)}
    except UnknownModelError:
        return {}


def _is_current(document: Mapping[str, Any], here: VersionSummary | None) -> bool:
    """Whether a version is here with the yanked state and the tags that it has there."""
    if here is None or (here.digest, here.yank_reason) != (document["digest"], document.get("yank_reason")):
        return False
    return set(document.get("tags") or ()) - {LATEST} <= set(here.tags)


def _own_names(registry: Registry, prefixes: Sequence[str]) -> Iterator[str]:
    """Models here: a folder of plain files doesn't name one whose versions were all deleted."""
    beginnings = tuple(prefix.removeprefix(PREFIX) for prefix in prefixes)
    with registry.database.read() as session:
        names = queries.all_model_names(session)
    yield from (PREFIX + name for name in names if not beginnings or name.startswith(beginnings))
