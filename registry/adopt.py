"""Versions of another registry, made versions of this one: the same number, bytes, time, tags and yanked state.

They pass the gate as new ones do; what their publisher said of the samples is kept. A version that is here is
never changed, and one that was deleted here stays deleted.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from registry import queries, version_queries
from registry.audit import OPERATOR, note
from registry.checks import check_version, write_report
from registry.errors import InvalidManifestError, VersionExistsError
from registry.publication import add_version, check_alias, check_blobs, parse_manifest
from registry.resolution import parse_tag
from registry.schemas import CheckView, Reason
from registry.service import Registry
from registry.tables import Version
from registry.views import name_of
from zoo.manifest import Digest, Manifest, NameText
from zoo.stub import PREFIX


class Adopted(StrEnum):
    """What became of a version."""

    ADDED = "added"
    KNOWN = "known"
    CHANGED = "changed"  # it was here, and is yanked now, or no longer
    DELETED = "deleted"  # here, and stays so


def _utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time lies outside the years 1 to 9999") from None


class VersionRecord(BaseModel):
    """A version as a registry tells of it: what `GET /resolve` answers, as far as it is needed here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Annotated[str, Field(max_length=512)]
    alias: NameText | None = None
    version: Annotated[int, Field(ge=1, le=999_999_999)]
    digest: Digest
    created_at: Annotated[AwareDatetime, AfterValidator(_utc)]
    tags: Annotated[list[str], Field(max_length=1_000)] = []
    yank_reason: Reason | None = None
    manifest: dict[str, Any]
    checks: Annotated[list[CheckView], Field(max_length=20_000)] = []

    def read_manifest(self) -> Manifest:
        """The manifest; raises `InvalidManifestError` if it isn't the one that the digest and name say."""
        manifest = parse_manifest(self.manifest)
        if manifest.digest() != self.digest or manifest.name != self.name:
            raise InvalidManifestError(f"{self.stub} comes with a manifest of another digest or name")
        return manifest

    @property
    def stub(self) -> str:
        """The version's own stub."""
        return f"{self.name}@v{self.version}"


def is_known(registry: Registry, record: VersionRecord) -> bool:
    """Whether the version itself is here, deleted or not; raises `VersionExistsError` for one with other bytes."""
    with registry.database.read() as session:
        return _known(session, record, record.read_manifest()) is not None


def check_record(registry: Registry, record: VersionRecord) -> str | None:
    """The gate's report on a version whose blobs are all here; None if the version itself is here.

    Raises `CheckError`, `InvalidManifestError`, or `VersionExistsError` for one that is here with other bytes.
    """
    manifest = record.read_manifest()
    check_alias(OPERATOR, manifest.name, manifest.alias or record.alias)
    if is_known(registry, record):
        return None
    with registry.database.read() as session:
        check_blobs(session, manifest, OPERATOR)
    registry.check_stored(manifest)
    said = next((check for check in record.checks if check.by == "publisher"), None)
    return write_report(check_version(manifest, registry.blobs.span, said))


def adopt(session: Session, record: VersionRecord, report: str | None, *, tags: bool) -> Adopted:
    """Makes the version visible when the transaction ends; `tags`: also those move that point elsewhere here.

    Raises `VersionExistsError`, `AliasTakenError`, or `MissingBlobsError`.
    """
    manifest = record.read_manifest()
    queries.lock_holder(session, manifest.full_name)
    version = _known(session, record, manifest)
    if version is not None and version.deleted_at is not None:
        return Adopted.DELETED
    outcome = Adopted.KNOWN
    if version is None:
        check_blobs(session, manifest, OPERATOR)
        version = add_version(session, manifest, record.version, OPERATOR, record.alias)
        version.created_at, version.check_report = record.created_at, report
        outcome = Adopted.ADDED
    if version.yank_reason != record.yank_reason:
        version.yank_reason = record.yank_reason
        version.yanked_at = None if record.yank_reason is None else datetime.now(UTC)
        session.flush()
        version_queries.refresh_latest(session, version.model_id, datetime.now(UTC))
        outcome = Adopted.CHANGED if outcome is Adopted.KNOWN else outcome
    for tag in record.tags:
        if tag != queries.LATEST and (tags or queries.version_by_tag(session, version.model_id, tag) is None):
            queries.move_tag(session, version, parse_tag(tag), datetime.now(UTC))
    if outcome is not Adopted.KNOWN:
        note(session, OPERATOR, outcome.value, name_of(version), record.yank_reason)
    return outcome


def _known(session: Session, record: VersionRecord, manifest: Manifest) -> Version | None:
    version = queries.version_by_digest(session, record.digest)
    if version is not None:
        if version.number != record.version:
            raise VersionExistsError(f"{record.stub} is {PREFIX}{name_of(version)} here already")
        return version
    model = queries.holder_of(session, manifest.full_name)
    if model is not None and queries.version_by_number(session, model.id, record.version) is not None:
        raise VersionExistsError(f"{record.stub} is here with other bytes; versions never change")
    return None
