"""Each registry has an id, which its blob store carries too."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Makes the id; a store that carries none yet is given it when the registry starts."""
    identity = op.create_table(
        "identity",
        sa.Column("one", BIG, nullable=False, autoincrement=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("one", name="pk_identity"),
        sa.CheckConstraint("one = 1", name=op.f("ck_identity_one")),
        sa.CheckConstraint("length(id) = 32", name=op.f("ck_identity_id")),
    )
    op.execute(sa.insert(identity).values(one=1, id=uuid.uuid4().hex))


def downgrade() -> None:
    """Forgets the id; the next upgrade makes another, and the store is then to be taken over: zoo registry adopt."""
    op.drop_table("identity")
