"""How a manifest becomes a version: what is checked before, and the rows that make it visible."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from registry import blob_queries, queries, scopes, version_queries
from registry.caller import Caller, scope_of
from registry.errors import (
    AliasTakenError,
    InvalidManifestError,
    InvalidSizeError,
    MissingBlobsError,
    VersionExistsError,
)
from registry.lineage import lineage_of
from registry.resolution import check_may_write
from registry.tables import File, Model, Version
from zoo.errors import ManifestError
from zoo.manifest import Manifest
from zoo.stub import PREFIX

_COLUMNS = ("domain", "task", "architecture", "dataset", "license", "pattern", "quantized", "sparsity")


def parse_manifest(document: dict[str, object]) -> Manifest:
    """A manifest; raises `InvalidManifestError` naming the field."""
    try:
        return Manifest.parse(document)
    except ManifestError as error:
        raise InvalidManifestError(str(error)) from None


def check_alias(caller: Caller, name: str, alias: str | None) -> None:
    """Raises `ForbiddenError` or `InvalidManifestError` for an alias that the caller may not give this model."""
    if alias is None:
        return
    short_name = alias.removeprefix(PREFIX)
    check_may_write(caller, short_name)
    if scope_of(short_name) != scope_of(name.removeprefix(PREFIX)):
        raise InvalidManifestError(f"the alias {alias} lies in another scope than {name}")


def check_blobs(session: Session, manifest: Manifest, caller: Caller) -> None:
    """Raises `MissingBlobsError` or `InvalidSizeError` unless each blob is recorded, and there for the caller."""
    digests = list(dict.fromkeys(entry.sha256 for entry in manifest.files))
    sizes = blob_queries.blob_sizes(session, blob_queries.readable(session, digests, caller))
    refuse_missing([digest for digest in digests if digest not in sizes])
    for entry in manifest.files:
        if sizes[entry.sha256] != entry.size_bytes:
            actual = sizes[entry.sha256]
            raise InvalidSizeError(f"{entry.path!r} has {actual} bytes, the manifest says {entry.size_bytes}")


def refuse_missing(missing: list[str]) -> None:
    """Raises `MissingBlobsError` if there are any."""
    if missing:
        raise MissingBlobsError(
            f"{len(missing)} of the manifest's blobs aren't here; upload them, then publish again", missing=missing
        )


def _claim(session: Session, manifest: Manifest, alias: str | None, caller: Caller) -> Model:
    """The manifest's model with its alias, made if they are new; raises `AliasTakenError`."""
    model = queries.lock_holder(session, manifest.full_name)
    if model is None:
        private = scopes.is_private(session, manifest.full_name)
        model = queries.add_model(session, manifest.full_name, datetime.now(UTC), private=private)
    elif model.full_name != manifest.full_name:
        raise _taken(manifest.name, model, caller)
    if alias:
        short_name = alias.removeprefix(PREFIX)
        holder = queries.holder_of(session, short_name)
        if holder is None:
            queries.add_name(session, model, short_name)
        elif holder.id != model.id:
            raise _taken(alias, holder, caller)
    return model


def _taken(name: str, holder: Model, caller: Caller) -> AliasTakenError:
    if not caller.may_read(holder.full_name, private=holder.private):
        return AliasTakenError(f"the name {name} is taken; choose another")
    owner = PREFIX + holder.full_name
    return AliasTakenError(f"the name {name} belongs to {owner} already; choose another", holder=owner)


def add_version(
    session: Session, manifest: Manifest, number: int | None, caller: Caller, alias: str | None = None
) -> Version:
    """A new version, with its files, lineage and listing; raises `VersionExistsError`, `AliasTakenError`.

    Without an alias, here and in the manifest, it keeps the one that the model has.
    """
    alias = manifest.alias or alias
    model = _claim(session, manifest, alias, caller)
    newest = queries.newest_number(session, model.id)
    if number is not None and queries.version_by_number(session, model.id, number):
        raise VersionExistsError(f"{manifest.name} has a v{number} with another manifest; versions never change")
    facts, now = manifest.metadata, datetime.now(UTC)
    version = Version(
        model=model,
        number=number or newest + 1,
        digest=manifest.digest(),
        manifest=manifest.to_json(),
        size_bytes=manifest.size_bytes,
        created_at=now,
        alias=alias or queries.alias_of(session, model.id),
        **{name: getattr(facts, name) for name in _COLUMNS},
    )
    session.add(version)
    session.flush()
    session.add_all(
        File(version_id=version.id, path=entry.path, digest=entry.sha256, size_bytes=entry.size_bytes, role=entry.role)
        for entry in manifest.files
    )
    session.flush()
    version_queries.add_lineage(session, version, lineage_of(manifest))
    version_queries.refresh_latest(session, model.id, now)
    return version
