"""One served model: its state, and how a request's body becomes an answer's body."""

from __future__ import annotations

import logging
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from engine.errors import EngineError
from engine.pipelines import Pipeline
from engine.pipelines.pipeline import Schema, field_name
from engine.pipelines.tasks import find_task
from engine.server.errors import BusyError, HttpError
from engine.server.settings import EndpointSettings
from engine.server.workers import Workers

MOST_TEXTS = 256
State = Literal["loading", "ready", "failed"]

_log = logging.getLogger("sparrow.server")


class Endpoint:
    """A model under a name: loading, then ready or failed. Raises PipelineError for a wrong task or folder."""

    def __init__(
        self, name: str, settings: EndpointSettings, num_cores: int | None = None, num_streams: int | None = None
    ) -> None:
        self.name, self.settings = name, settings
        self.kind = find_task(settings.task)
        self._options = settings.options(num_cores, num_streams)
        Pipeline.check(settings.task, settings.model, **self._options)
        # What the options fix isn't asked for in each request.
        self.form_fields = [name for name in self.kind.form_fields if self._options.get(name) is None]
        self.state: State = "loading"
        self.problem: str | None = None
        self._pipeline: Pipeline[Any, Any, Any] | None = None

    def load(self) -> None:
        """Load the model; afterwards `state` is ready or failed, and `problem` says why."""
        try:
            self._pipeline = Pipeline.create(self.settings.task, self.settings.model, **self._options)
        except EngineError as error:
            self.state, self.problem = "failed", str(error)
        except Exception as error:  # noqa: BLE001 - one model's failure must not stop the others
            _log.exception("model %s can't be loaded", self.name)
            self.state, self.problem = "failed", f"{type(error).__name__}: {error}"
        else:
            self.state = "ready"

    def describe(self) -> dict[str, Any]:
        """Return what a client may know of it."""
        described = {"name": self.name, "task": self.kind.task, "state": self.state, "ready": self.state == "ready"}
        return described if self.problem is None else {**described, "problem": self.problem}

    async def answer(self, body: bytes, workers: Workers, timeout_s: float) -> bytes:
        """Answer a JSON body that holds a request or a list of them, with a result or a list, as JSON.

        Raises HttpError: 400 no JSON, 422 wrong fields, 503 not loaded or too busy, 504 too slow.
        """
        pipeline = self.pipeline()
        document = parse(body)
        several = isinstance(document, list)
        requests = self._requests(pipeline, document if isinstance(document, list) else [document], several)
        results = await workers.run(lambda stop: pipeline.run(requests, stop), timeout_s)
        return to_json(results if several else results[0])

    def pipeline(self) -> Pipeline[Any, Any, Any]:
        """Return the loaded pipeline. Raises HttpError 503 while there is none."""
        if self._pipeline is None:
            if self.state == "loading":
                raise BusyError(f"model {self.name} is still loading")
            raise HttpError(503, f"model {self.name} can't be served; GET /v2/models/{self.name} says why")
        return self._pipeline

    def _requests(self, pipeline: Pipeline[Any, Any, Any], rows: list[Any], numbered: bool) -> list[Schema]:
        count = sum(pipeline.count(row) if isinstance(row, dict) else 1 for row in rows)
        if not 1 <= count <= MOST_TEXTS:
            raise HttpError(422, f"{count} texts; send 1 to {MOST_TEXTS} at once, in one request or in several")
        requests, problems = [], []
        for number, row in enumerate(rows):
            try:
                requests.append(self.kind.request_type.model_validate(row))
            except ValidationError as error:
                problems += _problems(error, [number] if numbered else [])
        if problems:
            fields = ", ".join(self.kind.request_type.model_fields)
            raise HttpError(422, f"the request is malformed; {self.kind.task} takes {fields}", problems)
        return requests

    def close(self) -> None:
        """Free the model."""
        if self._pipeline is not None:
            self._pipeline.close()


def parse(body: bytes) -> object:
    """Parse JSON of bounded depth, without NaN. Raises HttpError 400."""
    if not body.strip():
        raise HttpError(400, "the body is empty; send a JSON object")
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise HttpError(400, f"the body isn't JSON: {error}") from None


def _problems(error: ValidationError, place: list[int]) -> list[dict[str, Any]]:
    rows = error.errors(include_input=False, include_url=False, include_context=False)
    told = dict.fromkeys((field_name((*place, *row["loc"])) or "request", row["msg"]) for row in rows)
    return [{"field": field, "problem": problem} for field, problem in told]
