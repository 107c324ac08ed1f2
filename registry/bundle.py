"""A whole registry as one file: its rows, from one moment, and the blobs that they name.

    bundle.json           what is in it; first, so that a wrong file is refused at once
    blobs/HEX             each blob, verified on its way out and in
    tables/NAME.jsonl     one row a line; the same for SQLite and PostgreSQL, so that a backup moves between them

Uploads under way are left out, listings, which are made from versions, and the registry's id: what is restored is a
registry of its own, whose store isn't the old one's. Tokens are in it as their hashes only; a
bundle still tells who may do what, so keep it as the database is kept. Rows pass through in batches, both ways, so
that a registry may be larger than the memory.
"""

from __future__ import annotations

import base64
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

from sqlalchemy import LargeBinary, Table, insert, select, text
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeEngine

from registry import blob_queries, listings, migrate
from registry.blobs import Blobs
from registry.db import Database
from registry.errors import BundleError
from registry.progress import Report, counted, silent
from registry.tables import Base, UtcDateTime
from registry.tar import add_blobs, add_file, digest_of_entry, reading, writing

FORMAT = 1
_LEFT_OUT = {"uploads", "chunks", "listings", "identity"}
_HEAD = {"format": int, "revision": str, "rows": dict, "blobs": int}
_TABLE = re.compile(r"tables/([a-z_]{1,40})\.jsonl\Z")
_BATCH = 1_000


@dataclass(frozen=True)
class BundleReport:
    """What went into a bundle, or came out of one."""

    rows: int
    blobs: int
    size_bytes: int


def backup(database: Database, blobs: Blobs, path: Path, report: Report = silent) -> BundleReport:
    """Writes the bundle, whole or not at all; the registry may serve meanwhile.

    Raises `DamagedBlobError` for a blob that can't be read back as it came: scrub, and heal it first. Raises
    `BundleError` if the file can't be written.
    """
    with ExitStack() as stack:
        files = {table.name: stack.enter_context(tempfile.TemporaryFile()) for table in _tables()}
        with database.snapshot() as session:
            counts = {table.name: _dump(session, table, files[table.name], report) for table in _tables()}
            named = dict(blob_queries.all_blobs(session))
            revision = ", ".join(migrate.current(session.connection()))
        head = {"format": FORMAT, "revision": revision, "rows": counts, "blobs": len(named)}
        with writing(path, head) as tar:
            size_bytes = add_blobs(tar, blobs, named, report)
            for name, file in files.items():
                size = file.tell()
                file.seek(0)
                add_file(tar, f"tables/{name}.jsonl", file, size)
    return BundleReport(sum(counts.values()), len(named), size_bytes)


def restore(database: Database, blobs: Blobs, path: Path, report: Report = silent) -> BundleReport:
    """Fills an empty registry from a bundle: blobs first, then all rows in one transaction.

    Raises `BundleError` for a file that is no whole bundle of this schema, or a registry that isn't empty; its rows
    are then as before.
    """
    tables = {table.name: table for table in _tables()}
    count, size_bytes, rows = 0, 0, dict[str, int]()
    with reading(path, _HEAD, report) as (head, entries):
        _check_head(head, database)
        for name, stream in entries:
            digest = digest_of_entry(name)
            if digest is None:
                table = _table_of(name, tables)
                rows[table.name] = sum(len(batch) for batch in _batches(stream, table))
                continue
            with blobs.received(stream, digest) as file:
                blobs.store.keep(file, digest)
            count, size_bytes = count + 1, size_bytes + file.size_bytes
    if count != head["blobs"] or rows != head["rows"] or list(rows) != list(tables):
        raise BundleError("the bundle is cut off: it holds less than it says; nothing was restored")
    database.write(partial(_insert, path=path, tables=tables, rows=sum(rows.values()), report=report))
    return BundleReport(sum(rows.values()), count, size_bytes)


def _check_head(head: dict[str, Any], database: Database) -> None:
    if head["format"] != FORMAT:
        raise BundleError(f"the bundle has the format {head['format']!a}, this program reads {FORMAT}")
    with database.read() as session:
        revision = ", ".join(migrate.current(session.connection()))
        if any(session.execute(select(table).limit(1)).first() for table in _tables()):
            raise BundleError("this registry isn't empty; restore into a new database and folder")
    if head["revision"] != revision:
        raise BundleError(
            f"the bundle has the schema {head['revision']!a}, this program {revision!r}; restore it with the program "
            "that wrote it, then upgrade"
        )


def _insert(session: Session, *, path: Path, tables: dict[str, Table], rows: int, report: Report) -> None:
    """Reads the rows once more, each table's in the order in which others refer to it."""
    done = 0
    with reading(path, _HEAD) as (_, entries):
        for name, stream in entries:
            if digest_of_entry(name) is not None:
                continue
            table = _table_of(name, tables)
            for batch in _batches(stream, table):
                session.execute(insert(table), batch)
                done += len(batch)
                report("rows", done, rows)
            if session.get_bind().dialect.name == "postgresql" and table.primary_key.columns.keys() == ["id"]:
                _advance(session, table.name)
    listings.complete(session, report)


def _advance(session: Session, name: str) -> None:
    """Lets a table's counter go on after the ids that were inserted."""
    sequence = session.scalar(text("SELECT pg_get_serial_sequence(:name, 'id')"), {"name": name})
    if sequence:
        highest = session.scalar(text(f"SELECT max(id) FROM {name}"))  # noqa: S608  # a name of our own
        session.execute(text("SELECT setval(:sequence, :highest)"), {"sequence": sequence, "highest": highest})


def _tables() -> list[Table]:
    return [table for table in Base.metadata.sorted_tables if table.name not in _LEFT_OUT]


def _table_of(name: str, tables: dict[str, Table]) -> Table:
    match = _TABLE.match(name)
    if match is None or match[1] not in tables:
        raise BundleError(f"the bundle holds {name[:100]!a}, which belongs in none")
    return tables[match[1]]


def _dump(session: Session, table: Table, file: IO[bytes], report: Report) -> int:
    """Writes a table's rows as lines; returns their number."""
    count, rows = 0, session.execute(select(table).execution_options(yield_per=_BATCH)).mappings()
    for row in counted(rows, report, f"rows of {table.name}"):
        file.write(json.dumps(dict(row), default=_encode).encode() + b"\n")
        count += 1
    return count


def _batches(stream: IO[bytes], table: Table) -> Iterator[list[dict[str, Any]]]:
    while batch := [_decode(line, table) for line in islice(stream, _BATCH)]:
        yield batch


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
