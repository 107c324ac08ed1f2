"""Who may continue a partial download.

    partial/<hex>.owner           claim, made by exclusive creation: who downloads this digest; its time is a heartbeat
    partial/<hex>.<nonce>.part    the owner's bytes; no other process ever opens them for writing
    partial/<hex>.part            bytes without an owner, free to be continued

Bytes change hands by renaming or copying only, never by sharing a file. So two processes that both believe to be the
owner (no file locks, a network file system, a clock that jumped) cost double traffic and nothing else.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Self

from zoo.cache import Cache
from zoo.disk import clone_or_copy, size_of
from zoo.errors import CacheError

SILENT_S = 60.0
HEARTBEAT_S = 2.0


class _State(Enum):
    ALIVE = "alive"
    SILENT = "silent"
    DEAD = "dead"


@dataclass(frozen=True)
class _Owner:
    """A process, so that another one on the same machine can tell whether it still runs."""

    nonce: str
    pid: int
    started: str
    machine: str

    @classmethod
    def me(cls) -> Self:
        return cls(secrets.token_hex(8), os.getpid(), _start_of(os.getpid()), _machine())

    @classmethod
    def read(cls, path: Path) -> Self | None:
        try:
            fields = json.loads(path.read_bytes())
            owner = cls(**fields)
        except (OSError, ValueError, TypeError):
            return None
        return owner if owner.nonce.isalnum() else None

    def state(self, claim: Path) -> _State:
        """Dead only if that is certain: a process of this machine and process name space that runs no more."""
        if self.machine and self.machine == _machine() and not _runs(self.pid, self.started):
            return _State.DEAD
        return _State.SILENT if _silence_s(claim) > SILENT_S else _State.ALIVE


class Partial:
    """One digest's partial download in one process: `path` is a file that only this process writes."""

    def __init__(self, cache: Cache, digest: str) -> None:
        self._cache = cache
        self._folder = cache.partial_folder()
        self._hexa = digest.removeprefix("sha256:")
        self._claim = self._folder / f"{self._hexa}.owner"
        self._free = self._folder / f"{self._hexa}.part"
        self._me = _Owner.me()
        self.path = self._folder / f"{self._hexa}.{self._me.nonce}.part"
        self._last_beat = 0.0

    def acquire(self) -> bool:
        """Tries to become the owner, taking over what a dead or silent one left; False while another one is alive."""
        with self._cache.guarded("claim", self._claim):
            if self._create_claim():
                self._adopt(self._free, certain=True)
                return True
            owner = _Owner.read(self._claim)
            state = owner.state(self._claim) if owner else self._state_of_unreadable()
            if state is _State.ALIVE:
                return False
            self._replace_claim()
            left = self._folder / f"{self._hexa}.{owner.nonce}.part" if owner else self._free
            self._adopt(left if left.exists() else self._free, certain=state is _State.DEAD)
            return True

    def copy_from(self, known: Path) -> None:
        """Begins anew with another file's bytes, if that is still there; they are as unproven as any partial ones."""
        with self._cache.guarded("copy", known), suppress(FileNotFoundError):
            self.path.unlink(missing_ok=True)
            clone_or_copy(known, self.path)

    def beat(self) -> None:
        """Tells the others that this process is alive; call it as bytes arrive."""
        now = time.monotonic()
        if now - self._last_beat >= HEARTBEAT_S:
            self._last_beat = now
            with suppress(OSError):
                os.utime(self._claim)

    def release(self) -> None:
        """Gives the claim back, if there is one; bytes that are still there stay for whoever continues."""
        with suppress(OSError):
            self.path.replace(self._free)
        with suppress(OSError):
            if _Owner.read(self._claim) == self._me:
                self._claim.unlink()

    def _create_claim(self) -> bool:
        try:
            with self._claim.open("x") as stream:
                json.dump(asdict(self._me), stream)
        except FileExistsError:
            return False
        return True

    def _replace_claim(self) -> None:
        fresh = self._folder / f"{self._hexa}.{self._me.nonce}.claim"
        fresh.write_text(json.dumps(asdict(self._me)))
        fresh.replace(self._claim)

    def _state_of_unreadable(self) -> _State:
        """A claim is empty for a moment after its creation; one that stays so has no owner."""
        return _State.SILENT if _silence_s(self._claim) > HEARTBEAT_S else _State.ALIVE

    def _adopt(self, left: Path, *, certain: bool) -> None:
        """Continues bytes that were left: renames them if nobody can write to them any more, copies them otherwise."""
        try:
            status = left.lstat()
            if not stat.S_ISREG(status.st_mode):
                raise CacheError(f"{left} is no regular file; remove it and try again")
            if certain or left == self._free:
                left.rename(self.path)
            else:
                shutil.copyfile(left, self.path)
        except FileNotFoundError:
            return


def claimed_digests(cache: Cache) -> set[str]:
    """The digests that are being fetched: those whose owner isn't certainly dead."""
    claims = [(claim, _Owner.read(claim)) for claim in cache.partial_folder().glob("*.owner")]
    return {f"sha256:{claim.stem}" for claim, owner in claims if owner is None or owner.state(claim) is not _State.DEAD}


def partial_bytes(cache: Cache, digest: str) -> int:
    """How many of a digest's bytes a partial download already holds."""
    parts = cache.partial_folder().glob(f"{digest.removeprefix('sha256:')}*.part")
    return max((size_of(part) or 0 for part in parts), default=0)


def _silence_s(claim: Path) -> float:
    """Seconds since the last heartbeat; a time in the future, after a clock jump, counts as well."""
    try:
        return abs(time.time() - claim.stat().st_mtime)
    except OSError:
        return 0.0


def _machine() -> str:
    """This boot of this machine and its process name space; empty where the system doesn't tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """When a process started, in the kernel's ticks: field 22 of /proc/PID/stat, see proc(5)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
        return text.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _runs(pid: int, started: str) -> bool:
    return bool(started) and _start_of(pid) == started
