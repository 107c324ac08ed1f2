"""The database: one engine, sessions for reading, and retried transactions for writing."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from registry.errors import StartError, UnavailableError
from registry.sqlite_files import is_on_shared_disk

BUSY_TIMEOUT_MS = 15_000
ATTEMPTS = 8
_DAMAGE = ("disk image is malformed", "file is not a database")  # in SQLite's words
_RETRYABLE_STATES = {"40001", "40P01"}  # serialization failure, deadlock

log = logging.getLogger(__name__)
T = TypeVar("T")


class Database:
    """A registry's database. `read` gives a session; `write` runs a function in one retried transaction."""

    def __init__(self, url: str) -> None:
        self.engine = _make_engine(url)
        self._writing = self.engine.execution_options(registry_writes=True)

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is an SQLite file."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees committed rows; raises `UnavailableError` if the database can't be used."""
        try:
            with Session(self.engine) as session:
                yield session
        except (DBAPIError, PoolTimeoutError) as error:
            raise _unavailable(error) from error

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A session whose reads all see one moment."""
        with self.read() as session:
            if not self.is_sqlite:
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session

    def write(self, work: Callable[[Session], T]) -> T:
        """Runs `work` in a transaction and commits it.

        A lost race (a unique constraint, a deadlock, a serialization failure) runs `work` again, which then sees the
        winner's rows; so `work` must check before it writes.
        """
        for attempt in range(ATTEMPTS):
            try:
                with Session(self._writing, expire_on_commit=False) as session, session.begin():
                    return work(session)
            except (DBAPIError, PoolTimeoutError) as error:
                if not _is_retryable(error):
                    raise _unavailable(error) from error
                last = error
            time.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311  # jitter, not a secret
        raise UnavailableError("the database is too busy to write; try again") from last

    @contextmanager
    def exclusive(self) -> Iterator[Connection]:
        """A writing transaction on one connection, for migrations; the database's own errors come through."""
        with self._writing.begin() as connection:
            yield connection

    def close(self) -> None:
        """Closes every connection."""
        self.engine.dispose()


def _make_engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            return _sqlite_engine(url, Path(parsed.database or ""))
        connect = {"connect_timeout": 10, "options": "-c timezone=utc -c lock_timeout=15s -c jit=off"}
        return create_engine(
            parsed, pool_size=10, max_overflow=10, pool_timeout=15, pool_pre_ping=True, connect_args=connect
        )
    except (ArgumentError, ImportError) as error:
        raise StartError(f"the database URL can't be used: {error}") from error


def _sqlite_engine(url: str, path: Path) -> Engine:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"the folder of the database {path} can't be made: {error.strerror}") from error
    engine = create_engine(url, pool_size=10, max_overflow=10, pool_timeout=15, connect_args={"timeout": 0})
    event.listen(engine, "connect", partial(_prepare_sqlite, uses_wal=not is_on_shared_disk(path)))
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any, *, uses_wal: bool) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, because only then are schema changes transactional
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    mode = _enter_mode(connection, "WAL" if uses_wal else "DELETE")
    if mode != "wal":
        log.warning("SQLite keeps journal mode %s here: readers wait for writers", mode)


def _enter_mode(connection: Any, mode: str) -> str:
    """Switches the journal's mode and reads it back; the switch ignores busy_timeout, so servers wait here."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            return str(connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0])
        except connection.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.005, 0.05))  # noqa: S311  # jitter, not a secret


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("registry_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _is_retryable(error: SQLAlchemyError) -> bool:
    if isinstance(error, IntegrityError):
        return True
    original = error.orig if isinstance(error, DBAPIError) else None
    return getattr(original, "sqlstate", None) in _RETRYABLE_STATES


def _unavailable(error: SQLAlchemyError) -> UnavailableError:
    original = error.orig if isinstance(error, DBAPIError) else error
    lines = str(original).strip().splitlines()
    log.error("the database failed: %s", lines[0] if lines else type(original).__name__)
    if lines and lines[0].endswith(_DAMAGE):
        return UnavailableError("the database's file is damaged, and was left as it is; restore a backup elsewhere")
    return UnavailableError("the database can't be used now; try again, and look at the server's log")
