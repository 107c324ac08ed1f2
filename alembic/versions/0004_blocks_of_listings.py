"""PostgreSQL's index of terms also knows the blocks of ids that a listing is in."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

WITH_BLOCKS = """terms || array_to_tsvector(ARRAY[
    '=b9=' || (model_id >> 9)::text, '=b13=' || (model_id >> 13)::text,
    '=b17=' || (model_id >> 17)::text, '=b21=' || (model_id >> 21)::text
])"""
IS_WHOLE = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('ix_listings_fresh')")


def upgrade() -> None:
    """Makes the index anew; SQLite reads its own in the order of ids and needs no blocks."""
    _index_terms(f"({WITH_BLOCKS})")


def downgrade() -> None:
    """Makes the index of terms alone."""
    _index_terms("terms")


def _index_terms(expression: str) -> None:
    """Searches and writers go on while the index is made, a minute or more for a million listings.

    What an interrupted call has left is taken if it is whole, and made again if it isn't.
    """
    if op.get_bind().dialect.name != "postgresql":
        return
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")  # older transactions, such as a backup's, are waited for until they end
        op.execute("SET maintenance_work_mem = '256MB'")
        if not op.get_bind().scalar(IS_WHOLE):
            op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_listings_fresh")
            op.execute(
                "CREATE INDEX CONCURRENTLY ix_listings_fresh ON listings "
                f"USING gin ({expression}) WITH (fastupdate = off)"
            )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_listings_terms")
        op.execute("RESET maintenance_work_mem")
        op.execute("RESET lock_timeout")
    op.execute("ALTER INDEX ix_listings_fresh RENAME TO ix_listings_terms")
