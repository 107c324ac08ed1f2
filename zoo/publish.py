"""From a folder to a version in a registry: files first, the version last, so that it is visible whole or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from zoo.benchmark import BenchmarkRecord, this_hardware
from zoo.client import RegistryClient
from zoo.disk import hash_file
from zoo.errors import AccessError, IntegrityError, StubError, ZooError
from zoo.layout import Layout, LeftOut, LocalFile, read_layout
from zoo.manifest import FileEntry, Manifest
from zoo.problems import MissingBlobsError, TooLargeError
from zoo.progress import Meter, Progress
from zoo.replay import replay
from zoo.settings import Settings
from zoo.stub import PREFIX, Stub, is_tag
from zoo.upload import upload_blob
from zoo.version import BenchmarkView, CheckView, VersionView


@dataclass(frozen=True)
class PublishedVersion:
    """What was published. `created` is False where this very version was there already."""

    stub: Stub
    version: int
    digest: str
    created: bool
    uploaded_bytes: int
    checks: tuple[CheckView, ...]
    skipped: tuple[LeftOut, ...]


def publish(
    folder: str | Path,
    stub: str | Stub,
    *,
    tags: Iterable[str] = (),
    alias: str | Stub | None = None,
    skip_replay: str | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> PublishedVersion:
    """Publishes a model folder under a stub, uploading only files that the registry lacks.

    `zoo.layout` tells which files belong to it; `skipped` lists the others. The stub may carry a version number, which
    must then be free or hold the same files, or a tag; `tags` are moved to the version, `latest` always is.
    Publishing the same folder again changes nothing. The model's samples are run first (`zoo.replay`), unless
    `skip_replay` says why not; the reason is kept with the version. Raises `StubError`, `ManifestError`, `CheckError`
    (files that the model can't be published with), `AccessError`, `ConflictError`, `IntegrityError` (a file changed
    meanwhile), `UnavailableError`.
    """
    settings = settings or Settings.load()
    target, wanted_tags = _target(stub, tags)
    short_name = None if alias is None else _short_name(str(alias))
    settings.check_online(f"publish {target}")
    layout = read_layout(Path(folder), target)
    with RegistryClient(settings) as client:
        _check_rights(client)
        before = _fingerprints(layout)
        replayed = replay(layout, skip_replay, progress)
        samples = replayed.as_document() if replayed else None
        manifest = _manifest(layout, target, short_name, progress)
        sources = {entry.sha256: file for entry, file in zip(manifest.files, layout.files, strict=True)}
        missing = client.blobs.missing(sorted(sources))
        uploaded_bytes = _upload(client, manifest, missing, sources, progress)
        _refuse_changes(before, _fingerprints(layout))
        try:
            view, created = client.post_version(manifest, wanted_tags, target.version, samples)
        except MissingBlobsError as error:  # swept between the question and the version
            uploaded_bytes += _upload(client, manifest, frozenset(error.digests), sources, progress)
            view, created = client.post_version(manifest, wanted_tags, target.version, samples)
    return _published(view, created, uploaded_bytes, layout)


class Measured(Protocol):
    """What a benchmark reports: times of single runs in milliseconds, each of `batch_size` items."""

    @property
    def engine(self) -> str: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def sequence_length(self) -> int: ...  # noqa: D102
    @property
    def num_cores(self) -> int | None: ...  # noqa: D102
    @property
    def seconds(self) -> float: ...  # noqa: D102
    @property
    def iterations(self) -> int: ...  # noqa: D102
    @property
    def items_per_second(self) -> float: ...  # noqa: D102
    @property
    def median_ms(self) -> float: ...  # noqa: D102
    @property
    def percentiles_ms(self) -> Mapping[str, float]: ...  # noqa: D102


def publish_benchmark(stub: str | Stub, measured: Measured, *, settings: Settings | None = None) -> BenchmarkView:
    """Adds what was measured on this machine to the version that the stub names.

    Raises `StubError`, `AccessError`, `NotFoundError`, `UnavailableError`.
    """
    hardware = this_hardware()
    record = BenchmarkRecord(
        hardware=hardware,
        engine=measured.engine,
        threads=measured.num_cores or hardware.cores,
        batch_size=measured.batch_size,
        sequence_length=measured.sequence_length,
        iterations=measured.iterations,
        seconds=measured.seconds,
        items_per_second=measured.items_per_second,
        median_ms=measured.median_ms,
        percentiles_ms=dict(measured.percentiles_ms),
        measured_at=datetime.now(UTC),
    )
    with RegistryClient(settings or Settings.load()) as client:
        return client.post_benchmark(stub if isinstance(stub, Stub) else Stub.parse(stub), record)


def _check_rights(client: RegistryClient) -> None:
    """Raises `AccessError` before anything is hashed or uploaded rather than after."""
    who = client.whoami()
    if who.get("may_write") is False:
        given = f"from the token {who['name']!r}, which only reads" if who.get("name") else "without a token"
        raise AccessError(
            f"the registry {client.endpoint} takes no files {given}; run `zoo auth login` or set ZOO_TOKEN"
        )


def _target(stub: str | Stub, tags: Iterable[str]) -> tuple[Stub, list[str]]:
    target = stub if isinstance(stub, Stub) else Stub.parse(stub)
    if target.query or target.is_digest:
        raise StubError(str(target), 1, "a version is published under a name, with a version number or tag at most")
    wanted = list(tags)
    if target.pin and target.version is None:
        wanted.append(target.pin)
    for tag in wanted:
        if not is_tag(tag):
            raise ZooError(f"{tag!a} is no tag: a-z 0-9 . _ - and not like v3, which numbers a version")
    return target, sorted(set(wanted) - {"latest"})


def _short_name(alias: str) -> str:
    """The alias as manifests have it; raises `StubError`."""
    try:
        stub = Stub.parse(alias)
    except StubError as error:
        reason = error.reason if Stub.is_stub(alias) else f"an alias starts with {PREFIX!r}, such as {PREFIX}mini"
        raise StubError(alias, error.column, f"it is to be an alias, and {reason}") from None
    if stub.pin or stub.query:
        raise StubError(alias, 1, "it is to be an alias, and an alias has neither pin nor query")
    return str(stub)


def _manifest(layout: Layout, target: Stub, alias: str | None, progress: Progress | None) -> Manifest:
    sizes = {file.source: file.source.stat().st_size for file in layout.files}
    meter = Meter("hash", sum(sizes.values()), progress)
    digests: dict[Path, str] = {}
    for source, size_bytes in sizes.items():
        with meter.file(source.name, size_bytes):
            digests[source] = hash_file(source)
    files = [
        {"path": file.path, "sha256": digests[file.source], "size_bytes": sizes[file.source], "role": file.role}
        for file in layout.files
    ]
    return Manifest.parse(
        {
            "name": f"zoo:{target.full_name}",
            "alias": alias,
            "files": files,
            "metadata": layout.metadata.model_dump(exclude_none=True),
        }
    )


def _upload(
    client: RegistryClient,
    manifest: Manifest,
    missing: frozenset[str],
    sources: Mapping[str, LocalFile],
    progress: Progress | None,
) -> int:
    entries: dict[str, FileEntry] = {entry.sha256: entry for entry in manifest.files if entry.sha256 in missing}
    total_bytes = sum(entry.size_bytes for entry in entries.values())
    meter = Meter("upload", total_bytes, progress)
    for digest, entry in entries.items():
        with meter.file(entry.path, entry.size_bytes) as report:
            try:
                upload_blob(client.blobs, sources[digest].source, digest, entry.size_bytes, report)
            except TooLargeError as error:
                raise TooLargeError(f"{entry.path} is too large: {error}") from None
    return total_bytes


def _fingerprints(layout: Layout) -> dict[Path, tuple[int, int, int]]:
    found = {}
    for file in layout.files:
        try:
            status = file.source.lstat()
        except OSError as error:
            raise IntegrityError(f"{file.source} can't be read any more: {error.strerror}; publish again") from None
        found[file.source] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return found


def _refuse_changes(before: Mapping[Path, tuple[int, int, int]], after: Mapping[Path, tuple[int, int, int]]) -> None:
    changed = [str(path) for path in before if before[path] != after.get(path)]
    if changed:
        raise IntegrityError(
            f"{', '.join(changed[:3])} changed while being published; nothing is visible; publish again"
        )


def _published(view: VersionView, created: bool, uploaded_bytes: int, layout: Layout) -> PublishedVersion:
    return PublishedVersion(view.stub, view.version, view.digest, created, uploaded_bytes, view.checks, layout.left_out)
