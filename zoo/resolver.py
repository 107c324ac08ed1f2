"""From a stub to verified files on this machine.

A stub pinned by digest that is in the cache makes no request. Any other stub asks the registry which version it names
now, and everything after that goes by the version's digest, so that a tag that moves meanwhile can't mix two versions.
Where the registry can't be reached, the version that it named last is used, with a warning.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Self

from zoo.cache import Cache
from zoo.errors import CacheError, NotFoundError, UnavailableError
from zoo.manifest import FileEntry, Manifest, Role
from zoo.partial import partial_bytes
from zoo.progress import Meter, Progress, ZooWarning
from zoo.settings import Settings
from zoo.stub import Stub
from zoo.version import SearchPage, VersionView

if TYPE_CHECKING:
    from zoo.blobs import Blobs
    from zoo.client import RegistryClient

_FOLDERS = frozenset({Role.TRAINING, Role.DEPLOYMENT, Role.SAMPLE_INPUTS, Role.SAMPLE_OUTPUTS})
_ROUNDS = 3
_RECIPE_ENDINGS = (".md", ".yaml", ".yml")


def pull(
    stub: str | Stub,
    role: Role | str | None = None,
    *,
    progress: Progress | None = None,
    settings: Settings | None = None,
) -> Path:
    """Brings a model's files to this machine, verified, and returns where they are.

    Without a role, all files and the model folder. Training, deployment and samples: the folder that holds them.
    Recipe: the one file that the default or the stub's `?recipe=` names. Card, benchmark, metrics: the file.
    The files belong to the cache and are read-only.

    Raises `StubError`, `NotFoundError` (no such model or role), `IntegrityError` (wrong bytes),
    `UnavailableError` (no registry, or offline and not cached), `AccessError`, `CacheError`.
    """
    with Resolver(settings or Settings.load(), progress) as resolver:
        return resolver.pull(_stub(stub), _role(role))


def resolve(stub: str | Stub, *, settings: Settings | None = None) -> VersionView:
    """The version that a stub names, with its manifest; downloads no file. Raises as `pull` does."""
    with Resolver(settings or Settings.load()) as resolver:
        return resolver.resolve(_stub(stub))


def search(
    text: str = "", *, limit: int = 20, cursor: str | None = None, settings: Settings | None = None, **filters: object
) -> SearchPage:
    """One page of the registry's models.

    `filters` are those of the registry: domain, task, architecture, dataset, license, pattern, quantized,
    sparsity_min, sparsity_max. Raises `UnavailableError`, also when offline.
    """
    with Resolver(settings or Settings.load()) as resolver:
        return resolver.client("search").search(text, limit=limit, cursor=cursor, **filters)


class Resolver:
    """Joins one registry and one cache. A context manager that closes its connections."""

    def __init__(self, settings: Settings, progress: Progress | None = None) -> None:
        self._settings, self._progress = settings, progress
        self.cache = Cache.open(settings.cache)
        self._exits = ExitStack()
        self._client: RegistryClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._exits.close()

    def client(self, purpose: str) -> RegistryClient:
        """The connection to the registry, made when it is first needed; raises `UnavailableError` when offline."""
        self._settings.check_online(purpose)
        if self._client is None:
            from zoo.client import RegistryClient  # httpx is loaded when a request is made

            self._client = self._exits.enter_context(RegistryClient(self._settings))
        return self._client

    def resolve(self, stub: Stub) -> VersionView:
        """The version that a stub names now, or named last where the registry can't be asked."""
        known = self._known(stub)
        if known and stub.is_digest:
            return known
        try:
            view = self.client(f"resolve {stub}").resolve(stub)
        except UnavailableError as error:
            if known is None:
                raise _never_seen(stub, error, offline=self._settings.offline) from error
            if stub.version is None:
                text = f"{error}; {stub} is taken as {known.stub}, known from before"
                warnings.warn(text, ZooWarning, stacklevel=4)
            return known
        if view.yank_reason:
            warnings.warn(f"{view.stub} was yanked: {view.yank_reason}", ZooWarning, stacklevel=4)
        try:
            self.cache.write_manifest(view.manifest)
            self.cache.write_refs(self._settings.endpoint, view, stub)
        except CacheError as error:
            warnings.warn(f"{error}; the answer isn't kept", ZooWarning, stacklevel=4)
        return view

    def pull(self, stub: Stub, role: Role | None) -> Path:
        """See `zoo.pull`."""
        view = self.resolve(stub)
        entries = select(view.manifest, stub, role)
        folder = self.fetch(view.manifest, entries, stub)
        return path_of(folder, entries, role)

    def fetch(self, manifest: Manifest, entries: Sequence[FileEntry], stub: Stub) -> Path:
        """Puts the files into the model folder, downloading what the cache lacks; returns the folder.

        It looks again when it has done so, since another process may have removed the version meanwhile. Each file has
        been proven by then, so that their presence is enough.
        """
        for _ in range(_ROUNDS):
            self.cache.touch(manifest)
            unproven = self.cache.not_in_place(manifest, entries)
            if unproven:
                self.restore(manifest, unproven, stub)
            if not self.cache.not_there(manifest, entries):
                return self.cache.model_folder(manifest)
        raise CacheError(f"files of {stub} vanish from the cache {self.cache.root} as they come; who removes them?")

    def restore(self, manifest: Manifest, entries: Sequence[FileEntry], stub: Stub) -> None:
        """Puts files into the model folder: what the cache has is copied, the rest is downloaded."""
        copies = self.cache.copies(entries)
        lacking = [entry for entry in entries if entry.sha256 not in copies]
        if lacking and self._settings.offline:
            raise _not_cached(stub, lacking)
        self._check_space(manifest, entries)
        from zoo.download import fetch_file

        meter = Meter("download", sum(entry.size_bytes for entry in entries), self._progress)
        for entry in entries:
            with meter.file(entry.path, entry.size_bytes) as report:
                connect = partial(self._blobs, entry, stub)
                fetch_file(connect, self.cache, manifest, entry, self._settings.patience, report)
        self.cache.write_manifest(manifest)

    def _known(self, stub: Stub) -> VersionView | None:
        """The version as far as the cache knows it."""
        ref = self.cache.read_ref(self._settings.endpoint, stub)
        if ref is None:
            return None
        manifest = self.cache.read_manifest(stub.pin if stub.is_digest and stub.pin else ref.digest)
        if manifest is None or manifest.digest() != ref.digest:
            return None
        return ref.view(manifest)

    def _blobs(self, entry: FileEntry, stub: Stub) -> Blobs:
        return self.client(f"download {entry.path} of {stub}").blobs

    def _check_space(self, manifest: Manifest, wanted: Sequence[FileEntry]) -> None:
        """Raises `CacheError` where there is no space even if all that lies there already turns out right."""
        lacking = self.cache.not_there(manifest, wanted)
        needed = sum(max(0, entry.size_bytes - partial_bytes(self.cache, entry.sha256)) for entry in lacking)
        free = self.cache.free_bytes()
        if needed > free:
            raise CacheError(
                f"{needed:,} bytes are to be written, {free:,} are free in {self.cache.root}; "
                "run `zoo cache prune`, or set ZOO_CACHE to another disk"
            )


def select(manifest: Manifest, stub: Stub, role: Role | None) -> tuple[FileEntry, ...]:
    """The files that a stub and a role mean; raises `NotFoundError` if there are none, or no one recipe."""
    if role is None:
        return tuple(manifest.files)
    entries = manifest.with_role(role)
    if not entries:
        roles = ", ".join(sorted({entry.role for entry in manifest.files}))
        raise NotFoundError(f"{stub} has no files with the role {role}; it has {roles}")
    return (_choose_recipe(entries, stub),) if role is Role.RECIPE else entries


def path_of(folder: Path, entries: Sequence[FileEntry], role: Role | None) -> Path:
    """What a caller gets for a role: the model folder, the folder that holds the role's files, or its one file."""
    if role is None:
        return folder
    if role not in _FOLDERS and len(entries) == 1:
        return folder / entries[0].path
    if all(entry.path.startswith(f"{role}/") for entry in entries):
        return folder / role
    return folder / os.path.commonpath([PurePosixPath(entry.path).parent for entry in entries])


def _choose_recipe(entries: Sequence[FileEntry], stub: Stub) -> FileEntry:
    """The recipe that `?recipe=` names, else the default recipe.md or recipe.yaml, else the only one."""
    stem = f"recipe_{stub.recipe}" if stub.recipe else "recipe"
    exact = [entry for ending in _RECIPE_ENDINGS for entry in entries if _name(entry) == stem + ending]
    found = exact[:1] or [entry for entry in entries if not stub.recipe or _name(entry).startswith(stem)]
    if len(found) == 1:
        return found[0]
    number = f"{len(found)} recipes could be meant" if found else f"no recipe's name starts with {stem}"
    among = ", ".join(entry.path for entry in found or entries)
    raise NotFoundError(f"{stub}: {number}; there are {among}. Name one with ?recipe=")


def _name(entry: FileEntry) -> str:
    return PurePosixPath(entry.path).name


def _stub(stub: str | Stub) -> Stub:
    return stub if isinstance(stub, Stub) else Stub.parse(stub)


def _role(role: Role | str | None) -> Role | None:
    try:
        return None if role is None else Role(role)
    except ValueError:
        raise NotFoundError(f"there is no role {role!a}; the roles are {', '.join(Role)}") from None


def _never_seen(stub: Stub, error: UnavailableError, *, offline: bool) -> UnavailableError:
    if offline:
        return UnavailableError(f"offline, and {stub} isn't in the cache; pull it once while the registry is there")
    return UnavailableError(f"{error}; and the cache doesn't know {stub}")


def _not_cached(stub: Stub, missing: Sequence[FileEntry]) -> UnavailableError:
    shown = ", ".join(f"{entry.path} ({entry.size_bytes:,} bytes)" for entry in missing[:20])
    more = f" and {len(missing) - 20} more" if len(missing) > 20 else ""
    return UnavailableError(f"offline, and the cache lacks of {stub}: {shown}{more}; pull it once without ZOO_OFFLINE")
