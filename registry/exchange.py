"""Versions from one registry to another where no network leads: a bundle of some or all of them, in one file.

    bundle.json       how many versions and blobs
    blobs/HEX         each blob, verified on its way out and in
    versions.jsonl    one version a line, as `GET /resolve` tells of it; last, after all that it needs

The other registry may have models of its own. What is there already is left as it is, so that importing a bundle
again changes nothing. Versions that the gate refuses, published before there was one, are left out and named; all
others of a bundle come in, or none.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from pydantic import ValidationError
from sqlalchemy.orm import Session

from registry import queries
from registry.adopt import Adopted, VersionRecord, adopt, check_record
from registry.audit import OPERATOR
from registry.errors import BundleError, CheckError, UnknownModelError
from registry.progress import Report, counted, silent
from registry.resolution import parse_stub
from registry.service import Registry
from registry.tar import add_blobs, add_file, digest_of_entry, reading, writing
from zoo.stub import PREFIX

FORMAT = 1
_HEAD = {"model_bundle": int, "versions": int, "blobs": int}
_VERSIONS = "versions.jsonl"
_MAX_LINE_BYTES = 64 << 20


@dataclass(frozen=True)
class ExchangeReport:
    """What went into a bundle, or came out of one.

    `added` counts versions that weren't here, `changed` yanked ones; `refused` tells of those left out, and why.
    """

    versions: int
    blobs: int
    size_bytes: int
    added: int = 0
    changed: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def export_bundle(registry: Registry, path: Path, stubs: Sequence[str] = (), report: Report = silent) -> ExchangeReport:
    """Writes versions and their blobs into one file: all, or those that the stubs name, private ones too.

    A stub with a pin names one version, one without all of its model. Raises `UnknownModelError`,
    `UnknownVersionError`, `DamagedBlobError`, or `BundleError` if the file can't be written.
    """
    wanted = list(dict.fromkeys(_wanted(registry, stubs)))
    if not wanted:
        raise UnknownModelError("this registry has no version to export")
    with tempfile.TemporaryFile() as lines:
        sizes = dict[str, int]()
        for stub in counted(wanted, report, "versions", len(wanted)):
            view = registry.resolve(stub, caller=OPERATOR)
            sizes |= {file.sha256: file.size_bytes for file in view.files}
            lines.write(view.model_dump_json(exclude={"files"}).encode() + b"\n")
        head = {"model_bundle": FORMAT, "versions": len(wanted), "blobs": len(sizes)}
        with writing(path, head) as tar:
            size_bytes = add_blobs(tar, registry.blobs, sizes, report)
            size = lines.tell()
            lines.seek(0)
            add_file(tar, _VERSIONS, lines, size)
    return ExchangeReport(len(wanted), len(sizes), size_bytes)


def import_bundle(registry: Registry, path: Path, report: Report = silent) -> ExchangeReport:
    """Takes in every version of a bundle that the gate lets through, or none; what is here already stays.

    Raises `BundleError` for a file that is no whole bundle, `VersionExistsError` for a version that is here with other
    bytes, and `AliasTakenError`. Blobs that no version came for are swept later.
    """
    count, size_bytes, checked = 0, 0, list[_Checked]()
    with reading(path, _HEAD, report) as (head, entries):
        if head["model_bundle"] != FORMAT:
            raise BundleError(f"the bundle has the format {head['model_bundle']!a}, this program reads {FORMAT}")
        for name, stream in entries:
            digest = digest_of_entry(name)
            if digest is not None:
                with registry.blobs.received(stream, digest) as file:
                    registry.blobs.keep(file, digest, OPERATOR)
                count, size_bytes = count + 1, size_bytes + file.size_bytes
            elif name == _VERSIONS and not checked:
                records = counted(_records(stream), report, "versions", head["versions"])
                checked = [_check(registry, record) for record in records]
            else:
                raise BundleError(f"the bundle holds {name[:100]!a}, which belongs in none")
    if (count, len(checked)) != (head["blobs"], head["versions"]):
        raise BundleError("the bundle is cut off: it holds less than it says; nothing was imported")
    outcomes = registry.database.write(partial(_adopt_all, path=path, checked=checked))
    refused = {version.stub: version.refusal for version in checked if version.refusal}
    return ExchangeReport(len(checked), count, size_bytes, outcomes[Adopted.ADDED], outcomes[Adopted.CHANGED], refused)


class _Checked(NamedTuple):
    """A version's report of the gate, None where it is here already, or what the gate refuses of it."""

    stub: str
    report: str | None
    refusal: str | None = None


def _check(registry: Registry, record: VersionRecord) -> _Checked:
    try:
        return _Checked(record.stub, check_record(registry, record))
    except CheckError as error:
        return _Checked(record.stub, None, str(error))


def _adopt_all(session: Session, *, path: Path, checked: list[_Checked]) -> Counter[Adopted]:
    outcomes = Counter[Adopted]()
    with reading(path, _HEAD) as (_, entries):
        for name, stream in entries:
            if name == _VERSIONS:
                for record, (_, report, refusal) in zip(_records(stream), checked, strict=True):
                    if refusal is None:
                        outcomes[adopt(session, record, report, tags=False)] += 1
    return outcomes


def _records(stream: IO[bytes]) -> Iterator[VersionRecord]:
    while line := stream.readline(_MAX_LINE_BYTES):
        try:
            yield VersionRecord.model_validate(json.loads(line))
        except (ValidationError, ValueError, RecursionError) as error:
            first = (str(error).splitlines() or [""])[0]
            raise BundleError(f"a version in the bundle can't be read: {first}") from None


def _wanted(registry: Registry, stubs: Sequence[str]) -> Iterator[str]:
    """The stubs of single versions, a model's oldest first."""
    if not stubs:
        with registry.database.read() as session:
            rows = queries.all_versions(session)
        yield from (f"{PREFIX}{name}@v{number}" for name, number in rows)
    for text in stubs:
        if parse_stub(text).pin is None:
            yield from (f"{v.name}@v{v.version}" for v in reversed(registry.versions(text, OPERATOR)))
        else:
            view = registry.resolve(text, caller=OPERATOR)
            yield f"{view.name}@v{view.version}"
