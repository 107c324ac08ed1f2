"""Errors of the zoo library, and the exit code that the command line gives each.

ZooError                      1
├── StubError                 2   the text is no stub; carries the column
├── RecipeError               2   a recipe's mistake; carries line and column where known
├── ManifestError             4   a manifest breaks its contract
├── NotFoundError             3   no such model, version, file or role
├── IntegrityError            4   bytes differ from their digest
├── AccessError               5   the registry refused the token
├── ConflictError             1   a version or tag exists with other content
├── CheckError                1   a model isn't what it must be to be published
├── UnavailableError          6   the registry can't be reached, or offline mode lacks files
├── CacheError                1   the cache folder can't be used
└── TrainingError             1   data, model or target of a training run is wrong
"""

from __future__ import annotations


class ZooError(Exception):
    """Root of every error that the library raises on purpose."""

    exit_code = 1


class StubError(ZooError):
    """A text is no stub."""

    exit_code = 2

    def __init__(self, text: str, column: int, reason: str) -> None:
        self.text, self.column, self.reason = text, column, reason
        shown = ascii(text[:80]) + ("..." if len(text) > 80 else "")
        super().__init__(f"{shown} is no stub: {reason} (column {column})")


class RecipeError(ZooError):
    """A recipe is wrong: what, and where in its text."""

    exit_code = 2

    def __init__(self, reason: str, line: int | None = None, column: int | None = None) -> None:
        self.reason, self.line, self.column = reason, line, column
        where = "" if line is None else f"line {line}" + ("" if column is None else f", column {column}") + ": "
        super().__init__(where + reason)


class ManifestError(ZooError):
    """A manifest is malformed: an unsafe path, a bad digest, a duplicate."""

    exit_code = 4


class NotFoundError(ZooError):
    """The registry has no such model, version, file or role."""

    exit_code = 3


class IntegrityError(ZooError):
    """Bytes do not have the digest or size that the manifest promises."""

    exit_code = 4


class AccessError(ZooError):
    """The registry refused the request: no token, or one without the right."""

    exit_code = 5


class ConflictError(ZooError):
    """The version or tag exists already with other content."""


class CheckError(ZooError):
    """A model's files aren't what they must be to be published: what, where, and what to do."""


class UnavailableError(ZooError):
    """The registry can't be reached, or files are missing while offline."""

    exit_code = 6


class CacheError(ZooError):
    """The cache folder can't be written, read or trusted."""


class TrainingError(ZooError):
    """Training data, model or recipe target is wrong."""
