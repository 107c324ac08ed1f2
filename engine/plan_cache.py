"""Plans on disk: a model is compiled once for each instruction set, and mapped from then on.

They lie in `.sparrow/` beside the model or, where that folder can't be written, in the cache:

    model.onnx.avx512vnni.plan   the plan; its header names its source: the digests of the model's files, the
                                 instruction set, and the digest of the compiler that made it; where a process may
                                 run no machine code, the plan without any is called ...avx512vnni-nocode.plan
    model.onnx.json              the digests of the model's files, with the size, times and inode of each file when
                                 it was hashed, so that a model is not read again to know that it is the same

Nothing here is trusted. A plan is opened only if this user or root alone can change it; the library then checks
its checksum, structure and every index, and its source must be the one that is wanted. Anything else is compiled
again and replaced. Files appear whole, by renaming; locks only save work that another process is doing already.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import engine
from engine.errors import EngineError, ModelError, PlanError
from engine.library import default_isa, library_version, runs_code
from engine.runtime import CompiledModel

FOLDER = ".sparrow"
_COMPILER_SOURCES = ("*.py", "ops/*.py", "passes/*.py")
_SETTLED_NS = 2_000_000_000
"""A file changed this shortly before it was hashed may change again without its times telling."""
_PATIENCE_S = 120.0
_LEFTOVER_S = 3600.0
_LOG = logging.getLogger(__name__)

Opener = Callable[[int | bytes], CompiledModel]
"""Opens a plan file by its descriptor, or a plan in memory."""


@dataclass(frozen=True)
class FileState:
    """A file as `stat` shows it: equal states mean equal contents once the file has settled."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """The state in a stat result."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


@dataclass(frozen=True)
class HashedFile:
    """A file's sha256, the state it had then, and when that was in ns since 1970."""

    sha256: str
    state: FileState
    hashed_at_ns: int

    @classmethod
    def hash(cls, path: Path) -> Self:
        """Reads a file. Raises OSError, and ModelError when it changes meanwhile."""
        now = time.time_ns()
        with path.open("rb") as file:
            before = FileState.of(os.fstat(file.fileno()))
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if FileState.of(os.fstat(file.fileno())) != before:
                raise ModelError(f"{path} is being changed; load it when that is done")
        return cls(digest, before, now)

    @classmethod
    def parse(cls, document: Any) -> Self:
        """What `asdict` made of one. Raises ValueError, TypeError, KeyError, AttributeError."""
        state = FileState(**document["state"])
        if not all(isinstance(value, int) for value in (*asdict(state).values(), document["hashed_at_ns"])):
            raise ValueError("a state holds whole numbers")
        if len(bytes.fromhex(document["sha256"])) != 32:
            raise ValueError("a sha256 has 32 bytes")
        return cls(document["sha256"], state, document["hashed_at_ns"])

    def renewed(self, path: Path) -> Self:
        """This, if the file at `path` surely is the same still; else what the file is now. Raises as `hash` does."""
        settled = self.hashed_at_ns - max(self.state.mtime_ns, self.state.ctime_ns) > _SETTLED_NS
        if settled and FileState.of(path.stat()) == self.state:
            return self
        return self.hash(path)


Files = dict[str, HashedFile]
"""The files of a model, by path beneath its folder."""


@dataclass(frozen=True)
class _Shelf:
    """A folder that holds plans of one model."""

    folder: Path
    model: Path

    def plan(self, isa: str) -> Path:
        return self.folder / f"{self.model.name}.{isa}{'' if runs_code() else '-nocode'}.plan"

    @property
    def is_writable(self) -> bool:
        """Whether the folder can be written, or made."""
        return os.access(next(p for p in (self.folder, *self.folder.parents) if p.is_dir()), os.W_OK)

    @property
    def memo(self) -> Path:
        return self.folder / f"{self.model.name}.json"

    def find(self, isa: str, opener: Opener) -> CompiledModel | None:
        """The model's plan if it is here and right."""
        files = self._recall()
        if files is None:
            return None
        try:
            return self.open(isa, source_of(files, isa), opener)
        except (OSError, EngineError) as error:
            _LOG.info("%s is not used: %s", self.plan(isa), error)
            return None

    def open(self, isa: str, source: bytes, opener: Opener) -> CompiledModel:
        """The plan that lies here. Raises OSError, PlanError where others may change it or it has another source, and
        as `opener` does."""
        with self.plan(isa).open("rb") as file:
            if not _only_we_can_write(os.fstat(file.fileno())):
                raise PlanError("others may change it")
            opened = opener(file.fileno())
        if opened.source == source:
            return opened
        opened.close()
        raise PlanError("it is of another model, instruction set or compiler")

    def _recall(self) -> Files | None:
        """The model's files, hashed again where they may have changed; None where that isn't known."""
        known = self._read_memo()
        try:
            files = {name: file.renewed(self.model.parent / name) for name, file in known.items()}
        except (OSError, EngineError):
            return None
        if not files or any(files[name].sha256 != known[name].sha256 for name in files):
            return None
        if files != known:
            self.note(files)
        else:
            with suppress(OSError):
                os.utime(self.memo)
        return files

    def _read_memo(self) -> Files:
        try:
            with self.memo.open("rb") as file:
                if not _only_we_can_write(os.fstat(file.fileno())):
                    return {}
                document = json.load(file)
            files = {name: HashedFile.parse(entry) for name, entry in document["files"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}
        return files if self.model.name in files else {}

    def note(self, files: Files) -> None:
        """Writes the memo; a folder that can't be written keeps the old one."""
        document = {"model": str(self.model), "files": {name: asdict(file) for name, file in files.items()}}
        with (
            suppress(OSError),
            tempfile.NamedTemporaryFile("w", dir=self.folder, prefix=f".{self.memo.name}.", delete=False) as fresh,
        ):
            json.dump(document, fresh, indent=1)
            fresh.flush()
            Path(fresh.name).chmod(self.folder.stat().st_mode & 0o444 | 0o600)
            Path(fresh.name).replace(self.memo)

    def remove_leftovers(self) -> None:
        """Removes what writers left that were killed."""
        for path in self.folder.glob(f".{self.model.name}.*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFTOVER_S:
                    path.unlink()


def open_model(
    model: Path, num_cores: int | None = None, num_streams: int | None = None, *, cached: bool = True
) -> CompiledModel:
    """The ONNX file `model`, ready to run, compiled only if there is no plan of it yet.

    `cached` False compiles it anew and keeps nothing. Raises ModelError and its kin as `compile_onnx` does, and
    ExecutionError as `CompiledModel.from_plan` does.
    """

    def opener(plan: int | bytes) -> CompiledModel:
        return CompiledModel.from_plan(plan, num_cores, num_streams)

    isa = default_isa()
    if not cached:
        return _compile(model, isa, opener, None)
    model = model.absolute()
    shelves = _shelves(model)
    for shelf in shelves:
        found = shelf.find(isa, opener)
        if found is not None:
            return found
    with _turn(shelves) as mine:
        if mine is None:
            places = " and ".join(str(shelf.folder) for shelf in shelves)
            _LOG.warning("%s is compiled at each start: its plan can't be kept, as nobody may write %s", model, places)
            return _compile(model, isa, opener, None)
        return mine.find(isa, opener) or _compile(model, isa, opener, mine)


def source_of(files: Files, isa: str) -> bytes:
    """The 32 bytes that name what a plan is made from: files by path and content, instruction set, compiler,
    and whether it may hold machine code."""
    parts = {
        "files": {name: file.sha256 for name, file in files.items()},
        "isa": isa,
        "code": runs_code(),
        "compiler": compiler_digest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()


@functools.cache
def compiler_digest() -> str:
    """The sha256 of everything that decides what a model becomes: the compiler's source, the library's version."""
    digest = hashlib.sha256(library_version().encode())
    folders = [Path(folder) for folder in engine.__path__]
    for path in sorted(p for folder in folders for pattern in _COMPILER_SOURCES for p in folder.glob(pattern)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _shelves(model: Path) -> list[_Shelf]:
    """Where the model's plans may be, in the order in which they are looked for."""
    beside = _Shelf(model.parent / FOLDER, model)
    if beside.is_writable:
        return [beside]
    from engine.model_source import plan_folder

    return [beside, _Shelf(plan_folder(model), model)]


def _compile(model: Path, isa: str, opener: Opener, shelf: _Shelf | None) -> CompiledModel:
    from engine import compiler, cost_model, onnx_reader, plan

    graph = onnx_reader.read(model)
    states = {name: FileState.of(status) for name, status in graph.files.items()}
    program = cost_model.choose(compiler.compile_graph(graph), isa, code=runs_code())
    del graph
    if shelf is None:
        return opener(plan.encode(program))
    try:
        files = {name: HashedFile.hash(model.parent / name) for name in states}
        if any(file.state != states[name] for name, file in files.items()):
            raise ModelError(f"{model} was changed while it was read; load it again")
        shelf.remove_leftovers()
        plan.write_plan(program, shelf.plan(isa), source_of(files, isa))
        if not _only_we_can_write(shelf.plan(isa).stat()):
            raise PermissionError(f"others may change what is written to {shelf.folder}")
    except OSError as error:
        _LOG.warning("%s is compiled at each start: its plan can't be kept: %s", model, error)
        return opener(plan.encode(program))
    del program
    shelf.note(files)
    try:
        return shelf.open(isa, source_of(files, isa), opener)
    except (OSError, PlanError) as error:
        raise PlanError(f"{shelf.plan(isa)} was written and can't be used: {error}; load the model again") from error


def _only_we_can_write(status: os.stat_result) -> bool:
    """Whether `status` is of a regular file that nobody but this user and root can change."""
    ours = status.st_uid in (os.geteuid(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISREG(status.st_mode) and ours


@contextmanager
def _turn(shelves: list[_Shelf]) -> Iterator[_Shelf | None]:
    """The first shelf that can be written, None without one; waits while another process compiles for it."""
    for shelf in filter(lambda s: s.is_writable, shelves):
        try:
            shelf.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(shelf.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            _lock(handle)
            yield shelf
            return
        finally:
            os.close(handle)
    yield None


def _lock(handle: int) -> None:
    """Waits for the lock, not for ever: who holds it may have been stopped, and then two do the same work."""
    give_up = time.monotonic() + _PATIENCE_S
    while time.monotonic() < give_up:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        except OSError:
            return
        else:
            return


@dataclass(frozen=True)
class CachedPlan:
    """A plan in the cache; `used_at` is in seconds since 1970."""

    path: Path
    model: Path
    size_bytes: int
    used_at: float

    def __str__(self) -> str:
        used = datetime.fromtimestamp(self.used_at, UTC).strftime("%Y-%m-%d %H:%M")
        return f"plan of {self.model}  {self.size_bytes:,} bytes  used {used} UTC"


@dataclass(frozen=True)
class RemovedPlans:
    """Plans that were removed from the cache, or would be, and the bytes that become free."""

    plans: tuple[str, ...]
    freed_bytes: int

    def __str__(self) -> str:
        return "\n".join([*self.plans, f"{len(self.plans)} plans, {self.freed_bytes:,} bytes"])


def cached_plans(cache: Path) -> list[CachedPlan]:
    """The plans in the cache `cache`, of models that lie elsewhere, the last used first."""
    found = []
    for path in (cache / "plans").glob("*/*.plan"):
        memo = path.with_name(path.name.rsplit(".", 2)[0] + ".json")
        with suppress(OSError, ValueError, KeyError, TypeError):
            model = Path(json.loads(memo.read_bytes())["model"])
            found.append(CachedPlan(path, model, path.stat().st_size, memo.stat().st_mtime))
    return sorted(found, key=lambda plan: -plan.used_at)


def prune_plans(cache: Path, max_age_s: float, *, dry_run: bool = False) -> RemovedPlans:
    """Removes plans that weren't used for `max_age_s` seconds; a process that runs one keeps it until it ends."""
    old = [plan for plan in cached_plans(cache) if time.time() - plan.used_at > max_age_s]
    for plan in () if dry_run else old:
        plan.path.unlink(missing_ok=True)
        if not any(plan.path.parent.glob("*.plan")):
            shutil.rmtree(plan.path.parent, ignore_errors=True)
    return RemovedPlans(tuple(str(plan.path) for plan in old), sum(plan.size_bytes for plan in old))
