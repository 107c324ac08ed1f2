"""What the `sparsezoo` package asks of its server: one GraphQL query, answered from the same models.

With `SPARSEZOO_API_URL` set to this registry, sparsezoo 1.x searches and downloads here. It sends a long stub as its
parts and a short one whole, as `repoName`; what `files` lists it downloads by plain HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from graphql import ExecutionResult, GraphQLError, GraphQLResolveInfo, build_schema, execute_sync, parse, validate
from pydantic import BaseModel, Field, ValidationError

from registry.benchmarks import Benchmarks
from registry.caller import Caller
from registry.errors import InvalidRequestError, UnknownError
from registry.routes.bodies import StrictRoute
from registry.routes.depends import BenchmarksDep, CallerDep, RegistryDep, SettingsDep
from registry.routes.sparsezoo_files import list_files
from registry.schemas import ModelSummary, SearchIn, VersionView
from registry.service import Registry
from zoo.manifest import Metadata
from zoo.stub import PREFIX, Stub

MAX_TOKENS = 1_000
MAX_QUERY_CHARACTERS = 20_000
MAX_LOOKED_AT = 1_000  # the client knows no pages, so that one answer holds all that it gets
MAX_LOOK_UPS = 30  # of one request: pages of searches, models opened, lists of measurements
_PAGE = 100

SCHEMA = build_schema(
    """
    type Query {
      models(
        repoName: String, domain: String, task: String, architecture: String, subArchitecture: String,
        framework: String, repo: String, sourceDataset: String, trainingScheme: String, sparseTag: String
      ): [Model!]!
    }
    type Model {
      modelId: String!
      stub: String!
      repoName: String!
      repoNamespace: String!
      modelOnnxSizeCompressedBytes: Float
      files(version: Int): [File!]!
      trainingResults: [TrainingResult!]!
      benchmarkResults: [BenchmarkResult!]!
    }
    type File { modelId: String!, displayName: String!, downloadUrl: String!, fileSize: Float!, fileType: String! }
    type TrainingResult { datasetName: String!, datasetType: String!, recordedUnits: String!, recordedValue: Float! }
    type BenchmarkResult {
      batchSize: Int!, deviceInfo: String!, numCores: Int!, recordedUnits: String!, recordedValue: Float!
    }
    """
)
_NAME_PARTS = ("domain", "task", "architecture", "framework", "repo", "sourceDataset", "sparseTag")
_WORD = r"[a-z0-9._]+"
_TAKEN_BY_CLIENT = re.compile(
    rf"zoo:({_WORD}/{_WORD}/{_WORD}(-{_WORD})?/{_WORD}/{_WORD}/{_WORD}(-{_WORD})?/[a-z0-9._-]+|{_WORD}(-{_WORD}){{2,}})\Z"
)

router = APIRouter(tags=["sparsezoo"], route_class=StrictRoute)


class GraphQLIn(BaseModel):
    """A GraphQL request."""

    query: Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS)]
    variables: dict[str, Any] | None = None
    operation_name: Annotated[str | None, Field(alias="operationName", max_length=200)] = None


@router.post("/v2/graphql")
def graphql(
    body: GraphQLIn,
    request: Request,
    registry: RegistryDep,
    benchmarks: BenchmarksDep,
    caller: CallerDep,
    settings: SettingsDep,
) -> JSONResponse:
    """Answers a GraphQL query; what is wrong with it stands in `errors`, as the client expects."""
    endpoint = settings.public_url.rstrip("/") or str(request.base_url).rstrip("/")
    result = _run(body, _Models(registry, benchmarks, caller, endpoint))
    for error in result.errors or ():
        if error.original_error and not isinstance(error.original_error, GraphQLError | InvalidRequestError):
            raise error.original_error
    return JSONResponse(result.formatted)


def _run(body: GraphQLIn, models: _Models) -> ExecutionResult:
    try:
        document = parse(body.query, max_tokens=MAX_TOKENS)
    except GraphQLError as error:
        return ExecutionResult(None, [error])
    mistakes = validate(SCHEMA, document, max_errors=5)
    if mistakes:
        return ExecutionResult(None, mistakes)
    root = {"models": models.find}
    done = execute_sync(SCHEMA, document, root, variable_values=body.variables, operation_name=body.operation_name)
    assert isinstance(done, ExecutionResult)  # noqa: S101  # our resolvers are no coroutines
    return done


class _Models:
    """Finds models for one request, by at most `MAX_LOOK_UPS` questions to the registry."""

    def __init__(self, registry: Registry, benchmarks: Benchmarks, caller: Caller, endpoint: str) -> None:
        self._registry, self._benchmarks, self._caller, self._endpoint = registry, benchmarks, caller, endpoint
        self._look_ups = 0

    def find(self, _info: GraphQLResolveInfo[None], **asked: str) -> list[dict[str, Any]]:
        """The model that a stub's parts name, or those that match some of them; none if there is none."""
        name = asked.get("repoName") or _long_name(asked)
        if name:
            try:
                return [self._model(self._resolve(PREFIX + name))]
            except UnknownError:
                if "repoName" in asked:
                    return []
        found = ((item, _stub_for_client(item)) for item in self._search(asked))
        return [self._model(item, stub) for item, stub in found if stub]

    def _search(self, asked: dict[str, str]) -> Iterator[ModelSummary]:
        facets = {"domain": "domain", "task": "task", "architecture": "architecture", "dataset": "sourceDataset"}
        try:
            wanted = SearchIn.model_validate({ours: asked.get(theirs) or None for ours, theirs in facets.items()})
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise GraphQLError(f"{first['loc'][0]}: {first['msg']}") from None
        cursor: str | None = None
        for _ in range(MAX_LOOKED_AT // _PAGE):
            self._count()
            page = self._registry.search(wanted.model_copy(update={"limit": _PAGE, "cursor": cursor}), self._caller)
            yield from (item for item in page.items if _matches(item, asked))
            cursor = page.next_cursor
            if cursor is None:
                return

    def _model(self, found: VersionView | ModelSummary, stub: str | None = None) -> dict[str, Any]:
        """A model under GraphQL's names; what needs the version itself is worked out only where it is asked for."""
        number = found.version if isinstance(found, VersionView) else found.latest_version
        short = Stub.parse(found.alias or found.name)

        @cache
        def view() -> VersionView:
            return found if isinstance(found, VersionView) else self._resolve(f"{found.name}@v{number}")

        return {
            "modelId": found.digest.removeprefix("sha256:"),
            "stub": stub or found.name,
            # The client takes a folder of this name for the model whatever lies in it: each version gets its own.
            "repoName": f"{short.name.replace('/', '.')}@v{number}",
            "repoNamespace": short.scope or "zoo",
            "files": lambda _info, **_: self._files(view()),
            "trainingResults": lambda _info: _training_results(view()),
            "benchmarkResults": lambda _info: self._benchmark_results(view()),
        }

    def _resolve(self, stub: str) -> VersionView:
        self._count()
        return self._registry.resolve(stub, caller=self._caller)

    def _count(self) -> None:
        self._look_ups += 1
        if self._look_ups > MAX_LOOK_UPS:
            raise GraphQLError(f"this needs more than {MAX_LOOK_UPS} look-ups; ask for less, or name one with repoName")

    def _benchmark_results(self, view: VersionView) -> list[dict[str, Any]]:
        self._count()
        records = (item.record for item in self._benchmarks.of(f"{view.name}@v{view.version}", self._caller))
        return [
            {
                "batchSize": record.batch_size,
                "deviceInfo": record.hardware.cpu,
                "numCores": record.threads,
                "recordedUnits": "items/second",
                "recordedValue": record.items_per_second,
            }
            for record in records
        ]

    def _files(self, view: VersionView) -> list[dict[str, Any]]:
        files = list_files(view, self._endpoint)
        if not any(file["displayName"] == "model.onnx" for file in files):
            raise GraphQLError(
                f"{view.name}@v{view.version} has no deployment/model.onnx, without which sparsezoo opens no model; "
                "take it with `zoo pull`, or publish a version that has one"
            )
        return files


def _long_name(asked: dict[str, str]) -> str | None:
    """The long name, if all of its parts are there."""
    if not all(asked.get(part) for part in _NAME_PARTS):
        return None
    parts = dict(asked)
    if asked.get("subArchitecture"):
        parts["architecture"] += f"-{asked['subArchitecture']}"
    if asked.get("trainingScheme"):
        parts["sourceDataset"] += f"-{asked['trainingScheme']}"
    return "/".join(parts[part] for part in _NAME_PARTS)


def _matches(item: ModelSummary, asked: dict[str, str]) -> bool:
    segments = Stub.parse(item.name).name.split("/")
    facts = item.metadata
    ours = {"subArchitecture": facts.sub_architecture, "framework": facts.framework, "repo": facts.repo}
    if "trainingScheme" in asked:
        ours["trainingScheme"] = segments[-2].partition("-")[2] if len(segments) > 1 else None
    tag = f"-{segments[-1]}-"
    return all(asked.get(key) in (None, value) for key, value in ours.items()) and (
        "sparseTag" not in asked or f"-{asked['sparseTag']}-" in tag
    )


def _stub_for_client(item: ModelSummary) -> str | None:
    """The stub that the client's own grammar takes; it knows no scopes, for one."""
    return next((stub for stub in (item.name, item.alias) if stub and _TAKEN_BY_CLIENT.match(stub)), None)


def _training_results(view: VersionView) -> list[dict[str, Any]]:
    facts = Metadata.model_validate(view.manifest["metadata"])
    return [
        {"datasetName": facts.dataset or "", "datasetType": "downstream", "recordedUnits": name, "recordedValue": value}
        for name, value in sorted(facts.metrics.items())
    ]
