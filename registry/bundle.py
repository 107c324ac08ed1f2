"""A whole registry as one file: its rows, from one moment, and the blobs that they name.

    bundle.json           what is in it; first, so that a wrong file is refused at once
    blobs/HEX             each blob, verified on its way out and in
    tables/NAME.jsonl     one row a line; the same for SQLite and PostgreSQL, so that a backup moves between them

Uploads under way are left out, and listings, which are made from versions. Tokens are in it as their hashes only; a
bundle still tells who may do what, so keep it as the database is kept.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any

from sqlalchemy import LargeBinary, Table, insert, select, text
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeEngine

from registry import blob_queries, listings, migrate
from registry.blobs import Blobs, parse_digest
from registry.db import Database
from registry.errors import BundleError, InvalidDigestError
from registry.tables import Base, UtcDateTime

FORMAT = 1
_LEFT_OUT = {"uploads", "chunks", "listings"}
_BLOB = re.compile(r"blobs/([0-9a-f]{64})\Z")
_TABLE = re.compile(r"tables/([a-z_]{1,40})\.jsonl\Z")
_MAX_HEAD_BYTES = 1 << 20


@dataclass(frozen=True)
class BundleReport:
    """What went into a bundle, or came out of one."""

    rows: int
    blobs: int
    size_bytes: int


def backup(database: Database, blobs: Blobs, path: Path) -> BundleReport:
    """Writes the bundle, whole or not at all; the registry may serve meanwhile.

    Raises `DamagedBlobError` for a blob that can't be read back as it came: scrub, and heal it first. Raises
    `BundleError` if the file can't be written.
    """
    with database.read() as session:
        tables = {table.name: _dump(session, table) for table in _tables()}
        named = list(blob_queries.all_blobs(session))
        revision = ", ".join(migrate.current(session.connection()))
    counts = {name: data.count(b"\n") for name, data in tables.items()}
    head = {"format": FORMAT, "revision": revision, "rows": counts, "blobs": len(named)}
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("xb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            _add(tar, "bundle.json", json.dumps(head).encode())
            for digest, size_bytes in named:
                info = tarfile.TarInfo(f"blobs/{digest.removeprefix('sha256:')}")
                info.size = size_bytes
                tar.addfile(info, _Reader(blobs.read_whole(digest, blobs.size(digest))))
            for name, data in tables.items():
                _add(tar, f"tables/{name}.jsonl", data)
            tar.close()
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise BundleError(f"{path} can't be written: {error.strerror or error}") from error
    finally:
        fresh.unlink(missing_ok=True)
    return BundleReport(sum(counts.values()), len(named), sum(size for _, size in named))


def restore(database: Database, blobs: Blobs, path: Path) -> BundleReport:
    """Fills an empty registry from a bundle: blobs first, then all rows in one transaction.

    Raises `BundleError` for a file that is no whole bundle of this schema, or a registry that isn't empty; its rows
    are then as before.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            return _restore(database, blobs, tar)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise BundleError(f"{path} can't be read as a bundle: {error}") from error


def _restore(database: Database, blobs: Blobs, tar: tarfile.TarFile) -> BundleReport:
    head = _read_head(tar)
    with database.read() as session:
        revision = ", ".join(migrate.current(session.connection()))
        if any(session.execute(select(table).limit(1)).first() for table in _tables()):
            raise BundleError("this registry isn't empty; restore into a new database and folder")
    if head["revision"] != revision:
        raise BundleError(
            f"the bundle has the schema {head['revision']!a}, this program {revision!r}; restore it with the program "
            "that wrote it, then upgrade"
        )
    known = {table.name: table for table in _tables()}
    rows: dict[str, list[dict[str, Any]]] = {}
    count, size_bytes = 0, 0
    for member in islice(tar, 1, None):
        blob, table = _BLOB.match(member.name), _TABLE.match(member.name)
        if not member.isreg() or not (blob or (table and table[1] in known)):
            raise BundleError(f"the bundle holds {member.name[:100]!a}, which belongs in none")
        stream = tar.extractfile(member)
        assert stream is not None  # noqa: S101  # it is a regular file
        if blob:
            _keep(blobs, f"sha256:{blob[1]}", stream)
            count, size_bytes = count + 1, size_bytes + member.size
        elif table:
            rows[table[1]] = [_decode(line, known[table[1]]) for line in stream]
    if count != head["blobs"] or {name: len(found) for name, found in rows.items()} != head["rows"]:
        raise BundleError("the bundle is cut off: it holds less than it says; nothing was restored")
    database.write(lambda session: _insert(session, known, rows))
    return BundleReport(sum(map(len, rows.values())), count, size_bytes)


def _insert(session: Session, known: dict[str, Table], rows: dict[str, list[dict[str, Any]]]) -> None:
    for name, table in known.items():
        if rows.get(name):
            session.execute(insert(table), rows[name])
            if session.get_bind().dialect.name == "postgresql" and table.primary_key.columns.keys() == ["id"]:
                _advance(session, name)
    listings.complete(session)


def _advance(session: Session, name: str) -> None:
    """Lets a table's counter go on after the ids that were inserted."""
    sequence = session.scalar(text("SELECT pg_get_serial_sequence(:name, 'id')"), {"name": name})
    if sequence:
        highest = session.scalar(text(f"SELECT max(id) FROM {name}"))  # noqa: S608  # a name of our own
        session.execute(text("SELECT setval(:sequence, :highest)"), {"sequence": sequence, "highest": highest})


def _tables() -> list[Table]:
    return [table for table in Base.metadata.sorted_tables if table.name not in _LEFT_OUT]


def _dump(session: Session, table: Table) -> bytes:
    rows = session.execute(select(table)).mappings()
    return b"".join(json.dumps(dict(row), default=_encode).encode() + b"\n" for row in rows)


def _encode(value: object) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(type(value).__name__)


def _decode(line: bytes, table: Table) -> dict[str, Any]:
    try:
        row = json.loads(line)
        return {name: _value(value, table.c[name].type) for name, value in row.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"a row of {table.name} in the bundle can't be read: {error}") from None


def _value(value: Any, kind: TypeEngine[Any]) -> Any:
    if value is None:
        return None
    if isinstance(kind, UtcDateTime):
        return datetime.fromisoformat(value)
    return base64.b64decode(value, validate=True) if isinstance(kind, LargeBinary) else value


def _read_head(tar: tarfile.TarFile) -> dict[str, Any]:
    member = tar.next()
    stream = tar.extractfile(member) if member and member.isreg() and member.size <= _MAX_HEAD_BYTES else None
    try:
        head = json.loads(stream.read()) if stream and member and member.name == "bundle.json" else None
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict) or not {"format", "revision", "rows", "blobs"} <= head.keys():
        raise BundleError("the file is no bundle of a registry: bundle.json isn't its first entry")
    if head["format"] != FORMAT:
        raise BundleError(f"the bundle has the format {head['format']!a}, this program reads {FORMAT}")
    return head


def _keep(blobs: Blobs, digest: str, stream: IO[bytes]) -> None:
    file = blobs.store.receive()
    try:
        while block := stream.read(1 << 20):
            file.write(block)
        file.verify(parse_digest(digest))
        blobs.store.keep(file, digest)
    except InvalidDigestError as error:
        raise BundleError(f"the bundle is damaged: {error}") from error
    finally:
        file.discard()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


class _Reader(io.RawIOBase):
    """Blocks as a file that can be read once."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._left = blocks, b""

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, fewer only at the end."""
        parts, wanted = [], size
        while wanted > 0:
            self._left = self._left or next(self._blocks, b"")
            if not self._left:
                break
            parts.append(self._left[:wanted])
            self._left = self._left[wanted:]
            wanted -= len(parts[-1])
        return b"".join(parts)
