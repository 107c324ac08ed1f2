"""A registry's refusals (RFC 9457 problem documents, or whatever a proxy sends instead) as the library's errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from zoo.answer import first_line
from zoo.errors import (
    AccessError,
    CheckError,
    ConflictError,
    IntegrityError,
    ManifestError,
    NotFoundError,
    ZooError,
)
from zoo.retry import TransientError, parse_retry_after


class RangeRefusedError(ZooError):
    """The answer is not the rest of the blob that was asked for: start again at its first byte."""


class TooLargeError(ZooError):
    """The registry takes no file or document of this size."""


_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_BY_CODE: Mapping[str, type[ZooError]] = {
    "MANIFEST_INVALID": ManifestError,
    "CHECK_FAILED": CheckError,
    "DIGEST_INVALID": IntegrityError,
    "SIZE_INVALID": IntegrityError,
    "BLOB_DAMAGED": IntegrityError,
}
_OFFSET_CODES = frozenset({"UPLOAD_OFFSET_INVALID", "UPLOAD_MOVED", "UPLOAD_INCOMPLETE"})
_BY_STATUS: Mapping[int, type[ZooError]] = {
    401: AccessError,
    403: AccessError,
    404: NotFoundError,
    409: ConflictError,
    410: NotFoundError,
    413: TooLargeError,
    416: RangeRefusedError,
}


class OffsetMovedError(ZooError):
    """An upload goes on at another offset than the one that was sent."""

    def __init__(self, message: str, offset_bytes: int) -> None:
        super().__init__(message)
        self.offset_bytes = offset_bytes


class MissingBlobsError(ZooError):
    """The registry lacks files that a version refers to."""

    def __init__(self, message: str, digests: tuple[str, ...]) -> None:
        super().__init__(message)
        self.digests = digests


class DeletedVersionError(NotFoundError):
    """The version was deleted, for that reason."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def error_of(status: int, headers: Mapping[str, str], body: bytes, where: str) -> ZooError:
    """The error for an answer with a status of 400 or more."""
    problem = _problem(body)
    detail = str(problem.get("detail") or problem.get("title") or _not_ours(status, body))[:2000]
    text = f"{detail} (HTTP {status} from {where})"
    code = problem.get("code")
    if status in _TRANSIENT and code not in _BY_CODE:
        return TransientError(f"the registry can't serve now: {text}", parse_retry_after(headers.get("retry-after")))
    if code == "MANIFEST_BLOB_UNKNOWN":
        return MissingBlobsError(text, _texts(problem.get("missing"), 10_000))
    if code == "VERSION_DELETED":
        return DeletedVersionError(text, str(problem.get("reason") or detail))
    offset = problem.get("offset_bytes")
    if code in _OFFSET_CODES and isinstance(offset, int) and offset >= 0:
        return OffsetMovedError(text, offset)
    kind = _BY_CODE.get(str(code)) or _BY_STATUS.get(status, ZooError)
    return kind(text + _next_step(kind, problem))


def _not_ours(status: int, body: bytes) -> str:
    """What is said of an answer that no registry gives: a proxy's, or that of a web server with a folder of files."""
    told = f"its answer begins with {first_line(body)}"
    if status in (404, 405, 501):
        return f"{told}: no registry answers so; a folder of plain files serves pull, show and search alone"
    return told


def _next_step(kind: type[ZooError], problem: Mapping[str, Any]) -> str:
    nearest = _texts(problem.get("nearest"), 3)
    if kind is NotFoundError and nearest and nearest[0] not in str(problem.get("detail")):
        return f"; nearest: {', '.join(nearest)}"
    if kind is AccessError:
        return "; run `zoo auth login` or set ZOO_TOKEN to a token with that right"
    return ""


def _problem(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _texts(value: object, limit: int) -> tuple[str, ...]:
    return tuple(str(item)[:600] for item in value[:limit]) if isinstance(value, list) else ()
