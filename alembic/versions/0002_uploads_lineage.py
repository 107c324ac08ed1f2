"""Uploads in chunks; lineage; versions that are yanked, deleted or checked; blobs that are scrubbed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
DIGEST = (
    "length(digest) = 71 AND substr(digest, 1, 7) = 'sha256:' AND ltrim(substr(digest, 8), '0123456789abcdef') = ''"
)
LONG_SEGMENTS = 7  # of a stub's long name
VERSION_COLUMNS = (
    ("yanked_at", TIME),
    ("yank_reason", sa.String(1024)),
    ("deleted_at", TIME),
    ("delete_reason", sa.String(1024)),
    ("check_report", sa.Text()),
)
BLOB_COLUMNS = (("checked_at", TIME), ("damaged_at", TIME))


def upgrade() -> None:
    """Adds the tables and columns, and reads the lineage out of the manifests that are there."""
    for name, kind in VERSION_COLUMNS:
        op.add_column("versions", sa.Column(name, kind))
    for name, kind in BLOB_COLUMNS:
        op.add_column("blobs", sa.Column(name, kind))
    _create_lineage()
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("size_bytes", BIG, nullable=False),
        sa.Column("offset_bytes", BIG, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
        sa.UniqueConstraint("digest", "owner", name="uq_uploads_digest_owner"),
        sa.CheckConstraint(DIGEST, name=op.f("ck_uploads_digest")),
        sa.CheckConstraint("offset_bytes >= 0 AND offset_bytes <= size_bytes", name=op.f("ck_uploads_offset")),
    )
    op.create_index("ix_uploads_expires_at", "uploads", ["expires_at"])
    op.create_table(
        "chunks",
        sa.Column("upload_id", sa.String(32), nullable=False),
        sa.Column("start_bytes", BIG, nullable=False, autoincrement=False),
        sa.Column("size_bytes", BIG, nullable=False),
        sa.Column("key", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("upload_id", "start_bytes", name="pk_chunks"),
        sa.UniqueConstraint("key", name="uq_chunks_key"),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], name="fk_chunks_upload_id", ondelete="CASCADE"),
        sa.CheckConstraint("size_bytes > 0", name=op.f("ck_chunks_size")),
    )


def _create_lineage() -> None:
    lineage = op.create_table(
        "lineage",
        sa.Column("version_id", BIG, nullable=False),
        sa.Column("relation", sa.String(16), nullable=False),
        sa.Column("target", sa.String(512), nullable=False),
        sa.Column("pin", sa.String(128)),
        sa.PrimaryKeyConstraint("version_id", "relation", "target", name="pk_lineage"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_lineage_version_id"),
        sa.CheckConstraint("relation IN ('base', 'teacher', 'recipe', 'data')", name=op.f("ck_lineage_relation")),
    )
    op.create_index("ix_lineage_target_relation", "lineage", ["target", "relation"])
    connection = op.get_bind()
    known = connection.execute(sa.text("SELECT id, manifest FROM versions ORDER BY id")).yield_per(1_000)
    for part in known.partitions():
        rows = [row for version_id, manifest in part for row in _lineage_of(version_id, json.loads(manifest))]
        if rows:
            connection.execute(sa.insert(lineage), rows)


def _lineage_of(version_id: int, manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for relation in ("base", "teacher", "recipe"):
        stub = manifest.get("metadata", {}).get(relation)
        if stub:
            name, _, pin = stub.removeprefix("zoo:").partition("?")[0].partition("@")
            if name.startswith("@") or not name:  # a scope, zoo:@acme/..., begins with the sign that pins
                scoped, _, pin = pin.partition("@")
                name = "@" + scoped
            segments = name.split("/")[: LONG_SEGMENTS + name.startswith("@")]  # one more names a recipe
            yield {"version_id": version_id, "relation": relation, "target": "/".join(segments), "pin": pin or None}
    recipes = {file["sha256"] for file in manifest["files"] if file["role"] == "recipe"}
    for digest in sorted(recipes):
        yield {"version_id": version_id, "relation": "recipe", "target": digest, "pin": None}
    data = manifest.get("metadata", {}).get("data_fingerprint")
    if data:
        yield {"version_id": version_id, "relation": "data", "target": data, "pin": None}


def downgrade() -> None:
    """Drops them with their rows. Deleted versions go for good, and yanked ones come back."""
    op.drop_table("chunks")
    op.drop_table("uploads")
    op.drop_table("lineage")
    op.execute("DELETE FROM versions WHERE deleted_at IS NOT NULL")
    for name, _ in BLOB_COLUMNS:
        op.drop_column("blobs", name)
    for name, _ in VERSION_COLUMNS:
        op.drop_column("versions", name)
