"""What a registry is asked: versions, searches, tags; its files are in `zoo.blobs`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from zoo import static_registry
from zoo.answer import items_of, object_of
from zoo.benchmark import BenchmarkRecord, Hardware
from zoo.blobs import Blobs
from zoo.connection import Connection
from zoo.errors import IntegrityError, NotFoundError
from zoo.manifest import Manifest
from zoo.settings import Settings
from zoo.stub import Stub
from zoo.version import BenchmarkView, BestPage, NamePage, SearchPage, VersionSummary, VersionView


class RegistryClient:
    """One registry, one thread; `blobs` are its files. A context manager that closes its connections.

    Raises `NotFoundError`, `AccessError`, `ConflictError`, `UnavailableError`, `IntegrityError`, `ManifestError`;
    the settings' `offline` is `UnavailableError` at once.
    """

    def __init__(self, settings: Settings, *, public_hops: bool = False) -> None:
        settings.check_online(f"ask {settings.endpoint}")
        self.endpoint = settings.endpoint
        self._connection = Connection(settings, public_hops=public_hops)
        self.blobs = Blobs(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._connection.close()

    def resolve(self, stub: Stub) -> VersionView:
        """The version that a stub names now."""
        answer = self._get("/resolve", {"stub": str(stub)})
        if static_registry.is_static(answer):
            answer = static_registry.choose(self._get_static(stub), stub)
        return VersionView.read(answer, stub)

    def search(self, text: str = "", *, limit: int = 20, cursor: str | None = None, **filters: object) -> SearchPage:
        """One page of models; filters are domain, task, architecture, dataset, pattern, license, quantized, ..."""
        wanted = {"q": text, "limit": limit, "cursor": cursor, **filters}
        asked = {k: v for k, v in wanted.items() if v not in (None, "")}
        answer = self._get("/models", {k: _plain(v) for k, v in asked.items()})
        if static_registry.is_static(answer):
            del asked["limit"]
            answer = {"items": static_registry.matching(answer["items"], asked, limit), "next_cursor": None}
        return SearchPage.parse(answer)

    def names(self) -> Iterator[str]:
        """Every model that is there, whether a search shows it or not."""
        after: str | None = None
        while True:
            page = NamePage.parse(self._get("/names", {"after": after} if after else None))
            yield from page.items
            after = page.next_after
            if after is None:
                return

    def versions(self, stub: Stub) -> tuple[VersionSummary, ...]:
        """All versions of a model."""
        answer = self._get("/versions", {"stub": str(stub)})
        if static_registry.is_static(answer):
            answer = {"items": static_registry.versions_in(self._get_static(stub))}
        return tuple(VersionSummary.parse(item) for item in items_of(answer))

    def post_benchmark(self, stub: Stub, record: BenchmarkRecord) -> BenchmarkView:
        """Adds a measurement to the version that the stub names; sending the same one again changes nothing."""
        body = {"stub": str(stub), "record": record.model_dump(mode="json", exclude_none=True)}
        return BenchmarkView.parse(self._connection.call("POST", "/benchmarks", body=body))

    def best(self, hardware: Hardware, *, limit: int = 10, **wanted: object) -> BestPage:
        """The models with the highest F1 on this hardware; wanted are f1_min (percent), latency_max_ms, task, ..."""
        asked = {"cpu": hardware.cpu, "isa": hardware.isa, "cores": hardware.cores, "limit": limit, **wanted}
        return BestPage.parse(self._get("/best", {k: _plain(v) for k, v in asked.items() if v not in (None, "")}))

    def whoami(self) -> dict[str, Any]:
        """What the registry knows of the token."""
        return object_of(self._get("/whoami"))

    def post_version(
        self,
        manifest: Manifest,
        tags: Sequence[str] = (),
        version: int | None = None,
        samples: Mapping[str, str] | None = None,
    ) -> tuple[VersionView, bool]:
        """Publishes a version whose blobs are there, with what replaying its samples found: state and detail.

        Returns it and whether it is new; raises `CheckError` for files that the registry refuses.
        """
        body: dict[str, Any] = {"manifest": manifest.model_dump(mode="json", exclude_none=True), "tags": list(tags)}
        if version is not None:
            body["version"] = version
        if samples is not None:
            body["samples"] = dict(samples)
        statuses: list[int] = []
        view = VersionView.read(self._connection.call("POST", "/versions", body=body, on_status=statuses.append))
        if view.digest != manifest.digest():
            raise IntegrityError(f"published {manifest.digest()}, the registry answered with {view.digest}")
        return view, statuses[-1] == HTTPStatus.CREATED

    def put_tag(self, stub: Stub, tag: str) -> VersionView:
        """Moves a tag to the version that the stub names."""
        return VersionView.read(self._connection.call("PUT", "/tags", body={"stub": str(stub), "tag": tag}))

    def lineage(self, stub: Stub) -> dict[str, Any]:
        """What a version was made from, and what was made from it."""
        return object_of(self._get("/lineage", {"stub": str(stub)}))

    def yank(self, stub: Stub, reason: str | None) -> VersionSummary:
        """Leaves a version out where nothing pins it; without a reason, takes that back."""
        return VersionSummary.parse(self._connection.call("PUT", "/yanks", body={"stub": str(stub), "reason": reason}))

    def delete_version(self, stub: Stub, reason: str, *, force: bool = False) -> None:
        """Deletes a version for good."""
        self._connection.call("POST", "/versions/delete", body={"stub": str(stub), "reason": reason, "force": force})

    def _get_static(self, stub: Stub) -> Any:
        try:
            return self._get(static_registry.path_of(stub))
        except NotFoundError:
            raise NotFoundError(f"the files at {self.endpoint} hold no model zoo:{stub.full_name}") from None

    def _get(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        return self._connection.call("GET", path, params=params)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
