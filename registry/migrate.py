"""Brings a database to the schema that this program knows. Ten servers that start at once migrate once.

On SQLite all of it is one transaction. On PostgreSQL each revision is one, and what takes long for many models is done
outside of them, so that a registry that serves meanwhile goes on writing: large indexes are made concurrently, and
listings some at a time. A crash leaves what was finished, and the next start goes on there.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import func, inspect, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from alembic import command
from registry import listings
from registry.db import Database
from registry.errors import SchemaError
from registry.sqlite_files import keep_copy

_LOCK_KEY = 0x73707277  # "sprw": which PostgreSQL advisory lock is ours
_PATIENCE_S = 6 * 3_600
_HERE = Path(__file__).parent

log = logging.getLogger(__name__)


def scripts_folder() -> Path:
    """The migrations: within an installed package, or at the top of a checkout."""
    for folder in (_HERE / "migrations", _HERE.parent / "alembic"):
        if (folder / "env.py").is_file():
            return folder
    raise SchemaError(f"the migrations are missing beside {_HERE}; install sparrow-zoo again")


def upgrade(database: Database) -> str:
    """Creates or upgrades the schema, and returns its revision; raises `SchemaError` if that can't be done.

    Of an SQLite database with an older schema a copy is kept beside it, as FILE.REVISION.backup.
    """
    return _run(database, "head")


def downgrade(database: Database, revision: str) -> str:
    """Takes the schema back to a revision, or to "base"."""
    return _run(database, revision, down=True)


def current(connection: Connection) -> tuple[str, ...]:
    """The revisions that the database says it has: none, one, or a broken several."""
    return MigrationContext.configure(connection).get_current_heads()


def config_for(connection: Connection) -> Config:
    """An alembic configuration that works on an open connection."""
    config = Config()
    config.set_main_option("script_location", str(scripts_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def alone(database: Database) -> Iterator[Connection]:
    """A connection that migrates while no other does: in a transaction on SQLite, outside of any on PostgreSQL."""
    if database.is_sqlite:
        with database.exclusive() as connection:
            yield connection
        return
    with database.engine.connect() as connection:
        try:
            _await_lock(connection)
            yield connection
        finally:
            connection.invalidate()  # no pool keeps it, so the lock ends with it


def _await_lock(connection: Connection) -> None:
    """Asks again and again: a statement that waits has a snapshot, for whose end the maker of an index waits."""
    deadline, is_told = time.monotonic() + _PATIENCE_S, False
    while not connection.scalar(select(func.pg_try_advisory_lock(_LOCK_KEY))):
        connection.rollback()
        if not is_told:
            log.info("another registry is upgrading the database; this one waits for it")
            is_told = True
        if time.monotonic() > deadline:
            raise SchemaError(f"another registry has been upgrading the database for {_PATIENCE_S / 3_600:g} hours")
        time.sleep(random.uniform(0.05, 0.2))  # noqa: S311  # jitter, not a secret
    connection.rollback()


def _run(database: Database, target: str, *, down: bool = False) -> str:
    try:
        with alone(database) as connection:
            config = config_for(connection)
            scripts = ScriptDirectory.from_config(config)
            _check(connection, scripts)
            before = current(connection)
            goal = scripts.get_current_head() if target == "head" else target
            if before and before[0] != goal:
                log.info("the database's schema goes from %s to %s", before[0], goal)
                if database.is_sqlite:
                    keep_copy(Path(str(database.engine.url.database)), before[0])
            if not database.is_sqlite:
                connection.rollback()  # alembic begins a transaction for each revision
            (command.downgrade if down else command.upgrade)(config, target)
            after = current(connection)
            if not down:
                _complete_listings(database, connection, is_new=after != before)
            return ", ".join(after) or "base"
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        left = "stays as it was" if database.is_sqlite else "keeps what was finished; the next start goes on there"
        raise SchemaError(f"the database can't be opened or upgraded, and {left}: {first}") from error


def _complete_listings(database: Database, connection: Connection, *, is_new: bool) -> None:
    """Makes the listings that models lack after a migration, or, on PostgreSQL, after one that was cut off later."""
    if database.is_sqlite:
        if is_new:
            with Session(connection, join_transaction_mode="rollback_only") as session:
                listings.complete(session)
                session.flush()
        return
    connection.rollback()
    with database.read() as session:
        found = listings.lacking(session)
    for start in range(0, len(found), listings.BATCH):
        database.write(partial(listings.fill, model_ids=found[start : start + listings.BATCH]))


def _check(connection: Connection, scripts: ScriptDirectory) -> None:
    heads = current(connection)
    newest = scripts.get_current_head()
    if len(heads) > 1:
        raise SchemaError(f"the database claims two schemas at once ({', '.join(heads)}); restore it from a backup")
    if not heads and inspect(connection).has_table("versions"):
        raise SchemaError("the database has tables of another program; give the registry a database of its own")
    for head in heads:
        try:
            scripts.get_revision(head)
        except CommandError as error:
            raise SchemaError(
                f"the database's schema {head!r} is newer than this program, which knows up to {newest!r}; "
                "upgrade sparrow-zoo (the database was left as it is)"
            ) from error
