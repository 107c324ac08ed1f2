"""Listings for search, benchmark records, private scopes, grants of tokens, the audit log."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TSVECTOR

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
FACETS = ("domain", "task", "architecture", "dataset", "license", "pattern")

FTS5 = (
    """CREATE VIRTUAL TABLE listing_terms USING fts5(
        terms, content='listings', content_rowid='model_id', detail='none', tokenize="ascii tokenchars '='"
    )""",
    """CREATE TRIGGER listings_insert AFTER INSERT ON listings BEGIN
        INSERT INTO listing_terms(rowid, terms) VALUES (new.model_id, new.terms);
    END""",
    """CREATE TRIGGER listings_delete AFTER DELETE ON listings BEGIN
        INSERT INTO listing_terms(listing_terms, rowid, terms) VALUES ('delete', old.model_id, old.terms);
    END""",
    """CREATE TRIGGER listings_update AFTER UPDATE OF terms ON listings WHEN old.terms <> new.terms BEGIN
        INSERT INTO listing_terms(listing_terms, rowid, terms) VALUES ('delete', old.model_id, old.terms);
        INSERT INTO listing_terms(rowid, terms) VALUES (new.model_id, new.terms);
    END""",
)


def upgrade() -> None:
    """Creates the tables; the program fills the listings from the versions that are there."""
    op.add_column("models", sa.Column("private", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("tokens", sa.Column("grants", sa.Text(), nullable=False, server_default="write:*"))
    for facet in ("domain", "task", "architecture", "dataset"):
        op.drop_index(f"ix_versions_{facet}", "versions")
    op.drop_column("versions", "search_text")
    _create_listings()
    _create_benchmarks()
    op.create_table(
        "scopes",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("private", sa.Boolean(), nullable=False),
        sa.Column("changed_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_scopes"),
    )
    op.create_table(
        "offers",
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("token_id", BIG, nullable=False, autoincrement=False),
        sa.PrimaryKeyConstraint("digest", "token_id", name="pk_offers"),
        sa.ForeignKeyConstraint(["digest"], ["blobs.digest"], name="fk_offers_digest", ondelete="CASCADE"),
    )
    op.create_table(
        "audit",
        sa.Column("id", BIG, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("actor", sa.String(128)),
        sa.Column("address", sa.String(64)),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("target", sa.String(600), nullable=False),
        sa.Column("detail", sa.String(1024)),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_at", "audit", ["at"])
    op.create_index("ix_audit_target", "audit", ["target"])


def _create_listings() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    op.create_table(
        "listings",
        sa.Column("model_id", BIG, nullable=False, autoincrement=False),
        sa.Column("version_id", BIG, nullable=False),
        sa.Column("full_name", sa.String(512), nullable=False),
        sa.Column("private", sa.Boolean(), nullable=False),
        *(sa.Column(name, sa.String(256)) for name in FACETS),
        sa.Column("quantized", sa.Boolean()),
        sa.Column("sparsity", sa.Double()),
        sa.Column("size_bytes", BIG, nullable=False),
        sa.Column("f1", sa.Double()),
        sa.Column("latency_ms", sa.Double()),
        sa.Column("terms", sa.Text() if is_sqlite else TSVECTOR(), nullable=False),
        sa.PrimaryKeyConstraint("model_id", name="pk_listings"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_listings_model_id"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_listings_version_id"),
    )
    op.create_index("ix_listings_version_id", "listings", ["version_id"])
    op.create_index("ix_listings_family", "listings", ["task", "dataset", "architecture"])
    if is_sqlite:
        for statement in FTS5:
            op.execute(statement)
    else:
        op.create_index(
            "ix_listings_terms", "listings", ["terms"], postgresql_using="gin", postgresql_with={"fastupdate": "off"}
        )


def _create_benchmarks() -> None:
    op.create_table(
        "benchmarks",
        sa.Column("id", BIG, nullable=False),
        sa.Column("version_id", BIG, nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("cpu", sa.String(128), nullable=False),
        sa.Column("isa", sa.String(32), nullable=False),
        sa.Column("cores", BIG, nullable=False),
        sa.Column("threads", BIG, nullable=False),
        sa.Column("engine", sa.String(64), nullable=False),
        sa.Column("batch_size", BIG, nullable=False),
        sa.Column("sequence_length", BIG),
        sa.Column("items_per_second", sa.Double(), nullable=False),
        sa.Column("median_ms", sa.Double(), nullable=False),
        sa.Column("measured_at", TIME, nullable=False),
        sa.Column("published_by", sa.String(128)),
        sa.Column("record", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_benchmarks"),
        sa.UniqueConstraint("version_id", "digest", name="uq_benchmarks_version_id_digest"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_benchmarks_version_id"),
        sa.CheckConstraint("threads >= 1 AND cores >= 1 AND batch_size >= 1", name=op.f("ck_benchmarks_counts")),
        sa.CheckConstraint("median_ms > 0 AND items_per_second > 0", name=op.f("ck_benchmarks_times")),
    )
    for column in ("cpu", "isa"):
        op.create_index(f"ix_benchmarks_{column}_batch_size", "benchmarks", [column, "batch_size"])


def downgrade() -> None:
    """Drops them with their rows; every model is public then, and every token may write.

    The words that a search of the older program reads, `search_text`, stay empty: it finds versions by facets, and by
    words only those that are published from then on.
    """
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE listing_terms")
    for table in ("audit", "offers", "scopes", "benchmarks", "listings"):
        op.drop_table(table)
    op.add_column("versions", sa.Column("search_text", sa.Text(), nullable=False, server_default=""))
    for facet in ("domain", "task", "architecture", "dataset"):
        op.create_index(f"ix_versions_{facet}", "versions", [facet])
    op.drop_column("tokens", "grants")
    op.drop_column("models", "private")
