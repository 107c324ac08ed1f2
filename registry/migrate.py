"""Brings a database to the schema that this program knows. Ten servers that start at once migrate once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from alembic import command
from registry import listings
from registry.db import Database
from registry.errors import SchemaError
from registry.sqlite_files import keep_copy

_LOCK_KEY = 0x73707277  # "sprw": which PostgreSQL advisory lock is ours
_HERE = Path(__file__).parent


def scripts_folder() -> Path:
    """The migrations: within an installed package, or at the top of a checkout."""
    for folder in (_HERE / "migrations", _HERE.parent / "alembic"):
        if (folder / "env.py").is_file():
            return folder
    raise SchemaError(f"the migrations are missing beside {_HERE}; install sparrow-zoo again")


def upgrade(database: Database) -> str:
    """Creates or upgrades the schema, and returns its revision; raises `SchemaError` if that can't be done.

    All steps run in one transaction on both databases: a crash leaves the old schema. Of an SQLite database with an
    older one a copy is kept beside it, as FILE.REVISION.backup.
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


def _run(database: Database, target: str, *, down: bool = False) -> str:
    try:
        with database.exclusive() as connection:
            if not database.is_sqlite:
                connection.execute(text("SET LOCAL lock_timeout = '120s'"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
            config = config_for(connection)
            scripts = ScriptDirectory.from_config(config)
            _check(connection, scripts)
            before = current(connection)
            goal = scripts.get_current_head() if target == "head" else target
            if database.is_sqlite and before and before[0] != goal:
                keep_copy(Path(str(database.engine.url.database)), before[0])
            (command.downgrade if down else command.upgrade)(config, target)
            if not down and current(connection) != before:
                with Session(connection, join_transaction_mode="rollback_only") as session:
                    listings.complete(session)
                    session.flush()
            return ", ".join(current(connection)) or "base"
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise SchemaError(f"the database can't be opened or upgraded, and stays as it was: {first}") from error


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
