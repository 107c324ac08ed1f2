"""Blobs in and out: verified when they come, and when they go.

A large blob comes in chunks, each of which is kept before the next is asked for, so that a cut costs one chunk. The
bytes of a chunk are stored first and recorded second, by a comparison with the offset, so that of two senders at the
same place one wins and the other is told where the upload stands.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import IO

from sqlalchemy.orm import Session

from registry import blob_queries as queries
from registry.caller import ANYONE, Caller
from registry.db import Database
from registry.errors import (
    DamagedBlobError,
    IncompleteUploadError,
    InvalidDigestError,
    InvalidOffsetError,
    InvalidRequestError,
    UnavailableError,
    UnknownBlobError,
    UnknownUploadError,
    UploadMovedError,
)
from registry.schemas import UploadView
from registry.storage import BLOCK_BYTES, BlobStore, IncomingFile
from registry.tables import Upload
from zoo.manifest import check_digest

MIN_CHUNK_BYTES = 1 << 16  # of every chunk but the last, so that an upload's rows stay few
UNNAMED = timedelta(hours=1)

log = logging.getLogger(__name__)


class Blobs:
    """The registry's blobs, over a database and a blob store."""

    def __init__(self, database: Database, store: BlobStore, upload_expires: timedelta = timedelta(days=1)) -> None:
        self.database, self.store = database, store
        self._upload_expires = upload_expires

    def missing(self, digests: Iterable[str], caller: Caller = ANYONE) -> list[str]:
        """The digests that must be uploaded: those not there for the caller, or gone or damaged."""
        wanted = list(dict.fromkeys(digests))
        with self.database.read() as session:
            sizes = queries.blob_sizes(session, queries.readable(session, wanted, caller))
        return [digest for digest in wanted if digest not in sizes or self.store.size(digest) != sizes[digest]]

    def check_readable(self, digest: str, caller: Caller) -> None:
        """Raises `UnknownBlobError` if the blob isn't there for the caller."""
        with self.database.read() as session:
            if not queries.readable(session, [parse_digest(digest)], caller):
                raise UnknownBlobError(f"the blob {digest} isn't here")

    def size(self, digest: str) -> int:
        """A blob's size in bytes; raises `UnknownBlobError`, or `DamagedBlobError` if its bytes aren't what came."""
        with self.database.read() as session:
            row = queries.blob_row(session, parse_digest(digest))
        if row is None:
            raise UnknownBlobError(f"the blob {digest} isn't here")
        actual = self.store.size(digest)
        if row.damaged_at is not None or actual != row.size_bytes:
            found = "has other bytes" if actual == row.size_bytes else f"has {actual or 0} of {row.size_bytes} bytes"
            raise _damaged(digest, found)
        return row.size_bytes

    def read(self, digest: str, start: int, stop: int) -> Iterator[bytes]:
        """Yields the bytes [start, stop) of a blob of known size."""
        return self.store.read(digest, start, stop)

    def span(self, digest: str, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of a blob, in one piece."""
        return b"".join(self.store.read(digest, start, stop)) if stop > start else b""

    def read_whole(self, digest: str, size_bytes: int) -> Iterator[bytes]:
        """Yields a blob's bytes, the last block only if all have the digest; raises `DamagedBlobError` otherwise."""
        actual, held, seen = hashlib.sha256(), b"", 0
        try:
            for block in self.store.read(digest, 0, size_bytes):
                if held:
                    yield held
                actual.update(block)
                seen += len(block)
                held = block
            if f"sha256:{actual.hexdigest()}" != digest:
                raise _damaged(digest, f"has {seen} bytes with another digest")
        except DamagedBlobError:
            self.database.write(lambda session: queries.mark_checked(session, digest, _now(), is_sound=False))
            raise
        if held:
            yield held

    @contextmanager
    def received(self, stream: IO[bytes], digest: str) -> Iterator[IncomingFile]:
        """A stream's bytes as a file that has the digest, and that the block may keep; raises `InvalidDigestError`."""
        file = self.store.receive()
        try:
            while block := stream.read(BLOCK_BYTES):
                file.write(block)
            file.verify(parse_digest(digest))
            yield file
        finally:
            file.discard()

    def keep(self, file: IncomingFile, digest: str, caller: Caller = ANYONE) -> bool:
        """Verifies a file and makes it a blob; True if the blob is new to the caller. Raises `InvalidDigestError`."""
        file.verify(digest)
        self.store.keep(file, digest)

        def work(session: Session) -> bool:
            was_hidden = not queries.readable(session, [digest], caller)
            is_new = queries.offer_blob(session, digest, file.size_bytes, _now())
            if self.store.size(digest) != file.size_bytes:  # the row is held now; before, a sweep could take the bytes
                raise UnavailableError("the blob's bytes were swept away as they came; send them again")
            queries.note_sender(session, digest, caller.token_id)
            return is_new or was_hidden

        return self.database.write(work)

    # --- uploads in chunks

    def begin(self, digest: str, size_bytes: int, owner: str) -> tuple[UploadView, bool]:
        """Begins an upload, or finds the one that the caller began before; True if it is new."""
        stale = list[str]()

        def work(session: Session) -> tuple[UploadView, bool]:
            stale.clear()
            known = queries.upload_of(session, digest, owner)
            if known and known.size_bytes == size_bytes and known.expires_at > _now():
                return _view(known), False
            if known:
                stale.extend(queries.chunk_keys(session, known.id))
                queries.drop_upload(session, known.id)
            upload = Upload(id=uuid.uuid4().hex, digest=digest, owner=owner, size_bytes=size_bytes, offset_bytes=0)
            upload.created_at, upload.expires_at = _now(), _now() + self._upload_expires
            queries.add_upload(session, upload)
            return _view(upload), True

        answer = self.database.write(work)
        self._unstage(stale)
        return answer

    def upload(self, upload_id: str, owner: str) -> UploadView:
        """Where an upload stands; raises `UnknownUploadError`."""
        with self.database.read() as session:
            return _view(_find(session, upload_id, owner))

    def check_offset(self, upload_id: str, owner: str, offset_bytes: int) -> UploadView:
        """The upload, if it goes on at the offset; raises `InvalidOffsetError` with the place where it does."""
        view = self.upload(upload_id, owner)
        if offset_bytes != view.offset_bytes:
            raise InvalidOffsetError(
                f"the upload goes on at byte {view.offset_bytes}, not at {offset_bytes}", offset_bytes=view.offset_bytes
            )
        return view

    def append(self, upload_id: str, owner: str, offset_bytes: int, file: IncomingFile) -> UploadView:
        """Adds a chunk at the offset; raises `UploadMovedError` if another sender was faster."""
        view = self.check_offset(upload_id, owner, offset_bytes)
        end = offset_bytes + file.size_bytes
        if end > view.size_bytes:
            raise InvalidRequestError(f"the upload has {view.size_bytes} bytes, this chunk would end at {end}")
        if file.size_bytes == 0 or (file.size_bytes < MIN_CHUNK_BYTES and end != view.size_bytes):
            raise InvalidRequestError(f"a chunk has at least {MIN_CHUNK_BYTES} bytes, but for the last, which has one")
        key = uuid.uuid4().hex
        self.store.stage(file, key)

        def work(session: Session) -> UploadView:
            upload = _find(session, upload_id, owner)
            if upload.offset_bytes != offset_bytes:
                raise UploadMovedError(
                    f"another sender was faster: the upload goes on at byte {upload.offset_bytes}",
                    offset_bytes=upload.offset_bytes,
                )
            queries.add_chunk(session, upload, file.size_bytes, key)
            upload.expires_at = _now() + self._upload_expires
            return _view(upload)

        try:
            return self.database.write(work)
        except (UploadMovedError, UnknownUploadError):
            self.store.unstage(key)
            raise

    def finish(self, upload_id: str, caller: Caller) -> tuple[str, int, bool]:
        """Makes a complete upload a blob: its digest, its size, and whether it is new.

        Raises `IncompleteUploadError`; or `InvalidDigestError` for other bytes than were announced, and
        `DamagedBlobError` for a chunk that the disk has lost, and the upload is then gone.
        """
        with self.database.read() as session:
            upload = _view(_find(session, upload_id, caller.name or ""))
            keys = queries.chunk_keys(session, upload_id)
        if upload.offset_bytes != upload.size_bytes:
            raise IncompleteUploadError(
                f"the upload has {upload.offset_bytes} of {upload.size_bytes} bytes", offset_bytes=upload.offset_bytes
            )
        file = self.store.receive()
        try:
            for key in keys:
                for block in self.store.read_staged(key):
                    file.write(block)
            is_new = self.keep(file, upload.digest, caller)
        except (InvalidDigestError, DamagedBlobError):
            self._drop(upload_id, keys)
            raise
        except UnknownBlobError:  # another call of finish was faster, and took the chunks away
            if self.missing([upload.digest], caller):
                raise UnavailableError("a chunk of the upload is lost; send the blob again") from None
            is_new = False
        finally:
            file.discard()
        self._drop(upload_id, keys)
        return upload.digest, upload.size_bytes, is_new

    def cancel(self, upload_id: str, owner: str) -> None:
        """Forgets an upload and its chunks; raises `UnknownUploadError`."""
        with self.database.read() as session:
            _find(session, upload_id, owner)
            keys = queries.chunk_keys(session, upload_id)
        self._drop(upload_id, keys)

    def sweep_uploads(self, grace: timedelta) -> int:
        """Forgets uploads that expired, and files and chunks that belong to none.

        Those must be older than the grace period, and than an hour at least: a request that is still going on may be
        about to name them.
        """
        swept, grace = 0, max(grace, UNNAMED)
        with self.database.read() as session:
            expired = {upload_id: queries.chunk_keys(session, upload_id) for upload_id in _expired(session)}
        for upload_id, keys in expired.items():
            self._drop(upload_id, keys)
            swept += 1
        limit = (_now() - grace).timestamp()
        old = [key for key, stored_at in self.store.staged() if stored_at < limit]
        with self.database.read() as session:
            known = queries.known_keys(session, old)
        loose = [key for key in old if key not in known]
        self._unstage(loose)
        return swept + len(loose) + self.store.sweep_incoming(grace.total_seconds())

    def _drop(self, upload_id: str, keys: Iterable[str]) -> None:
        self.database.write(lambda session: queries.drop_upload(session, upload_id))
        self._unstage(keys)

    def _unstage(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.store.unstage(key)


def parse_digest(text: str) -> str:
    """A digest; raises `InvalidDigestError`."""
    try:
        return check_digest(text)
    except ValueError as error:
        raise InvalidDigestError(str(error)) from None


def _expired(session: Session) -> list[str]:
    return list(queries.expired_uploads(session, _now()))


def _find(session: Session, upload_id: str, owner: str) -> Upload:
    upload = queries.upload_by_id(session, upload_id)
    if upload is None or upload.owner != owner or upload.expires_at <= _now():
        raise UnknownUploadError("there is no such upload, or it was finished or has expired; begin again")
    return upload


def _view(upload: Upload) -> UploadView:
    return UploadView(
        id=upload.id,
        digest=upload.digest,
        size_bytes=upload.size_bytes,
        offset_bytes=upload.offset_bytes,
        expires_at=upload.expires_at,
    )


def _damaged(digest: str, found: str) -> DamagedBlobError:
    log.error("the stored blob %s %s", digest, found)
    return DamagedBlobError(f"the stored blob {digest} {found}, and is not served; publish it again to heal it")


def _now() -> datetime:
    return datetime.now(UTC)
