"""Blobs in an object store: S3, and what speaks its protocol.

Bytes are received on this machine's disk and sent on when they are verified, so that no unverified byte is ever in the
bucket. An upload of several parts that a crash cuts off stays invisible in the bucket and costs space: give the bucket
a lifecycle rule that aborts incomplete multipart uploads after a day.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import MemoryStore, S3Store

from registry.errors import StartError, UnavailableError, UnknownBlobError
from registry.storage import StoredBlob
from registry.storage.incoming import ALGORITHM, BLOCK_BYTES, REGISTRY_ID, Incoming, IncomingFile

Store = S3Store | MemoryStore
PART_BYTES = 8 << 20
MAX_PARTS = 10_000  # of S3's multipart uploads
READ_BYTES = 8 * BLOCK_BYTES
_CODE = re.compile(r"<Code>(\w{1,80})</Code>")
_MAX_TOLD = 500

log = logging.getLogger(__name__)


def connect(url: str) -> S3Store:
    """The bucket of `s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME]`; raises `StartError`.

    The key comes from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what else AWS's programs read, never from the URL.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    endpoint = options.get("endpoint", "")
    try:
        store = S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            config={"region": options.get("region", "us-east-1"), **({"endpoint": endpoint} if endpoint else {})},
            client_options={"allow_http": endpoint.startswith("http://"), "timeout": "60s", "connect_timeout": "5s"},
            retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=30)},
        )
        next(iter(obstore.list(store, chunk_size=1)), None)
    except (BaseError, ValueError) as error:
        raise StartError(f"the blob store {url} can't be used: {_reason(error)}") from error
    return store


class ObjectBlobStore(Incoming):
    """A store in a bucket."""

    def __init__(self, store: Store, incoming: Path) -> None:
        super().__init__(incoming)
        self._store = store

    def keep(self, file: IncomingFile, digest: str) -> None:
        """Sends the file, and looks whether it is there: an answer of success isn't trusted alone."""
        self._put(file, _place(digest))

    def size(self, digest: str) -> int | None:
        """The blob's size in bytes, or None if it isn't here."""
        return self._size(_place(digest))

    def read(self, digest: str, start: int, stop: int) -> Iterator[bytes]:
        """Yields the bytes [start, stop); asks for them before the first is wanted."""
        return self._read(_place(digest), start, stop, f"the blob {digest} isn't here")

    def delete(self, digest: str) -> None:
        """Removes a blob; one that isn't here is no error."""
        self._delete(_place(digest))

    def blobs(self) -> Iterator[StoredBlob]:
        """Every blob in the bucket, in no order."""
        for name, size_bytes, stored_at in self._list("blobs/"):
            if len(name) == 64:
                yield StoredBlob(ALGORITHM + name, size_bytes, stored_at)

    def stage(self, file: IncomingFile, key: str) -> None:
        """Sends the file to the staging area."""
        self._put(file, f"staged/{key}")

    def read_staged(self, key: str) -> Iterator[bytes]:
        """Yields a chunk's bytes."""
        size_bytes = self._size(f"staged/{key}")
        if size_bytes is None:
            raise UnknownBlobError(f"the chunk {key} isn't here")
        return self._read(f"staged/{key}", 0, size_bytes, f"the chunk {key} isn't here")

    def unstage(self, key: str) -> None:
        """Removes a chunk; one that isn't here is no error."""
        self._delete(f"staged/{key}")

    def staged(self) -> Iterator[tuple[str, float]]:
        """Every chunk's key and time."""
        for key, _, stored_at in self._list("staged/"):
            yield key, stored_at

    def registry_id(self) -> str | None:
        """The id in the object that says whose the bucket, or its prefix, is."""
        with _guarded("read"):
            try:
                return bytes(obstore.get(self._store, REGISTRY_ID).bytes()).decode("ascii", "replace").strip()
            except FileNotFoundError:
                return None

    def set_registry_id(self, registry_id: str) -> None:
        """Sends that object."""
        with self.written(f"{registry_id}\n".encode()) as file:
            self._put(file, REGISTRY_ID)

    def _size(self, key: str) -> int | None:
        with _guarded("read"):
            try:
                return int(obstore.head(self._store, key)["size"])
            except FileNotFoundError:
                return None

    def _put(self, file: IncomingFile, key: str) -> None:
        file.finish()
        part_bytes = max(PART_BYTES, -(-file.size_bytes // (MAX_PARTS - 1)))
        with _guarded("write"):
            obstore.put(self._store, key, file.path, chunk_size=part_bytes, max_concurrency=4)
        found = self._size(key)
        if found != file.size_bytes:
            log.error("the bucket took %s as stored, and holds %s bytes of %s", key, found or 0, file.size_bytes)
            raise UnavailableError(f"the bucket holds {found or 0} bytes of {file.size_bytes}; send them again")

    def _read(self, key: str, start: int, stop: int, absent: str) -> Iterator[bytes]:
        """Asks for a few MiB at a time, so that a request's time limit fits every blob."""

        def ask(at: int) -> bytes:
            with _guarded("read"):
                try:
                    return bytes(obstore.get_range(self._store, key, start=at, end=min(at + READ_BYTES, stop)))
                except FileNotFoundError:
                    raise UnknownBlobError(absent) from None

        def blocks(block: bytes) -> Iterator[bytes]:
            at = start
            while block:
                yield block
                at += len(block)
                block = ask(at) if at < stop else b""

        return blocks(ask(start) if start < stop else b"")

    def _delete(self, key: str) -> None:
        with _guarded("write"):
            try:
                obstore.delete(self._store, key)
            except FileNotFoundError:  # S3 itself doesn't mind
                return

    def _list(self, prefix: str) -> Iterator[tuple[str, int, float]]:
        with _guarded("read"):
            for page in obstore.list(self._store, prefix):
                for item in page:
                    yield item["path"].rpartition("/")[2], int(item["size"]), item["last_modified"].timestamp()


def _place(digest: str) -> str:
    name = digest.removeprefix(ALGORITHM)
    return f"blobs/{name[:2]}/{name[2:4]}/{name}"


@contextmanager
def _guarded(verb: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        raise _unavailable(verb, error) from error


def _unavailable(verb: str, error: Exception) -> UnavailableError:
    """What a caller is told of the store's refusal, without what it says of keys and signatures; the log tells more."""
    log.error("the registry can't %s its bucket: %s", verb, _told(error))
    if _is_refusal(error):
        return UnavailableError(
            f"the bucket refuses to let the registry {verb}; its operator must look at the key and the clock"
        )
    return UnavailableError(f"the registry can't {verb} its bucket now; try again")


def _told(error: Exception) -> str:
    """What was asked and what came of it. Of the server's own text its code alone: the rest may hold a signature."""
    text = str(error).strip() or type(error).__name__
    code = _CODE.search(text)
    return text.splitlines()[0].partition(": <")[0][:_MAX_TOLD] + (f": {code[1]}" if code else "")


def _is_refusal(error: Exception) -> bool:
    refusals = (PermissionDeniedError, UnauthenticatedError)
    return isinstance(error, refusals) or "403 Forbidden" in str(error)  # a list's refusal has no type of its own


def _reason(error: Exception) -> str:
    if _is_refusal(error):
        return "its server refuses the key of AWS_ACCESS_KEY_ID"
    if isinstance(error, FileNotFoundError) or "404 Not Found" in str(error):
        return "there is no such bucket"
    if "error sending request" in str(error):
        return "its server can't be reached"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
