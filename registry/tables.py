"""The tables. Constraints refuse bad rows, whoever writes them.

models ──< versions ──< files >── blobs        names: every full name and alias, each for one model
   │          └───────< lineage                uploads ──< chunks: large blobs on their way in
   └─────< tags >── versions                   tokens: sha256 of each token, never the token
models ─── listings >── versions               listings: what a search sees, one for each model with a latest version
versions ──< benchmarks                        scopes: which are private; offers: who sent a blob; audit: who did what
                                               identity: the registry's id, in one row
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


FTS_TABLE = "listing_terms"  # SQLite's index of terms; its own tables begin with its name
TERMS_INDEX = "ix_listings_terms"  # PostgreSQL's


def is_declared(name: str | None, _kind: str, _parents: object) -> bool:
    """Whether alembic finds what is named so declared here: the index of terms is made by a migration alone."""
    return name is None or not name.startswith((FTS_TABLE, TERMS_INDEX))


def digest_check(column: str) -> str:
    """SQL that holds for `sha256:` and 64 lower-case hex digits, the same on SQLite and PostgreSQL."""
    return (
        f"length({column}) = 71 AND substr({column}, 1, 7) = 'sha256:' "
        f"AND ltrim(substr({column}, 8), '0123456789abcdef') = ''"
    )


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, kept in UTC; a naive one is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turns a time into UTC, and drops the zone where the database has none."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone can't be stored")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Gives the zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Root of the tables."""

    metadata = MetaData(naming_convention=CONVENTION)
    type_annotation_map = {datetime: UtcDateTime, int: BigInteger().with_variant(Integer, "sqlite")}  # noqa: RUF012


class Model(Base):
    """What a stub names."""

    __tablename__ = "models"

    id: Mapped[int] = mapped_column(primary_key=True)
    full_name: Mapped[str] = mapped_column(String(512), unique=True)
    created_at: Mapped[datetime]
    private: Mapped[bool] = mapped_column(server_default=false())


class Name(Base):
    """A name that a stub can use: a model's full name or an alias. The key keeps both in one name space."""

    __tablename__ = "names"

    name: Mapped[str] = mapped_column(String(512), primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), index=True)


class Version(Base):
    """One immutable manifest of a model, with its main facts.

    A yanked version is left out where nothing pins it. A deleted one keeps its row, so that its number and its digest
    never come back for something else, and loses its files. `check_report` is what the gate found, as JSON.
    """

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("model_id", "number"),
        UniqueConstraint("id", "model_id"),
        CheckConstraint(digest_check("digest"), name="digest"),
        CheckConstraint("number >= 1", name="number"),
        CheckConstraint("size_bytes >= 0", name="size"),
        CheckConstraint("sparsity IS NULL OR (sparsity >= 0 AND sparsity <= 1)", name="sparsity"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int]
    digest: Mapped[str] = mapped_column(String(71), unique=True)
    manifest: Mapped[bytes] = mapped_column(LargeBinary)
    size_bytes: Mapped[int]
    created_at: Mapped[datetime]
    alias: Mapped[str | None] = mapped_column(String(512))
    domain: Mapped[str | None] = mapped_column(String(256))
    task: Mapped[str | None] = mapped_column(String(256))
    architecture: Mapped[str | None] = mapped_column(String(256))
    dataset: Mapped[str | None] = mapped_column(String(256))
    license: Mapped[str | None] = mapped_column(String(256))
    pattern: Mapped[str | None] = mapped_column(String(256))
    quantized: Mapped[bool | None]
    sparsity: Mapped[float | None]
    yanked_at: Mapped[datetime | None]
    yank_reason: Mapped[str | None] = mapped_column(String(1024))
    deleted_at: Mapped[datetime | None]
    delete_reason: Mapped[str | None] = mapped_column(String(1024))
    check_report: Mapped[str | None] = mapped_column(Text)

    model: Mapped[Model] = relationship(lazy="joined", innerjoin=True)


class Blob(Base):
    """Bytes that were uploaded and verified.

    The grace period of a sweep starts at `offered_at`: the last upload, or the moment when a version let go of the
    blob. `checked_at` is the last scrub; `damaged_at` is set while the stored bytes are known to be wrong.
    """

    __tablename__ = "blobs"
    __table_args__ = (
        CheckConstraint(digest_check("digest"), name="digest"),
        CheckConstraint("size_bytes >= 0", name="size"),
    )

    digest: Mapped[str] = mapped_column(String(71), primary_key=True)
    size_bytes: Mapped[int]
    offered_at: Mapped[datetime] = mapped_column(index=True)
    checked_at: Mapped[datetime | None]
    damaged_at: Mapped[datetime | None]


class File(Base):
    """One file of a version; it keeps its blob alive."""

    __tablename__ = "files"
    __table_args__ = (CheckConstraint("size_bytes >= 0", name="size"),)

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    path: Mapped[str] = mapped_column(String(1024), primary_key=True)
    digest: Mapped[str] = mapped_column(ForeignKey("blobs.digest"), index=True)
    size_bytes: Mapped[int]
    role: Mapped[str] = mapped_column(String(32))


class Tag(Base):
    """A movable name of a version; the double foreign key keeps it within the model."""

    __tablename__ = "tags"
    __table_args__ = (
        ForeignKeyConstraint(["version_id", "model_id"], ["versions.id", "versions.model_id"]),
        Index("ix_tags_version_id", "version_id"),
    )

    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), primary_key=True)
    tag: Mapped[str] = mapped_column(String(128), primary_key=True)
    version_id: Mapped[int]
    moved_at: Mapped[datetime]


class Lineage(Base):
    """What a version was made from.

    `target` is a model's name as the manifest wrote it, without prefix, pin and query, or a sha256 digest; `pin` is
    the pin that stood there. Names are matched with all names of a model when they are asked for, so that a target may
    be published later, or under another name.
    """

    __tablename__ = "lineage"
    __table_args__ = (
        CheckConstraint("relation IN ('base', 'teacher', 'recipe', 'data')", name="relation"),
        Index("ix_lineage_target_relation", "target", "relation"),
    )

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    relation: Mapped[str] = mapped_column(String(16), primary_key=True)
    target: Mapped[str] = mapped_column(String(512), primary_key=True)
    pin: Mapped[str | None] = mapped_column(String(128))


class Upload(Base):
    """A blob that comes in chunks. `offset_bytes` of `size_bytes` are here; each caller has one per digest."""

    __tablename__ = "uploads"
    __table_args__ = (
        UniqueConstraint("digest", "owner"),
        CheckConstraint(digest_check("digest"), name="digest"),
        CheckConstraint("offset_bytes >= 0 AND offset_bytes <= size_bytes", name="offset"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    digest: Mapped[str] = mapped_column(String(71))
    owner: Mapped[str] = mapped_column(String(128))
    size_bytes: Mapped[int]
    offset_bytes: Mapped[int]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Chunk(Base):
    """A part of an upload, under a key of the blob store's staging area."""

    __tablename__ = "chunks"
    __table_args__ = (CheckConstraint("size_bytes > 0", name="size"),)

    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    start_bytes: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    size_bytes: Mapped[int]
    key: Mapped[str] = mapped_column(String(32), unique=True)


class Token(Base):
    """A token's sha256 in hex, and how long it holds."""

    __tablename__ = "tokens"
    __table_args__ = (CheckConstraint("length(hash) = 64", name="hash"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    grants: Mapped[str] = mapped_column(Text, server_default="write:*")
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Listing(Base):
    """What a search sees of a model: facets, numbers and terms of its latest version, kept by `registry.listings`.

    `f1` is in percent; `latency_ms` is the lowest median that was measured at batch size 1. On SQLite the FTS5 table
    `FTS_TABLE` indexes the terms, and triggers keep it; on PostgreSQL a GIN index does, with blocks of ids as terms.
    """

    __tablename__ = "listings"
    __table_args__ = (Index("ix_listings_family", "task", "dataset", "architecture"),)

    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), primary_key=True, autoincrement=False)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), index=True)
    full_name: Mapped[str] = mapped_column(String(512))
    private: Mapped[bool]
    domain: Mapped[str | None] = mapped_column(String(256))
    task: Mapped[str | None] = mapped_column(String(256))
    architecture: Mapped[str | None] = mapped_column(String(256))
    dataset: Mapped[str | None] = mapped_column(String(256))
    license: Mapped[str | None] = mapped_column(String(256))
    pattern: Mapped[str | None] = mapped_column(String(256))
    quantized: Mapped[bool | None]
    sparsity: Mapped[float | None]
    size_bytes: Mapped[int]
    f1: Mapped[float | None]
    latency_ms: Mapped[float | None]
    terms: Mapped[str] = mapped_column(Text().with_variant(TSVECTOR(), "postgresql"))


class Benchmark(Base):
    """One measurement of a version on named hardware. The digest of what was sent makes sending it again harmless."""

    __tablename__ = "benchmarks"
    __table_args__ = (
        UniqueConstraint("version_id", "digest"),
        CheckConstraint("threads >= 1 AND cores >= 1 AND batch_size >= 1", name="counts"),
        CheckConstraint("median_ms > 0 AND items_per_second > 0", name="times"),
        Index("ix_benchmarks_cpu_batch_size", "cpu", "batch_size"),
        Index("ix_benchmarks_isa_batch_size", "isa", "batch_size"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    digest: Mapped[str] = mapped_column(String(71))
    cpu: Mapped[str] = mapped_column(String(128))
    isa: Mapped[str] = mapped_column(String(32))
    cores: Mapped[int]
    threads: Mapped[int]
    engine: Mapped[str] = mapped_column(String(64))
    batch_size: Mapped[int]
    sequence_length: Mapped[int | None]
    items_per_second: Mapped[float]
    median_ms: Mapped[float]
    measured_at: Mapped[datetime]
    published_by: Mapped[str | None] = mapped_column(String(128))
    record: Mapped[str] = mapped_column(Text)


class Scope(Base):
    """A scope that an operator has spoken about; one without a row is public."""

    __tablename__ = "scopes"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    private: Mapped[bool]
    changed_at: Mapped[datetime]


class Offer(Base):
    """Who sent a blob's bytes: only they, and readers of a model that has it, may publish or read it."""

    __tablename__ = "offers"

    digest: Mapped[str] = mapped_column(ForeignKey("blobs.digest", ondelete="CASCADE"), primary_key=True)
    token_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class AuditEntry(Base):
    """Who changed what, and when; written in the transaction of the change itself."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    actor: Mapped[str | None] = mapped_column(String(128))
    address: Mapped[str | None] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(32))
    target: Mapped[str] = mapped_column(String(600), index=True)
    detail: Mapped[str | None] = mapped_column(String(1024))


class Identity(Base):
    """The registry's id, in one row; its blob store carries the same."""

    __tablename__ = "identity"
    __table_args__ = (CheckConstraint("one = 1", name="one"), CheckConstraint("length(id) = 32", name="id"))

    one: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    id: Mapped[str] = mapped_column(String(32))
