"""Files on a disk: whole writes, own copies, sizes and digests. Refusals of the system stay `OSError`."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path

CHUNK_BYTES = 1 << 20
_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)


def hash_file(path: Path) -> str:
    """The sha256 digest of a file's bytes, as manifests write it."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def size_of(path: Path) -> int | None:
    """The size of a regular file in bytes; None for anything else, a link too."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def file_in_the_way(folder: Path) -> Path | None:
    """What keeps a folder from being made: itself or a folder above it, where that is a file."""
    return next((level for level in (folder, *folder.parents) if level.exists() and not level.is_dir()), None)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a small file so that a reader sees the old bytes or the new ones, also after a crash."""
    fresh = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}")
    try:
        with fresh.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def clone_or_copy(source: Path, target: Path) -> None:
    """A file of its own with the same bytes: shares blocks where the file system can, copies elsewhere."""
    with source.open("rb") as reader, target.open("xb") as writer:
        if not _clone(reader.fileno(), writer.fileno()):
            shutil.copyfileobj(reader, writer, CHUNK_BYTES)
        writer.flush()
        os.fsync(writer.fileno())


def make_folders(folder: Path, root: Path) -> None:
    """Makes a folder below the root; refuses a link on the way, which would lead the file out of the cache."""
    for level in [*reversed(folder.relative_to(root).parents), folder.relative_to(root)]:
        step = root / level
        if step.is_symlink() and step != root:
            raise NotADirectoryError(errno.ENOTDIR, "a link is in the place of a folder; remove it", str(step))
        step.mkdir(exist_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes renames within a folder last over a loss of power, where the file system can."""
    with suppress(OSError):  # some file systems refuse to sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _clone(source: int, target: int) -> bool:
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True
