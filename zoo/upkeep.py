"""Looking after the cache: what is in it, taking something out, finding and healing damage."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zoo.cache import Cache, hash_file, index_path, read_index, safe_name
from zoo.errors import NotFoundError, UnavailableError
from zoo.manifest import FileEntry, Manifest
from zoo.progress import Meter, Progress, ZooWarning
from zoo.resolver import Resolver
from zoo.settings import Settings
from zoo.stub import Stub

IN_USE_S = 3600.0
LEFTOVER_S = 7 * 86400.0


@dataclass(frozen=True)
class CachedVersion:
    """A version with files on this machine. `used_at` is in seconds since 1970, `pins` are those it was pulled by."""

    name: str
    alias: str | None
    digest: str
    pins: tuple[str, ...]
    roles: tuple[str, ...]
    size_bytes: int
    used_at: float
    path: Path


@dataclass(frozen=True)
class Damage:
    """A cached file whose bytes aren't those of its digest any more."""

    path: Path
    expected: str
    actual: str
    healed: bool


def ls(*, settings: Settings | None = None) -> list[CachedVersion]:
    """All versions that have files in the cache, the last used first."""
    cache = _open(settings)
    pins: dict[str, set[str]] = {}
    for path, ref in cache.refs():
        if "+" not in path.stem:
            pins.setdefault(ref.digest, set()).add(path.stem)
    found = [_cached(cache, manifest, pins) for manifest in cache.manifests()]
    return sorted((item for item in found if item), key=lambda item: -item.used_at)


def rm(stub: str | Stub, *, settings: Settings | None = None) -> int:
    """Removes a model, or the one version that the stub pins, from the cache; returns the bytes that became free.

    Raises `NotFoundError` if the cache has nothing under that name.
    """
    settings = settings or Settings.load()
    cache = Cache.open(settings.cache)
    wanted = stub if isinstance(stub, Stub) else Stub.parse(stub)
    if wanted.pin:
        ref = cache.read_ref(settings.endpoint, wanted)
        digests = {ref.digest} if ref else set()
    else:
        folder = safe_name(wanted.full_name)
        digests = {ref.digest for path, ref in cache.refs() if path.parent.name == folder}
    found = [manifest for digest in digests if (manifest := cache.read_manifest(digest))]
    if not found:
        raise NotFoundError(f"{wanted} isn't in the cache {cache.root}; `zoo ls` shows what is")
    return _remove(cache, found)


def prune(*, max_age_s: float | None = None, keep: int = 0, settings: Settings | None = None) -> int:
    """Removes versions that weren't used for `max_age_s` seconds, and what nothing refers to; returns the bytes freed.

    The `keep` last used versions of each model stay, and so does everything used within the last hour. A time in the
    future, after a clock jump, counts as now.
    """
    cache = _open(settings)
    now = time.time()
    places: dict[str, int] = {}
    old = []
    for item in ls(settings=settings):
        places[item.name] = places.get(item.name, 0) + 1
        if max_age_s is not None and now - item.used_at > max(max_age_s, IN_USE_S) and places[item.name] > keep:
            old.append(item.digest)
    manifests = [manifest for digest in old if (manifest := cache.read_manifest(digest))]
    return _remove(cache, manifests) + cache.sweep(IN_USE_S, LEFTOVER_S)


def verify(*, heal: bool = True, progress: Progress | None = None, settings: Settings | None = None) -> list[Damage]:
    """Reads every cached byte again. Damaged files are set aside and, with `heal`, fetched from the registry again.

    Returns the damage. What the registry can't give back stays absent, so that nothing wrong is ever used.
    """
    settings = settings or Settings.load()
    with Resolver(settings, progress) as resolver:
        cache = resolver.cache
        found = list(_damaged(cache, progress))
        healed: dict[Path, bool] = {}
        wrong = {expected for _, expected, _ in found}
        for manifest, entries in _placed(cache):
            lost = [entry for entry in entries if entry.sha256 in wrong]
            if heal and lost:
                done = _heal(resolver, manifest, lost)
                folder = cache.model_folder(manifest)
                healed |= {
                    path: done for entry in lost for path in (folder / entry.path, cache.blob_path(entry.sha256))
                }
    return [Damage(path, expected, actual, healed.get(path, False)) for path, expected, actual in found]


def _open(settings: Settings | None) -> Cache:
    return Cache.open((settings or Settings.load()).cache)


def _placed(cache: Cache) -> Iterator[tuple[Manifest, list[FileEntry]]]:
    """Versions with those of their files that were put into the model folder."""
    for manifest in cache.manifests():
        index = read_index(cache.model_folder(manifest))
        entries = [entry for entry in manifest.files if entry.path in index]
        if entries:
            yield manifest, entries


def _cached(cache: Cache, manifest: Manifest, pins: dict[str, set[str]]) -> CachedVersion | None:
    folder = cache.model_folder(manifest)
    index = read_index(folder)
    entries = [entry for entry in manifest.files if entry.path in index]
    if not entries:
        return None
    digest = manifest.digest()
    return CachedVersion(
        name=manifest.name,
        alias=manifest.alias,
        digest=digest,
        pins=tuple(sorted(pins.get(digest, ()))),
        roles=tuple(sorted({entry.role.value for entry in entries})),
        size_bytes=sum(entry.size_bytes for entry in entries),
        used_at=min(index_path(folder).stat().st_mtime, time.time()),
        path=folder,
    )


def _remove(cache: Cache, manifests: list[Manifest]) -> int:
    gone = {manifest.digest() for manifest in manifests}
    kept = {entry.sha256 for other in cache.manifests() if other.digest() not in gone for entry in other.files}
    return sum(cache.remove_version(manifest, kept) for manifest in manifests)


def _damaged(cache: Cache, progress: Progress | None) -> Iterator[tuple[Path, str, str]]:
    """Path, expected and actual digest of each damaged file, which is set aside."""
    targets = [(path, f"sha256:{path.name}") for path in cache.blobs()]
    for manifest, entries in _placed(cache):
        folder = cache.model_folder(manifest)
        targets += [(folder / entry.path, entry.sha256) for entry in entries]
    sizes = {path: path.lstat().st_size for path, _ in targets if path.is_file() and not path.is_symlink()}
    meter = Meter("hash", sum(sizes.values()), progress)
    for path, expected in targets:
        if path not in sizes:
            continue
        with meter.file(path.name, sizes[path]), cache.guarded("read", path):
            actual = hash_file(path)
        if actual != expected:
            cache.quarantine(path, expected)
            yield path, expected, actual


def _heal(resolver: Resolver, manifest: Manifest, entries: list[FileEntry]) -> bool:
    try:
        resolver.restore(manifest, entries, Stub.parse(manifest.name).pinned(manifest.digest()))
    except (UnavailableError, NotFoundError) as error:
        warnings.warn(f"{manifest.name} can't be healed: {error}", ZooWarning, stacklevel=3)
        return False
    return True
