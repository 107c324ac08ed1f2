"""SQL on blobs, and on uploads that come in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from sqlalchemy import delete, exists, select, update
from sqlalchemy.orm import Session

from registry.caller import Caller
from registry.queries import visible
from registry.tables import Blob, Chunk, File, Model, Offer, Upload, Version

_CHUNK = 5_000  # SQLite takes 32,766 variables in a statement, PostgreSQL 65,535


def blob_sizes(session: Session, digests: Iterable[str]) -> dict[str, int]:
    """The size of each blob that is here and not known to be damaged."""
    wanted, sizes = list(dict.fromkeys(digests)), dict[str, int]()
    for start in range(0, len(wanted), _CHUNK):
        part = Blob.digest.in_(wanted[start : start + _CHUNK])
        sizes.update(session.execute(select(Blob.digest, Blob.size_bytes).where(part, Blob.damaged_at.is_(None))).all())
    return sizes


def blob_row(session: Session, digest: str) -> Blob | None:
    """What is recorded of a blob."""
    return session.get(Blob, digest)


def offer_blob(session: Session, digest: str, size_bytes: int, now: datetime) -> bool:
    """Records a blob, or that it was sent again; holds its row until the transaction ends. True if it is new."""
    row = session.get(Blob, digest, with_for_update=True)
    if row is None:
        session.add(Blob(digest=digest, size_bytes=size_bytes, offered_at=now))
    else:
        row.offered_at, row.damaged_at = now, None
    session.flush()
    return row is None


def readable(session: Session, digests: Sequence[str], caller: Caller) -> list[str]:
    """Those of the blobs that a model has which is there for the caller, or that the caller sent."""
    if caller.sees_everything:
        return list(digests)
    found = set[str]()
    for start in range(0, len(digests), _CHUNK):
        part = digests[start : start + _CHUNK]
        if caller.token_id:
            sent = select(Offer.digest).where(Offer.digest.in_(part), Offer.token_id == caller.token_id)
            found.update(session.scalars(sent))
        models = (
            select(File.digest).join(Version, Version.id == File.version_id).join(Model, Model.id == Version.model_id)
        )
        shown = models.where(File.digest.in_(part), visible(caller, Model)).distinct()
        found.update(session.scalars(shown))
    return [digest for digest in digests if digest in found]


def note_sender(session: Session, digest: str, token_id: int) -> None:
    """Remembers that these bytes were sent with this token; who has none can't be told from another."""
    if token_id:
        session.merge(Offer(digest=digest, token_id=token_id))
        session.flush()


def mark_checked(session: Session, digest: str, now: datetime, *, is_sound: bool) -> None:
    """Notes what reading a blob's bytes again found."""
    session.execute(
        update(Blob).where(Blob.digest == digest).values(checked_at=now, damaged_at=None if is_sound else now)
    )


def orphan_blobs(session: Session, offered_before: datetime) -> Sequence[Blob]:
    """Blobs that no version names, and that were last sent or let go before a time."""
    used = exists().where(File.digest == Blob.digest)
    return session.scalars(select(Blob).where(Blob.offered_at < offered_before, ~used)).all()


def delete_orphan(session: Session, digest: str, offered_before: datetime) -> bool:
    """Deletes one blob's row if it is still an orphan; the row stays held until the transaction ends."""
    used = exists().where(File.digest == digest)
    statement = delete(Blob).where(Blob.digest == digest, Blob.offered_at < offered_before, ~used)
    return bool(session.execute(statement.returning(Blob.digest)).all())


def all_blobs(session: Session) -> Iterator[tuple[str, int]]:
    """Digest and size of every blob."""
    rows = session.execute(select(Blob.digest, Blob.size_bytes).order_by(Blob.digest))
    yield from ((digest, size_bytes) for digest, size_bytes in rows)


def versions_with_blob(session: Session, digest: str, limit: int = 5) -> Sequence[Version]:
    """Some versions that a blob belongs to."""
    users = select(File.version_id).where(File.digest == digest)
    return session.scalars(select(Version).where(Version.id.in_(users)).order_by(Version.id).limit(limit)).all()


# --- uploads


def upload_of(session: Session, digest: str, owner: str) -> Upload | None:
    """A caller's upload of a digest; its row is held until the transaction ends."""
    return session.scalar(select(Upload).where(Upload.digest == digest, Upload.owner == owner).with_for_update())


def upload_by_id(session: Session, upload_id: str) -> Upload | None:
    """An upload; its row is held until the transaction ends."""
    return session.get(Upload, upload_id, with_for_update=True)


def add_upload(session: Session, upload: Upload) -> None:
    """Records an upload."""
    session.add(upload)
    session.flush()


def add_chunk(session: Session, upload: Upload, size_bytes: int, key: str) -> None:
    """Records the chunk at the upload's end."""
    session.add(Chunk(upload_id=upload.id, start_bytes=upload.offset_bytes, size_bytes=size_bytes, key=key))
    upload.offset_bytes += size_bytes
    session.flush()


def chunk_keys(session: Session, upload_id: str) -> Sequence[str]:
    """The keys of an upload's chunks, in the order of their bytes."""
    return session.scalars(select(Chunk.key).where(Chunk.upload_id == upload_id).order_by(Chunk.start_bytes)).all()


def drop_upload(session: Session, upload_id: str) -> None:
    """Forgets an upload and its chunks."""
    session.execute(delete(Chunk).where(Chunk.upload_id == upload_id))
    session.execute(delete(Upload).where(Upload.id == upload_id))


def expired_uploads(session: Session, now: datetime) -> Sequence[str]:
    """The ids of uploads that nobody continued in time."""
    return session.scalars(select(Upload.id).where(Upload.expires_at <= now)).all()


def known_keys(session: Session, keys: Sequence[str]) -> set[str]:
    """Those keys that belong to an upload."""
    found = set[str]()
    for start in range(0, len(keys), _CHUNK):
        found.update(session.scalars(select(Chunk.key).where(Chunk.key.in_(keys[start : start + _CHUNK]))))
    return found
