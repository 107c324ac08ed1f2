"""Errors of the registry, and the stable code that its API gives each.

RegistryError
├── StartError                          the registry can't start: settings, port, database
│   ├── SchemaError                     the database's schema isn't this program's
│   └── ForeignStoreError               the blob store belongs to another registry
├── InvalidRequestError                 REQUEST_INVALID
│   ├── InvalidStubError                STUB_INVALID
│   ├── InvalidManifestError            MANIFEST_INVALID
│   ├── MissingBlobsError               MANIFEST_BLOB_UNKNOWN  + missing
│   ├── CheckError                      CHECK_FAILED           + failures
│   ├── InvalidSizeError                SIZE_INVALID
│   ├── InvalidDigestError              DIGEST_INVALID
│   ├── InvalidTagError                 TAG_INVALID
│   ├── InvalidRangeError               RANGE_INVALID          + size_bytes
│   ├── InvalidCursorError              CURSOR_INVALID
│   ├── InvalidOffsetError              UPLOAD_OFFSET_INVALID  + offset_bytes
│   └── TooLargeError                   TOO_LARGE
├── UnknownError
│   ├── UnknownBlobError                BLOB_UNKNOWN
│   ├── UnknownUploadError              UPLOAD_UNKNOWN
│   ├── UnknownModelError               MODEL_UNKNOWN          + nearest
│   ├── UnknownVersionError             VERSION_UNKNOWN
│   ├── UnknownRecipeError              RECIPE_UNKNOWN
│   ├── UnknownFileError                FILE_UNKNOWN
│   └── DeletedVersionError             VERSION_DELETED        + reason
├── TakenError
│   ├── VersionExistsError              VERSION_EXISTS
│   ├── AliasTakenError                 ALIAS_TAKEN            + holder
│   ├── TagMovedError                   TAG_MOVED
│   ├── VersionInUseError               VERSION_IN_USE         + users
│   ├── UploadMovedError                UPLOAD_MOVED           + offset_bytes
│   └── IncompleteUploadError           UPLOAD_INCOMPLETE      + offset_bytes
├── UnauthorizedError                   UNAUTHORIZED
├── ForbiddenError                      FORBIDDEN
├── BundleError                         a backup can't be written, or read
├── ExportError                         a folder can't be written
├── TooManyRequestsError                TOO_MANY_REQUESTS      + retry_after_s
├── DamagedBlobError                    BLOB_DAMAGED
└── UnavailableError                    UNAVAILABLE

HTTP status codes are given by `registry.routes.problems` alone.
"""

from __future__ import annotations

from typing import Any


class RegistryError(Exception):
    """Root of every error that the registry raises on purpose; `extras` are facts for programs."""

    code = "INTERNAL"

    def __init__(self, message: str, **extras: Any) -> None:
        super().__init__(message)
        self.extras = extras


class StartError(RegistryError):
    """The registry can't start: a setting, the port or the database is wrong."""


class SchemaError(StartError):
    """The database's schema isn't the one that this program knows."""


class ForeignStoreError(StartError):
    """The blob store carries another registry's id."""


class InvalidRequestError(RegistryError):
    """A request breaks the contract."""

    code = "REQUEST_INVALID"


class InvalidStubError(InvalidRequestError):
    """A text is no stub."""

    code = "STUB_INVALID"


class InvalidManifestError(InvalidRequestError):
    """A manifest breaks its contract."""

    code = "MANIFEST_INVALID"


class MissingBlobsError(InvalidRequestError):
    """A manifest names blobs that were never uploaded."""

    code = "MANIFEST_BLOB_UNKNOWN"


class CheckError(InvalidRequestError):
    """A version's files aren't what their roles promise."""

    code = "CHECK_FAILED"


class InvalidSizeError(InvalidRequestError):
    """A manifest gives a blob another size than it has."""

    code = "SIZE_INVALID"


class InvalidDigestError(InvalidRequestError):
    """A digest is malformed, or isn't that of the bytes sent."""

    code = "DIGEST_INVALID"


class InvalidTagError(InvalidRequestError):
    """A text can't be a tag."""

    code = "TAG_INVALID"


class InvalidRangeError(InvalidRequestError):
    """A byte range lies outside the blob."""

    code = "RANGE_INVALID"


class InvalidCursorError(InvalidRequestError):
    """A page cursor was altered, or belongs to another search."""

    code = "CURSOR_INVALID"


class InvalidOffsetError(InvalidRequestError):
    """A chunk isn't the next one of its upload."""

    code = "UPLOAD_OFFSET_INVALID"


class TooLargeError(InvalidRequestError):
    """A body is larger than this registry accepts."""

    code = "TOO_LARGE"


class UnknownError(RegistryError):
    """What was asked for isn't here."""


class UnknownBlobError(UnknownError):
    """No blob has this digest."""

    code = "BLOB_UNKNOWN"


class UnknownUploadError(UnknownError):
    """No upload has this id, or it has expired."""

    code = "UPLOAD_UNKNOWN"


class UnknownModelError(UnknownError):
    """No model has this name or alias."""

    code = "MODEL_UNKNOWN"


class UnknownVersionError(UnknownError):
    """The model has no such version, tag or digest."""

    code = "VERSION_UNKNOWN"


class UnknownFileError(UnknownError):
    """The version has no such file."""

    code = "FILE_UNKNOWN"


class UnknownRecipeError(UnknownError):
    """The version has no recipe."""

    code = "RECIPE_UNKNOWN"


class DeletedVersionError(UnknownError):
    """The version was deleted, for the reason that the message tells."""

    code = "VERSION_DELETED"


class TakenError(RegistryError):
    """A name is in use for something else."""


class VersionExistsError(TakenError):
    """The version number exists with another manifest."""

    code = "VERSION_EXISTS"


class AliasTakenError(TakenError):
    """The name or alias belongs to another model."""

    code = "ALIAS_TAKEN"


class TagMovedError(TakenError):
    """A tag no longer points to the version that the caller expects."""

    code = "TAG_MOVED"


class VersionInUseError(TakenError):
    """A version can't be deleted while a tag or another model needs it."""

    code = "VERSION_IN_USE"


class UploadMovedError(TakenError):
    """Another sender added a chunk at the same place."""

    code = "UPLOAD_MOVED"


class IncompleteUploadError(TakenError):
    """An upload can't be finished before all its bytes are here."""

    code = "UPLOAD_INCOMPLETE"


class UnauthorizedError(RegistryError):
    """The request needs a valid token."""

    code = "UNAUTHORIZED"


class ForbiddenError(RegistryError):
    """The request isn't allowed, whatever the token."""

    code = "FORBIDDEN"


class BundleError(RegistryError):
    """A bundle can't be written, or isn't one that can be restored here."""


class ExportError(RegistryError):
    """A folder can't be exported to."""


class DamagedBlobError(RegistryError):
    """The bytes at rest aren't those that were stored; they are never served."""

    code = "BLOB_DAMAGED"


class TooManyRequestsError(RegistryError):
    """The client sends more requests than it may."""

    code = "TOO_MANY_REQUESTS"


class UnavailableError(RegistryError):
    """The database or the disk can't serve the request now."""

    code = "UNAVAILABLE"
