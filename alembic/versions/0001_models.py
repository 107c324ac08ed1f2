"""Models with names, versions, files, blobs and tags; tokens."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
DIGEST = (
    "length(digest) = 71 AND substr(digest, 1, 7) = 'sha256:' AND ltrim(substr(digest, 8), '0123456789abcdef') = ''"
)


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "models",
        sa.Column("id", BIG, nullable=False),
        sa.Column("full_name", sa.String(512), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint("full_name", name="uq_models_full_name"),
    )
    op.create_table(
        "names",
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("model_id", BIG, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_names"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_names_model_id"),
    )
    op.create_index("ix_names_model_id", "names", ["model_id"])
    op.create_table(
        "blobs",
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("size_bytes", BIG, nullable=False),
        sa.Column("offered_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_blobs"),
        sa.CheckConstraint(DIGEST, name=op.f("ck_blobs_digest")),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("ck_blobs_size")),
    )
    op.create_index("ix_blobs_offered_at", "blobs", ["offered_at"])
    _create_versions()
    op.create_table(
        "tokens",
        sa.Column("id", BIG, nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("revoked_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("name", name="uq_tokens_name"),
        sa.UniqueConstraint("hash", name="uq_tokens_hash"),
        sa.CheckConstraint("length(hash) = 64", name=op.f("ck_tokens_hash")),
    )


def _create_versions() -> None:
    op.create_table(
        "versions",
        sa.Column("id", BIG, nullable=False),
        sa.Column("model_id", BIG, nullable=False),
        sa.Column("number", BIG, nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("manifest", sa.LargeBinary(), nullable=False),
        sa.Column("size_bytes", BIG, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("alias", sa.String(512)),
        *(sa.Column(name, sa.String(256)) for name in ("domain", "task", "architecture", "dataset")),
        sa.Column("license", sa.String(256)),
        sa.Column("pattern", sa.String(256)),
        sa.Column("quantized", sa.Boolean()),
        sa.Column("sparsity", sa.Double()),
        sa.Column("search_text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.UniqueConstraint("digest", name="uq_versions_digest"),
        sa.UniqueConstraint("model_id", "number", name="uq_versions_model_id_number"),
        sa.UniqueConstraint("id", "model_id", name="uq_versions_id_model_id"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_versions_model_id"),
        sa.CheckConstraint(DIGEST, name=op.f("ck_versions_digest")),
        sa.CheckConstraint("number >= 1", name=op.f("ck_versions_number")),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("ck_versions_size")),
        sa.CheckConstraint("sparsity IS NULL OR (sparsity >= 0 AND sparsity <= 1)", name=op.f("ck_versions_sparsity")),
    )
    for facet in ("domain", "task", "architecture", "dataset"):
        op.create_index(f"ix_versions_{facet}", "versions", [facet])
    op.create_table(
        "files",
        sa.Column("version_id", BIG, nullable=False),
        sa.Column("path", sa.String(1024), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("size_bytes", BIG, nullable=False),
        sa.Column("role", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("version_id", "path", name="pk_files"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_files_version_id"),
        sa.ForeignKeyConstraint(["digest"], ["blobs.digest"], name="fk_files_digest"),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("ck_files_size")),
    )
    op.create_index("ix_files_digest", "files", ["digest"])
    op.create_table(
        "tags",
        sa.Column("model_id", BIG, nullable=False),
        sa.Column("tag", sa.String(128), nullable=False),
        sa.Column("version_id", BIG, nullable=False),
        sa.Column("moved_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("model_id", "tag", name="pk_tags"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_tags_model_id"),
        sa.ForeignKeyConstraint(
            ["version_id", "model_id"], ["versions.id", "versions.model_id"], name="fk_tags_version_id_model_id"
        ),
    )
    op.create_index("ix_tags_version_id", "tags", ["version_id"])


def downgrade() -> None:
    """Drops the tables with their rows; blobs stay in the storage."""
    for table in ("tokens", "tags", "files", "versions", "blobs", "names", "models"):
        op.drop_table(table)
