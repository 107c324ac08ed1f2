"""What a registry answers about models and versions. Checked when it is read: a registry may be a stranger's."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from zoo.benchmark import BenchmarkRecord
from zoo.errors import IntegrityError, ManifestError, UnavailableError
from zoo.manifest import Digest, Manifest, Metadata, StubText
from zoo.stub import Stub, is_tag


def _check_tag(text: str) -> str:
    if not is_tag(text):
        raise ValueError("not a tag")
    return text


Tag = Annotated[str, AfterValidator(_check_tag)]
VersionNumber = Annotated[int, Field(ge=1, le=999_999_999)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    @classmethod
    def parse(cls, document: object) -> Self:
        """Reads a decoded answer; raises `UnavailableError` naming the field that is wrong."""
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "document"
            raise UnavailableError(f"the registry's answer is wrong at {where}: {first['msg']}") from None


class VersionSummary(_Answer):
    """One version of a model, without its manifest. `digest` is the manifest's."""

    name: StubText
    alias: StubText | None = None
    version: VersionNumber
    digest: Digest
    tags: tuple[Tag, ...] = ()
    created_at: str = ""
    size_bytes: Annotated[int, Field(ge=0)] = 0
    yank_reason: str | None = None

    @property
    def stub(self) -> Stub:
        """The version's own stub, pinned by number."""
        return Stub.parse(self.name).pinned(f"v{self.version}")


class CheckView(_Answer):
    """What was found of a file before the version became visible; `by` is "registry", or "publisher" for a claim."""

    check: str
    path: str
    state: str
    detail: str = ""
    by: str = "registry"

    def __str__(self) -> str:
        return f"{self.check:<8} {self.state}, {self.path}: {self.detail}"


class VersionView(VersionSummary):
    """One version of a model with its manifest, whose digest has been computed again."""

    manifest: Manifest
    checks: tuple[CheckView, ...] = ()

    @classmethod
    def read(cls, document: object, asked: Stub | None = None) -> Self:
        """Reads an answer, and checks that it is what was asked for.

        Raises `UnavailableError`, `ManifestError`, or `IntegrityError` where the manifest isn't what it claims to be.
        """
        if not isinstance(document, dict):
            raise UnavailableError("the registry's answer is no JSON object")
        fields: dict[str, Any] = dict(document)
        raw = fields.get("manifest")
        if not isinstance(raw, dict):
            raise ManifestError("the registry's answer carries no manifest")
        fields["manifest"] = Manifest.parse(raw)
        view = cls.parse(fields)
        view.check(asked)
        return view

    def check(self, asked: Stub | None) -> None:
        """Raises `IntegrityError` if the manifest has another digest or name than the version or the question.

        A short name may be an alias that only the registry knows; a long one is the model's own.
        """
        actual = self.manifest.digest()
        expected = asked.pin if asked and asked.is_digest else self.digest
        if not actual == expected == self.digest:
            raise IntegrityError(f"the manifest of {self.name} has the digest {actual}, expected {expected}")
        if self.manifest.name != self.name:
            raise IntegrityError(f"the manifest of {self.name} is made out for {self.manifest.name}")
        if asked and asked.is_long and self.name != f"zoo:{asked.full_name}":
            raise IntegrityError(f"asked for {asked}, the registry answered with {self.name}")


class ModelSummary(_Answer):
    """One line of a search."""

    name: StubText
    alias: StubText | None = None
    latest_version: VersionNumber | None = None
    digest: Digest | None = None
    tags: tuple[Tag, ...] = ()
    metadata: Metadata = Metadata()
    size_bytes: Annotated[int, Field(ge=0)] = 0
    updated_at: str = ""


class SearchPage(_Answer):
    """One page of a search; `next_cursor` asks for the next one."""

    items: tuple[ModelSummary, ...]
    next_cursor: str | None = None


class NamePage(_Answer):
    """Models by name; `next_after` asks for those behind it."""

    items: tuple[StubText, ...]
    next_after: StubText | None = None


class BenchmarkView(_Answer):
    """A measurement of a version, as a registry keeps it."""

    name: StubText
    version: VersionNumber
    record: BenchmarkRecord
    published_by: str | None = None


class BestModel(_Answer):
    """A model that meets what was asked, with the run that shows it. `f1` is in percent."""

    name: StubText
    version: VersionNumber
    f1: float | None = None
    benchmark: BenchmarkView


class BestPage(_Answer):
    """The models that meet what was asked, best first; `measured_on` is "cpu", or "isa" for CPUs like it."""

    items: tuple[BestModel, ...]
    measured_on: str
