"""Looking after the cache: what is in it, taking something out, finding and healing damage."""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from zoo.cache import Cache, read_index, safe_name
from zoo.disk import hash_file, size_of
from zoo.errors import NotFoundError, ZooError
from zoo.manifest import FileEntry, Manifest
from zoo.partial import claimed_digests
from zoo.progress import Meter, Progress, ZooWarning
from zoo.resolver import Resolver
from zoo.settings import Settings
from zoo.stub import Stub

IN_USE_S = 3600.0
LEFTOVER_S = 7 * 86400.0
_MAPPED = re.compile(r"/models/[^/\n]+/([0-9a-f]{64})/")


@dataclass(frozen=True)
class CachedVersion:
    """A version with files on this machine. `used_at` is in seconds since 1970, `pins` are those it is known by."""

    name: str
    alias: str | None
    digest: str
    pins: tuple[str, ...]
    roles: tuple[str, ...]
    size_bytes: int
    used_at: float
    path: Path

    def __str__(self) -> str:
        used = datetime.fromtimestamp(self.used_at, UTC).strftime("%Y-%m-%d %H:%M")
        return f"{self.name}  {','.join(self.pins)}  {','.join(self.roles)}  {self.size_bytes:,} bytes  used {used} UTC"


@dataclass(frozen=True)
class Removed:
    """What was removed from the cache, or would be: versions as name@digest, and the bytes that become free."""

    versions: tuple[str, ...]
    freed_bytes: int

    def __str__(self) -> str:
        return "\n".join([*self.versions, f"{len(self.versions)} versions, {self.freed_bytes:,} bytes"])


@dataclass(frozen=True)
class Damage:
    """A cached file whose bytes weren't those of its digest; `healed` if the right ones are back in their place.

    `actual` is the digest that it had, None for a file that was gone.
    """

    path: Path
    expected: str
    actual: str | None
    healed: bool

    def __str__(self) -> str:
        found = f"has {self.actual}" if self.actual else "is missing"
        return f"{'healed' if self.healed else 'DAMAGED'} {self.path} {found}, expected {self.expected}"


@dataclass(frozen=True)
class Verified:
    """What reading the whole cache found; `files` are those that it should hold."""

    files: int
    damage: tuple[Damage, ...]

    @property
    def is_sound(self) -> bool:
        """Whether the cache now holds only right bytes and misses none that it had."""
        return all(item.healed for item in self.damage)

    def __str__(self) -> str:
        counts = f"{self.files} files looked at, {len(self.damage)} damaged or missing"
        return "\n".join([counts, *map(str, self.damage)])


def ls(*, settings: Settings | None = None) -> list[CachedVersion]:
    """All versions that have files in the cache, the last used first."""
    cache = _open(settings)
    pins: dict[str, set[str]] = {}
    aliases: dict[str, str] = {}
    for path, ref in cache.refs():
        if ref.alias:
            aliases[ref.digest] = ref.alias
        if "+" not in path.stem:
            pins.setdefault(ref.digest, set()).add(path.stem)
    found = [_describe(cache, manifest, entries, pins, aliases) for manifest, entries in _placed(cache)]
    return sorted(found, key=lambda item: -item.used_at)


def rm(stub: str | Stub, *, settings: Settings | None = None) -> Removed:
    """Removes a model, or the one version that the stub pins, from the cache; the registry keeps it.

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
    if not any(cache.read_manifest(digest) for digest in digests):
        raise NotFoundError(f"{wanted} isn't in the cache {cache.root}; `zoo ls` shows what is")
    return _remove(cache, digests)


def prune(
    *,
    max_age_s: float | None = None,
    keep: int = 0,
    dry_run: bool = False,
    settings: Settings | None = None,
) -> Removed:
    """Removes versions that weren't used for `max_age_s` seconds, and what nothing refers to.

    The `keep` last used versions of each model stay, and so does everything used within the last hour, being fetched,
    or mapped by a running process. A time in the future, after a clock jump, counts as now.
    """
    cache = _open(settings)
    used_before = -math.inf if max_age_s is None else time.time() - max(max_age_s, IN_USE_S)
    places: dict[str, int] = {}
    old = []
    for item in ls(settings=settings):
        places[item.name] = places.get(item.name, 0) + 1
        if item.used_at < used_before and places[item.name] > keep:
            old.append(item.digest)
    removed = _remove(cache, old and _idle(cache, old), used_before, dry_run=dry_run)
    swept_bytes = cache.sweep(LEFTOVER_S, dry_run=dry_run)
    return Removed(removed.versions, removed.freed_bytes + swept_bytes)


def verify(*, heal: bool = True, progress: Progress | None = None, settings: Settings | None = None) -> Verified:
    """Reads every cached byte again. Damaged files are set aside and, with `heal`, fetched again, as are missing ones.

    What the registry can't give back stays absent, so that nothing wrong is ever used.
    """
    with Resolver(settings or Settings.load(), progress) as resolver:
        cache = resolver.cache
        targets = _targets(cache)
        found = list(_damaged(cache, targets, progress))
        wrong = {expected for _, expected, _ in found}
        lost = [(manifest, [e for e in entries if e.sha256 in wrong]) for manifest, entries in _placed(cache)]
        healed = {path for item in lost if heal and item[1] for path in _heal(resolver, *item)}
    damage = tuple(Damage(path, expected, actual, path in healed) for path, expected, actual in found)
    return Verified(len(targets), damage)


def _open(settings: Settings | None) -> Cache:
    return Cache.open((settings or Settings.load()).cache)


def _placed(cache: Cache) -> Iterator[tuple[Manifest, list[FileEntry]]]:
    """Versions with those of their files that were put into the model folder."""
    for manifest in cache.manifests():
        index = read_index(cache.model_folder(manifest))
        entries = [entry for entry in manifest.files if entry.path in index]
        if entries:
            yield manifest, entries


def _describe(
    cache: Cache,
    manifest: Manifest,
    entries: list[FileEntry],
    pins: Mapping[str, set[str]],
    aliases: Mapping[str, str],
) -> CachedVersion:
    folder, digest = cache.model_folder(manifest), manifest.digest()
    return CachedVersion(
        name=manifest.name,
        alias=manifest.alias or aliases.get(digest),
        digest=digest,
        pins=tuple(sorted(pins.get(digest, ()))),
        roles=tuple(sorted({entry.role.value for entry in entries})),
        size_bytes=sum(entry.size_bytes for entry in entries),
        used_at=cache.used_at(manifest),
        path=folder,
    )


def _idle(cache: Cache, digests: Iterable[str]) -> list[str]:
    """Those versions of which no process maps or fetches a file."""
    mapped, fetched = _mapped_versions(), claimed_digests(cache)
    known = {digest: manifest for digest in digests if (manifest := cache.read_manifest(digest))}
    return [
        digest
        for digest, manifest in known.items()
        if digest not in mapped and fetched.isdisjoint(entry.sha256 for entry in manifest.files)
    ]


def _mapped_versions() -> set[str]:
    """The digests of versions of which a process maps a file, as a runtime does with a model's plan or weights.

    /proc/PID/maps tells it, see proc(5): of other users' processes to root alone, elsewhere than on Linux not at all.
    """
    found: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            found.update(_MAPPED.findall(maps.read_text("utf-8", "replace")))
    return {f"sha256:{hexa}" for hexa in found}


def _remove(cache: Cache, digests: Iterable[str], used_before: float = math.inf, *, dry_run: bool = False) -> Removed:
    """Removes versions but those that were used again since it was looked which are old."""
    removed, freed_bytes = [], 0
    for digest in digests:
        manifest = cache.read_manifest(digest)
        if manifest is None:
            continue
        size_bytes = cache.size_bytes(manifest)
        if dry_run or cache.remove_version(manifest, used_before):
            removed.append(f"{manifest.name}@{digest}")
            freed_bytes += size_bytes
    return Removed(tuple(removed), freed_bytes)


def _targets(cache: Cache) -> dict[Path, str]:
    """Every file that was put into the cache, with the digest that it should have."""
    placed = [(cache.model_folder(manifest), entry) for manifest, entries in _placed(cache) for entry in entries]
    return {folder / entry.path: entry.sha256 for folder, entry in placed}


def _damaged(
    cache: Cache, targets: dict[Path, str], progress: Progress | None
) -> Iterator[tuple[Path, str, str | None]]:
    """Path, expected and actual digest of each damaged file, which is set aside, and of each missing one."""
    sizes = {path: size_of(path) for path in targets}
    meter = Meter("hash", sum(size or 0 for size in sizes.values()), progress)
    for path, expected in targets.items():
        size_bytes = sizes[path]
        if size_bytes is None:
            yield path, expected, None
            continue
        with meter.file(path.name, size_bytes), cache.guarded("read", path):
            actual = hash_file(path)
        if actual != expected:
            cache.quarantine(path, expected)
            yield path, expected, actual


def _heal(resolver: Resolver, manifest: Manifest, entries: list[FileEntry]) -> list[Path]:
    """Fetches files again; returns the paths that are right now."""
    folder = resolver.cache.model_folder(manifest)
    try:
        resolver.restore(manifest, entries, Stub.parse(manifest.name).pinned(manifest.digest()))
    except ZooError as error:
        warnings.warn(f"{manifest.name} can't be healed: {error}", ZooWarning, stacklevel=3)
    absent = resolver.cache.not_there(manifest, entries)
    return [folder / entry.path for entry in entries if entry not in absent]
