"""An SQLite database as a file: on which file system it lies, and copies of it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
# Seen by several machines or kernels: WAL's shared memory isn't (https://sqlite.org/wal.html, "network filesystem").
_SHARED = ("nfs", "cifs", "smb", "9p", "virtiofs", "fuse", "ceph", "gfs2", "ocfs2", "lustre", "afs", "beegfs")


def is_on_shared_disk(path: Path, mounts: str | None = None) -> bool:
    """Whether other machines may see the file; `mounts` is in the form of /proc/self/mountinfo."""
    if mounts is None:
        mounts = _MOUNTS.read_text("utf-8", "replace") if _MOUNTS.exists() else ""
    longest, kind = "", ""
    place = str(path.absolute())
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split(" ")[4:5]
        if point and rest and (place + "/").startswith(point[0].rstrip("/") + "/") and len(point[0]) >= len(longest):
            longest, kind = point[0], rest.split(" ")[0]
    return kind.startswith(_SHARED)


def keep_copy(path: Path, label: str) -> Path:
    """Copies a database, as it is committed now, beside itself; raises `OSError` or `sqlite3.Error`."""
    target = path.with_name(f"{path.name}.{label}.backup")
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(fresh)) as copy:
            source.backup(copy)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    return target
