"""Manifests: what a version of a model consists of.

A manifest is the contract between library, registry and engine: a list of files with digest, size and role, and
the model's metadata. Its canonical JSON (sorted keys, no spaces, UTF-8) has a sha256 digest, the version's identity.
Everything here may come from a stranger: every field is bounded and checked when it is parsed.
"""

from __future__ import annotations

import hashlib
import json
import re
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from zoo.errors import ManifestError, StubError
from zoo.stub import PREFIX, Stub

MAX_FILES = 10_000
MAX_FILE_BYTES = 1 << 40
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?\Z", re.IGNORECASE)


def check_digest(text: str) -> str:
    """Returns the text if it is `sha256:` and 64 lower-case hex digits; raises ValueError otherwise."""
    if not _DIGEST.match(text):
        raise ValueError("a digest is sha256: and 64 lower-case hex digits")
    return text


def check_path(text: str) -> str:
    """Returns a relative path that is safe on every file system; raises ValueError otherwise."""
    if not text or len(text.encode("utf-8", "replace")) > 1024 or _FORBIDDEN.search(text):
        raise ValueError("a path is empty, too long, or has a forbidden character")
    if not text.isascii():
        raise ValueError("a path is ASCII")
    for part in text.split("/"):
        if part in ("", ".", "..") or len(part) > 255 or part[-1] in ". ":
            raise ValueError(f"the path part {part[:40]!r} is not allowed")
        if _RESERVED.match(part):
            raise ValueError(f"the path part {part!r} is a device name on some systems")
    return text


def check_stub(text: str) -> str:
    """Returns the text if it is a stub; raises ValueError otherwise."""
    try:
        Stub.parse(text)
    except StubError as error:
        raise ValueError(str(error)) from None
    return text


def check_name(text: str) -> str:
    """Returns the text if it is a stub without pin and query; raises ValueError otherwise."""
    stub = Stub.parse(check_stub(text))
    if stub.pin or stub.query:
        raise ValueError("a manifest's name has neither pin nor query")
    return text


Digest = Annotated[str, AfterValidator(check_digest)]
RelPath = Annotated[str, AfterValidator(check_path)]
StubText = Annotated[str, AfterValidator(check_stub)]
NameText = Annotated[str, AfterValidator(check_name)]
Word = Annotated[str, Field(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Role(StrEnum):
    """Why a file is there; the same stub resolves to other files by role."""

    TRAINING = "training"
    DEPLOYMENT = "deployment"
    RECIPE = "recipe"
    CARD = "card"
    SAMPLE_INPUTS = "sample-inputs"
    SAMPLE_OUTPUTS = "sample-outputs"
    BENCHMARK = "benchmark"
    METRICS = "metrics"


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Closed):
    """One file of a version: `path` is relative to the model folder."""

    path: RelPath
    sha256: Digest
    size_bytes: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES, strict=True)]
    role: Role


class Metadata(_Closed):
    """What is known of a model; every field is optional. Sparsity lies in [0, 1]."""

    domain: Word | None = None
    task: Word | None = None
    architecture: Word | None = None
    sub_architecture: Word | None = None
    framework: Word | None = None
    repo: Word | None = None
    dataset: Word | None = None
    license: Word | None = None
    description: Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")] | None = None
    sparsity: Annotated[float, Field(ge=0, le=1)] | None = None
    pattern: Word | None = None
    quantized: bool | None = None
    parameters: Annotated[int, Field(ge=0, le=1 << 53)] | None = None
    metrics: dict[Word, Number] = Field(default_factory=dict, max_length=64)
    base: StubText | None = None
    teacher: StubText | None = None
    recipe: StubText | None = None
    data_fingerprint: Digest | None = None


class Manifest(_Closed):
    """A version's files, sorted by path, and metadata.

    `name` is a stub without pin and query, `alias` its short form, if there is one.
    """

    schema_version: Annotated[int, Field(ge=1, le=1)] = 1
    name: NameText
    alias: NameText | None = None
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1, max_length=MAX_FILES, fail_fast=True)]
    metadata: Metadata = Metadata()

    @field_validator("files")
    @classmethod
    def _distinct_paths(cls, files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        folded = [entry.path.lower() for entry in files]
        for path, again in zip(sorted(folded), sorted(folded)[1:], strict=False):
            if path == again:
                raise ValueError(f"the path {path!r} is there twice, or differs only by case")
        names = set(folded)
        for path in folded:
            for parent in PurePosixPath(path).parents:
                if str(parent) in names:
                    raise ValueError(f"the path {str(parent)!r} is both a file and a folder")
        return tuple(sorted(files, key=lambda entry: entry.path))

    @classmethod
    def parse(cls, data: bytes | str | dict[str, Any]) -> Self:
        """Reads a manifest from JSON or a decoded document; raises `ManifestError` naming the field."""
        try:
            if isinstance(data, dict):
                return cls.model_validate(data)
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "document"
            raise ManifestError(f"the manifest is wrong at {where}: {first['msg']}") from None

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8, absent fields left out."""
        document = self.model_dump(mode="json", exclude_none=True)
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()

    def digest(self) -> str:
        """sha256 of the canonical JSON: the version's identity."""
        return "sha256:" + hashlib.sha256(self.to_json()).hexdigest()

    @property
    def full_name(self) -> str:
        """The name as a registry stores it, without the prefix."""
        return self.name.removeprefix(PREFIX)

    @property
    def size_bytes(self) -> int:
        """The sum of all files' sizes."""
        return sum(entry.size_bytes for entry in self.files)

    def with_role(self, role: Role) -> tuple[FileEntry, ...]:
        """The files of one role, by path."""
        return tuple(entry for entry in self.files if entry.role == role)
