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
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP INDEX ix_listings_terms")
        op.execute(f"CREATE INDEX ix_listings_terms ON listings USING gin ({expression}) WITH (fastupdate = off)")
