"""Runs migrations on the connection that `registry.migrate` opened, or on the database of the settings."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from alembic import context
from registry.db import Database
from registry.migrate import alone
from registry.settings import Settings
from registry.tables import Base, is_declared


def run(connection: Connection) -> None:
    """Runs what the alembic command asked for: in the caller's transaction, on PostgreSQL in one for each revision."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        include_name=is_declared,
        render_as_batch=connection.dialect.name == "sqlite",
        transactional_ddl=True,
        transaction_per_migration=connection.dialect.name == "postgresql",
    )
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    """Finds the connection."""
    if context.is_offline_mode():
        raise SystemExit("SQL scripts without a database aren't offered; run the migration on the database itself")
    given = context.config.attributes.get("connection")
    if given is not None:
        run(given)
        return
    database = Database(Settings.load().database)
    with alone(database) as connection:
        run(connection)


main()
