"""Versions and models as the API tells of them."""

from __future__ import annotations

import json

from sqlalchemy.orm import Session

from registry import queries
from registry.checks import read_report
from registry.schemas import FileView, ModelSummary, VersionSummary, VersionView
from registry.tables import Version
from zoo.manifest import Metadata, Role
from zoo.stub import PREFIX


def name_of(version: Version) -> str:
    """The version's own name, NAME@v1: its stub without the prefix, and what the audit log says."""
    return f"{version.model.full_name}@v{version.number}"


def version_summary(version: Version, tags: list[str]) -> VersionSummary:
    """A version without its manifest."""
    return VersionSummary(
        name=PREFIX + version.model.full_name,
        alias=version.alias,
        version=version.number,
        private=version.model.private,
        digest=version.digest,
        tags=tags,
        created_at=version.created_at,
        size_bytes=version.size_bytes,
        yank_reason=version.yank_reason,
    )


def version_view(session: Session, version: Version, role: Role | None = None) -> VersionView:
    """A version with its manifest, and its files, all or those of a role."""
    summary = version_summary(version, queries.tags_of(session, [version.id])[version.id])
    document = json.loads(version.manifest)
    files = [
        FileView(**entry, url=f"/api/v1/blobs/{entry['sha256']}")
        for entry in document["files"]
        if role is None or entry["role"] == role
    ]
    checks = read_report(version.check_report)
    return VersionView(**summary.model_dump(mode="python"), manifest=document, files=files, checks=checks)


def model_summary(version: Version, tags: list[str]) -> ModelSummary:
    """A model by its latest version."""
    return ModelSummary(
        name=PREFIX + version.model.full_name,
        alias=version.alias,
        latest_version=version.number,
        private=version.model.private,
        digest=version.digest,
        tags=tags,
        metadata=Metadata.model_validate(json.loads(version.manifest)["metadata"]),
        size_bytes=version.size_bytes,
        updated_at=version.created_at,
    )
