"""What goes over the wire, in and out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from zoo.benchmark import BenchmarkRecord, Cores
from zoo.manifest import MAX_FILE_BYTES, Digest, Metadata, Role

MAX_DIGESTS = 10_000
MAX_TAGS = 64
MAX_STUB = 512

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0, le=(1 << 63) - 1)]
StubParam = Annotated[str, Field(min_length=1, max_length=MAX_STUB)]
Reason = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f\x7f]*$")]
Facet = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]
Time = Annotated[
    datetime,
    PlainSerializer(lambda time: time.astimezone(UTC).isoformat().replace("+00:00", "Z"), return_type=str),
]


class _In(BaseModel):
    """A body; `MAX_BODY_BYTES` is how much JSON may be sent for it, in so far as the operator lets it."""

    MAX_BODY_BYTES: ClassVar[int] = 1 << 16

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class MissingIn(_In):
    """Digests that a client is about to upload."""

    MAX_BODY_BYTES = 1 << 20  # anybody may send it; ten thousand digests fit

    digests: Annotated[list[Digest], Field(max_length=MAX_DIGESTS)]


class UploadIn(_In):
    """A blob that is about to come in chunks."""

    digest: Digest
    size_bytes: Annotated[int, Field(ge=1, le=MAX_FILE_BYTES)]


class SamplesIn(_In):
    """What the publisher found when it gave the sample inputs to the model, or why it didn't."""

    state: Literal["passed", "skipped", "unchecked"]
    detail: Reason


class VersionIn(_In):
    """A version to publish: its manifest, the tags to move to it, and the number it must get, if that matters."""

    MAX_BODY_BYTES = 1 << 28  # the operator's setting is what bounds it

    manifest: dict[str, Any]
    tags: Annotated[list[Annotated[str, Field(max_length=128)]], Field(max_length=MAX_TAGS)] = []
    version: Annotated[int, Field(ge=1, le=999_999_999)] | None = None
    samples: SamplesIn | None = None


class TagIn(_In):
    """A tag to move to the version that a stub names."""

    stub: StubParam
    tag: Annotated[str, Field(min_length=1, max_length=128)]


class YankIn(_In):
    """A version to leave out where nothing pins it; a reason of null takes that back."""

    stub: StubParam
    reason: Reason | None


class DeleteIn(_In):
    """A version to delete; `force` also while other models were made from it."""

    stub: StubParam
    reason: Reason
    force: bool = False


class SearchIn(BaseModel):
    """A search: every filter must hold, and every word of `q` must occur in a name, an alias or the description.

    A word of three to six characters also finds longer words of names that begin with it. Upper and lower case mean the
    same in words and in `license`. `f1_min` is in percent,
    `size_max` in bytes; `latency_max_ms` is met by the lowest median measured at batch size 1, on whatever hardware.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    q: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] = ""
    domain: Facet | None = None
    task: Facet | None = None
    architecture: Facet | None = None
    dataset: Facet | None = None
    quantized: bool | None = None
    pattern: Facet | None = None
    license: Facet | None = None
    sparsity_min: Fraction | None = None
    sparsity_max: Fraction | None = None
    f1_min: Percent | None = None
    latency_max_ms: Positive | None = None
    size_max: Bytes | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    cursor: Annotated[str, Field(max_length=200)] | None = None


class BenchmarkIn(_In):
    """A measurement of the version that a stub names."""

    model_config = ConfigDict(strict=False)

    stub: StubParam
    record: BenchmarkRecord


class BestIn(BaseModel):
    """What the best model is looked for: a CPU, the lowest F1 in percent, the highest median latency at batch size 1.

    Where nothing was measured on the CPU itself, `isa` and `cores` say which others are like it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu: Facet
    isa: Facet | None = None
    cores: Cores | None = None
    f1_min: Percent | None = None
    latency_max_ms: Positive | None = None
    domain: Facet | None = None
    task: Facet | None = None
    architecture: Facet | None = None
    dataset: Facet | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 10


class Health(BaseModel):
    """The registry answers, and so does its database."""

    status: str
    version: str


class MissingOut(BaseModel):
    """The digests that the registry lacks."""

    missing: list[str]


class BlobOut(BaseModel):
    """A stored blob."""

    digest: str
    size_bytes: int


class UploadView(BaseModel):
    """An upload: `offset_bytes` of its bytes are here, and the next chunk begins there."""

    id: str
    digest: str
    size_bytes: int
    offset_bytes: int
    expires_at: Time


class FileView(BaseModel):
    """A file of a version; `url` is a path on this registry."""

    path: str
    sha256: str
    size_bytes: int
    role: Role
    url: str


class VersionSummary(BaseModel):
    """A version without its manifest."""

    name: str
    alias: str | None
    version: int
    private: bool
    digest: str
    tags: list[str]
    created_at: Time
    size_bytes: int
    yank_reason: str | None = None


class CheckView(BaseModel):
    """What the gate found of a file before the version became visible, and who looked."""

    check: Annotated[str, Field(max_length=32)]
    path: Annotated[str, Field(max_length=1_024)]
    state: Literal["passed", "failed", "skipped", "unchecked"]
    detail: Annotated[str, Field(max_length=2_000)]
    by: Literal["registry", "publisher"] = "registry"


class VersionView(VersionSummary):
    """A version with its manifest; `files` is narrowed by role, the manifest never is."""

    manifest: dict[str, Any]
    files: list[FileView]
    checks: list[CheckView] = []


class VersionList(BaseModel):
    """A model's versions, newest first."""

    items: list[VersionSummary]


class Source(BaseModel):
    """Something that a version was made from: a base, teacher, recipe or data.

    It is a stub, with the name of its model if that is here, or a digest.
    """

    relation: str
    stub: str | None
    digest: str | None
    name: str | None


class User(BaseModel):
    """A version that was made from something."""

    relation: str
    stub: str
    name: str
    version: int


class LineageView(BaseModel):
    """What a version was made from, and what was made from it."""

    made_from: list[Source]
    used_by: list[User]


class DeletedOut(BaseModel):
    """A version that is gone for good."""

    stub: str
    reason: str


class ModelSummary(BaseModel):
    """A model by its latest version."""

    name: str
    alias: str | None
    latest_version: int
    private: bool
    digest: str
    tags: list[str]
    metadata: Metadata
    size_bytes: int
    updated_at: Time


class ModelPage(BaseModel):
    """One page of a search."""

    items: list[ModelSummary]
    next_cursor: str | None


class NamePage(BaseModel):
    """Models by name; `next_after` asks for those behind it."""

    items: list[str]
    next_after: str | None


class BenchmarkView(BaseModel):
    """A measurement of a version, and whose token sent it."""

    name: str
    version: int
    record: BenchmarkRecord
    published_by: str | None


class BenchmarkList(BaseModel):
    """A version's measurements, newest first."""

    items: list[BenchmarkView]


class BestView(BaseModel):
    """A model that meets the conditions, with the run that shows it."""

    name: str
    version: int
    f1: float | None
    benchmark: BenchmarkView


class BestList(BaseModel):
    """The models that meet the conditions, best first. `measured_on` is "cpu", or "isa" for CPUs like it."""

    items: list[BestView]
    measured_on: str


class WhoAmI(BaseModel):
    """Whose token it is, if one was sent, whether it may write, and where it may do what."""

    name: str | None
    may_write: bool
    scopes: list[str]
    expires_at: Time | None


class Problem(BaseModel):
    """An error, as RFC 9457 has it; `code` is stable, and some codes carry more members."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
