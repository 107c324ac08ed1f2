"""Cursors: where the next page of a search starts. Opaque to clients, and tied to the search that made them."""

from __future__ import annotations

import base64
import binascii
import hashlib

from registry.errors import InvalidCursorError
from registry.schemas import SearchIn

_ID_BYTES, _CHECK_BYTES = 8, 8


def write_cursor(search: SearchIn, last_id: int) -> str:
    """The cursor after the model with this id."""
    body = last_id.to_bytes(_ID_BYTES, "big")
    return base64.urlsafe_b64encode(body + _check(search, body)).decode().rstrip("=")


def read_cursor(search: SearchIn) -> int | None:
    """The id that the search's cursor stands for, or None without one; raises `InvalidCursorError`."""
    if search.cursor is None:
        return None
    try:
        padded = search.cursor + "=" * (-len(search.cursor) % 4)
        raw = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raw = b""
    body = raw[:_ID_BYTES]
    if len(raw) != _ID_BYTES + _CHECK_BYTES or raw[_ID_BYTES:] != _check(search, body):
        raise InvalidCursorError("the cursor was altered, or belongs to another search; start again without one")
    return min(int.from_bytes(body, "big"), (1 << 63) - 1)


def _check(search: SearchIn, body: bytes) -> bytes:
    filters = search.model_dump_json(exclude={"cursor", "limit"})
    return hashlib.sha256(filters.encode() + body).digest()[:_CHECK_BYTES]
