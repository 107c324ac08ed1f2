"""Another registry, read version by version to be copied: what it has, and its files, verified.

A file that was cut off goes on at the next try, also of another process; redirects lead to public addresses only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from zoo.cache import Cache
from zoo.client import RegistryClient
from zoo.download import fetch_file
from zoo.errors import NotFoundError
from zoo.manifest import Manifest
from zoo.problems import DeletedVersionError
from zoo.progress import Meter, Progress
from zoo.settings import Settings
from zoo.stub import PREFIX, Stub


class RemoteRegistry:
    """A registry at a URL, or a folder of files that a web server serves; `staging` holds what is on its way.

    A context manager that closes its connections. Raises `UnavailableError`, `AccessError`, `IntegrityError`,
    `ManifestError`, `NotFoundError`.
    """

    def __init__(self, url: str, staging: Path, progress: Progress | None = None) -> None:
        self._settings = Settings.load(endpoint=url, cache=staging)
        self._client = RegistryClient(self._settings, public_hops=True)
        self._cache, self._progress = Cache.open(staging), progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def names(self, prefixes: Sequence[str] = ()) -> Iterator[str]:
        """The models whose names begin with one of the prefixes, or all."""
        return (name for name in self._client.names() if begins(name, prefixes))

    def versions(self, name: str) -> list[dict[str, Any]]:
        """A model's versions without their manifests, the oldest first; none if it isn't there."""
        try:
            found = self._client.versions(Stub.parse(name))
        except NotFoundError:
            return []
        return [version.model_dump(mode="json") for version in reversed(found)]

    def version(self, stub: str) -> dict[str, Any]:
        """A version with its manifest, whose digest has been computed again."""
        return self._client.resolve(Stub.parse(stub)).model_dump(mode="json", exclude_none=True)

    def deletion(self, stub: str) -> str | None:
        """Why a version was deleted there; None if it wasn't, or isn't known there."""
        try:
            self._client.resolve(Stub.parse(stub))
        except DeletedVersionError as error:
            return error.reason
        except NotFoundError:
            pass
        return None

    def files(self, manifest: Manifest, digests: Collection[str]) -> Iterator[tuple[str, Path]]:
        """Fetches those of a version's files; each is there until the next one is asked for."""
        entries = {entry.sha256: entry for entry in manifest.files if entry.sha256 in digests}
        meter = Meter("download", sum(entry.size_bytes for entry in entries.values()), self._progress)
        for digest, entry in entries.items():
            with meter.file(entry.path, entry.size_bytes) as report:
                patience = self._settings.patience
                fetch_file(lambda: self._client.blobs, self._cache, manifest, entry, patience, report)
            path = self._cache.model_folder(manifest) / entry.path
            yield digest, path
            path.unlink()
        self._cache.remove_version(manifest)


def begins(name: str, prefixes: Sequence[str]) -> bool:
    """Whether a model's name begins with one of the prefixes, with or without zoo:; without prefixes, always."""
    return not prefixes or name.removeprefix(PREFIX).startswith(tuple(p.removeprefix(PREFIX) for p in prefixes))
