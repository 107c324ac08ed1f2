"""A registry's files, each named by its digest: fetched by ranges, sent whole or in chunks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from zoo.answer import count_in, first_line, object_of, read_document, text_in
from zoo.connection import MAX_DOCUMENT_BYTES, Connection, read_body, where
from zoo.disk import CHUNK_BYTES
from zoo.errors import IntegrityError, UnavailableError
from zoo.problems import RangeRefusedError
from zoo.retry import repeat

_ASSEMBLED_BYTES_PER_S = 16 << 20  # a registry that puts an upload together is at least so fast
_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})\Z")


@dataclass(frozen=True)
class BlobStream:
    """A blob's bytes from `start` on. `declared_bytes` is the whole blob's size as the sender says, if it does."""

    start: int
    declared_bytes: int | None
    etag: str | None
    chunks: Iterator[bytes]


class Blobs:
    """The files of one registry. Raises what a `Connection` does, and `IntegrityError`."""

    def __init__(self, connection: Connection) -> None:
        self._registry, self._patience = connection, connection.patience

    def missing(self, digests: Sequence[str]) -> frozenset[str]:
        """Those digests whose bytes the registry doesn't have."""
        answer = object_of(self._registry.call("POST", "/blobs/missing", body={"digests": list(digests)}))
        missing = answer.get("missing")
        if not isinstance(missing, list):
            raise UnavailableError(f"the answer of {self._registry.endpoint} to blobs/missing has no list of digests")
        return frozenset(digests) & frozenset(str(digest) for digest in missing)

    def put(self, path: Path, digest: str, size_bytes: int, report: Callable[[int], None] = lambda _: None) -> None:
        """Streams a file to the registry; raises `IntegrityError` if it isn't the file that was hashed any more."""
        limit_s = self._patience.request_s + size_bytes / self._patience.slow_bytes_per_s
        headers = {"Content-Length": str(size_bytes), "Content-Type": "application/octet-stream"}

        def attempt() -> None:
            content = _file_chunks(path, digest, size_bytes, report)
            with self._registry.send("PUT", f"/blobs/{digest}", limit_s, headers=headers, content=content) as response:
                read_body(response, MAX_DOCUMENT_BYTES)

        repeat(attempt, self._patience)

    def begin_upload(self, digest: str, size_bytes: int) -> tuple[str, int]:
        """Begins an upload in chunks, or finds the one begun before: its id, and the offset where it goes on."""
        answer = object_of(self._registry.call("POST", "/uploads", body={"digest": digest, "size_bytes": size_bytes}))
        return text_in(answer, "id"), count_in(answer, "offset_bytes")

    def append_chunk(self, upload: str, path: Path, offset: int, length: int) -> int:
        """Sends a file's bytes from the offset on; returns the offset after them. Raises `OffsetMovedError`."""
        limit_s = self._patience.request_s + length / self._patience.slow_bytes_per_s
        headers = {"Upload-Offset": str(offset), "Content-Length": str(length)}

        def attempt() -> int:
            content = _span_chunks(path, offset, length)
            with self._registry.send(
                "PATCH", f"/uploads/{upload}", limit_s, headers=headers, content=content
            ) as answer:
                document = read_document(read_body(answer, MAX_DOCUMENT_BYTES), self._registry.endpoint)
                return count_in(object_of(document), "offset_bytes")

        return repeat(attempt, self._patience)

    def finish_upload(self, upload: str, size_bytes: int) -> None:
        """Makes a complete upload a blob; raises `OffsetMovedError`, `IntegrityError`."""
        limit_s = self._patience.request_s + size_bytes / _ASSEMBLED_BYTES_PER_S

        def attempt() -> None:
            with self._registry.send("POST", f"/uploads/{upload}/finish", limit_s) as response:
                read_body(response, MAX_DOCUMENT_BYTES)

        repeat(attempt, self._patience)

    @contextmanager
    def open(self, digest: str, start: int = 0, etag: str | None = None) -> Iterator[BlobStream]:
        """Asks once for a blob's bytes from `start` on; `etag` is that of the bytes that are there already.

        Where the answer starts at byte 0 all the same, `BlobStream.start` says so. Raises `RangeRefusedError` for an
        answer that fits nothing, `TransientError` for what may pass, also while the chunks are read.
        """
        headers = {}
        if start:
            headers = {"Range": f"bytes={start}-", "If-Range": etag or f'"{digest}"'}
        limit_s = self._patience.request_s
        with self._registry.send("GET", f"/blobs/{digest}", limit_s, headers=headers, whole=False) as response:
            if response.headers.get("content-type", "").startswith("text/html"):
                page = first_line(next(response.iter_bytes(), b""))
                raise UnavailableError(
                    f"a web page came instead of a file from {where(response)}; it begins with {page}. "
                    "A proxy or a login page of the network may stand in between"
                )
            at, declared = _span(response.status_code, response.headers, start, where(response))
            yield BlobStream(at, declared, response.headers.get("etag"), self._registry.paced(response))


def _span(status: int, headers: Mapping[str, str], start: int, sender: str) -> tuple[int, int | None]:
    """First byte of an answer's body and the whole size that it declares; raises `RangeRefusedError`."""
    if status == HTTPStatus.OK:
        length = headers.get("content-length", "")
        plain = "content-encoding" not in headers and length.isascii() and length.isdigit()
        return 0, int(length[:18]) if plain else None
    match = _CONTENT_RANGE.match(headers.get("content-range", ""))
    if status != HTTPStatus.PARTIAL_CONTENT or not match or "content-encoding" in headers:
        raise RangeRefusedError(f"HTTP {status} from {sender} for a range")
    first, last, total = (int(number) for number in match.groups())
    if first != start or not first <= last < total:
        raise RangeRefusedError(f"asked for bytes from {start}, got {match[0]!r}")
    return first, total


def _file_chunks(path: Path, digest: str, size_bytes: int, report: Callable[[int], None]) -> Iterator[bytes]:
    """The file's bytes; raises `IntegrityError` before the last of them if they aren't those of the digest."""
    state, sent = hashlib.sha256(), 0
    with path.open("rb") as stream:
        chunk = stream.read(CHUNK_BYTES)
        while chunk:
            state.update(chunk)
            sent += len(chunk)
            following = stream.read(CHUNK_BYTES)
            whole = sent == size_bytes and f"sha256:{state.hexdigest()}" == digest
            if sent > size_bytes or (not following and not whole):
                raise IntegrityError(f"{path} changed while it was being published; publish again")
            yield chunk
            report(sent)
            chunk = following
    if sent != size_bytes:
        raise IntegrityError(f"{path} changed while it was being published; publish again")


def _span_chunks(path: Path, offset: int, length: int) -> Iterator[bytes]:
    """A part of a file; raises `IntegrityError` if the file has become shorter."""
    with path.open("rb") as stream:
        stream.seek(offset)
        while length:
            chunk = stream.read(min(length, CHUNK_BYTES))
            if not chunk:
                raise IntegrityError(f"{path} changed while it was being published; publish again")
            length -= len(chunk)
            yield chunk
