"""PostgreSQL's index of terms also knows the blocks of ids that a listing is in."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

WITH_BLOCKS = """terms || array_to_tsvector(ARRAY[
    '=b9=' || (model_id >> 9)::text, '=b13=' || (model_id >> 13)::text,
    '=b17=' || (model_id >> 17)::text, '=b21=' || (model_id >> 21)::text
])"""


def upgrade() -> None:
    """Makes the index anew; SQLite reads its own in the order of ids and needs no blocks."""
    _index_terms(f"({WITH_BLOCKS})")


def downgrade() -> None:
    """Makes the index of terms alone."""
    _index_terms("terms")


def _index_terms(expression: str) -> None:
    """Searches go on while the index is made, a minute or more for a million listings; dropping one locks them out."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL maintenance_work_mem = '256MB'")
        op.execute(f"CREATE INDEX ix_listings_fresh ON listings USING gin ({expression}) WITH (fastupdate = off)")
        op.execute("DROP INDEX ix_listings_terms")
        op.execute("ALTER INDEX ix_listings_fresh RENAME TO ix_listings_terms")
