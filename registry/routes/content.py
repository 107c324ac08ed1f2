"""Bytes as HTTP serves them: whole or in one range, with their digest as ETag and in the checksum headers."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from registry.errors import InvalidRangeError
from registry.service import Registry
from zoo.stub import Stub

OCTETS = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
SERVED: dict[int | str, dict[str, Any]] = {
    200: {"content": OCTETS},
    206: {"content": OCTETS, "description": "The range asked for"},
    304: {"description": "The client has it"},
}
IMMUTABLE = "public, max-age=31536000, immutable"
MOVES = "no-cache"  # may be kept, and is asked for again each time
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})\Z")


@dataclass(frozen=True)
class Content:
    """Bytes that can be read from any place.

    `read(start, stop)` yields the bytes [start, stop). `sha256` is their digest in hex, where it is known without
    reading them; `name` is the file name that a browser saves them under.
    """

    etag: str
    size_bytes: int
    read: Callable[[int, int], Iterator[bytes]]
    sha256: str | None = None
    name: str | None = None
    cache_control: str = IMMUTABLE
    headers: Mapping[str, str] = field(default_factory=dict)


def blob_content(registry: Registry, digest: str) -> Content:
    """A blob, with its digest as ETag; raises `UnknownBlobError`, or `DamagedBlobError`."""
    size_bytes = registry.blobs.size(digest)

    def read(start: int, stop: int) -> Iterator[bytes]:
        if (start, stop) == (0, size_bytes):
            return registry.blobs.read_whole(digest, size_bytes)
        return registry.blobs.read(digest, start, stop)

    return Content(digest, size_bytes, read, sha256=digest.removeprefix("sha256:"))


def cache_control_of(stub: Stub) -> str:
    """How long what a stub names may be kept: for ever only if its pin can't move."""
    return IMMUTABLE if stub.is_digest or stub.version is not None else MOVES


def serve(request: Request, content: Content) -> Response:
    """The answer to a GET or HEAD: 200, 206 for one range, 304 if the client has the bytes.

    Raises `InvalidRangeError` for a range outside. Repr-Digest is that of the whole file, in a range's answer too
    (RFC 9530), so that a download in parts can be verified.
    """
    headers = {
        "ETag": f'"{content.etag}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": content.cache_control,
        "Content-Disposition": f'attachment; filename="{content.name}"' if content.name else "attachment",
        **content.headers,
    }
    if _has_already(request, content.etag):
        return Response(status_code=304, headers=headers)
    span = _read_range(request, content)
    start, stop = span or (0, content.size_bytes)
    headers["Content-Length"] = str(stop - start)
    if span:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{content.size_bytes}"
    if content.sha256:
        headers |= _checksums(content.sha256, is_whole=span is None and request.method == "GET")
    status = 206 if span else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type="application/octet-stream")
    blocks = content.read(start, stop)
    first = next(blocks, b"")  # what is found to be wrong by now is still told by the status
    return StreamingResponse(chain((first,), blocks), status, headers, "application/octet-stream")


def _has_already(request: Request, etag: str) -> bool:
    known = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    return f'"{etag}"' in known or known == ["*"]


def _checksums(sha256: str, *, is_whole: bool) -> dict[str, str]:
    digest = f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
    found = {"Repr-Digest": digest, "X-Checksum-Sha256": sha256}
    return found | ({"Content-Digest": digest} if is_whole else {})


def _read_range(request: Request, content: Content) -> tuple[int, int] | None:
    """The half-open span that Range asks for; None for everything, as several ranges get, and HEAD (RFC 9110, 14.2)."""
    text, etag, size = request.headers.get("range"), f'"{content.etag}"', content.size_bytes
    if request.method != "GET" or text is None or request.headers.get("if-range", etag) != etag:
        return None
    match = _RANGE.match(text)
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first:
        start, stop = int(first), min(int(last) + 1 if last else size, size)
        if last and int(last) < int(first):
            return None
    else:
        start, stop = max(size - int(last), 0), size
    if start >= stop:
        raise InvalidRangeError(f"the range {text} lies outside the file's {size} bytes", size_bytes=size)
    return start, stop
