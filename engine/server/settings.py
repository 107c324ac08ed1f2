"""What a server is told: by flags, or by a YAML file in the originals' forms.

num_cores: 4                      the form of DeepSparse 1.2 and later
endpoints:
  - task: question_answering
    model: path/to/deployment     name, route, batch_size, kwargs: optional

models:                           the form of DeepSparse 1.0 and 1.1
  - {task: question_answering, model_path: path/to/deployment, alias: squad}
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from engine.cores import default_cores
from engine.errors import EngineError, PipelineError
from engine.pipelines.pipeline import problems
from engine.pipelines.tasks import find_task

MOST_CONFIG_BYTES = 2**20
_DEEPEST = 50
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
_ROUTE = r"^/[A-Za-z0-9_./-]{1,200}$"
_RESERVED = re.compile(r"^/(v2|ping|health|healthcheck|status|config|docs|openapi\.json|static)(/|$)")
# The originals' names of levels that Python's logging calls otherwise.
_LOG_LEVELS = {"warn": "warning", "fatal": "critical"}
_OF_CREATE = {"task", "model_path", "batch_size"}


class SettingsError(EngineError):
    """The server's flags or configuration file are wrong: what, and where."""


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class EndpointSettings(_Closed):
    """One model behind its own address. `kwargs` are the options of the pipeline and of the engine beneath it.

    `bucketing.sequence_lengths` gives the longest sequence; one engine runs every length up to it.
    `logging_config`, `data_logging` and `middlewares` are read and have no effect.
    """

    task: str
    model: str = Field(validation_alias=AliasChoices("model", "model_path"), min_length=1)
    name: str | None = Field(default=None, pattern=_NAME)
    route: str | None = Field(default=None, pattern=_ROUTE)
    batch_size: int | None = Field(default=1, ge=1)
    kwargs: dict[str, Any] = Field(default_factory=dict)
    bucketing: dict[Literal["sequence_lengths"], list[int]] | None = None
    logging_config: Any = None
    data_logging: Any = None
    middlewares: Any = None

    @field_validator("task")
    @classmethod
    def _known(cls, task: str) -> str:
        try:
            return find_task(task).task
        except PipelineError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _checked(self) -> Self:
        taken = _OF_CREATE & self.kwargs.keys()
        if taken:
            raise ValueError(f"kwargs may not hold {sorted(taken)}; they are the endpoint's own keys")
        if self.route and _RESERVED.match(self.route):
            raise ValueError(f"route {self.route} is one of the server's own")
        return self

    def options(self, num_cores: int | None, num_streams: int | None) -> dict[str, Any]:
        """Return the keyword arguments of Pipeline.create."""
        lengths = (self.bucketing or {}).get("sequence_lengths")
        bucketed = {"sequence_length": max(lengths)} if lengths else {}
        cores = {"num_cores": num_cores, "num_streams": num_streams}
        return {**cores, "batch_size": self.batch_size, **bucketed, **self.kwargs}

    def unused(self) -> list[str]:
        """Return the keys that are set and have no effect."""
        return [key for key in ("logging_config", "data_logging", "middlewares") if getattr(self, key)]


class ServerSettings(_Closed):
    """A server: where it listens, what it serves, and its limits. Sizes in bytes, times in seconds.

    `num_workers` threads answer requests, and as many engine runs go on side by side, each on its share of the
    `num_cores` (default: all). Without it, half as many threads as cores answer, at least two, and runs
    take turns on all cores: the lowest latency, where several streams give the highest throughput.
    `queue_limit` requests more may wait; beyond that a request gets 503.
    `drain_delay_s`: after SIGTERM, how long requests are still accepted while readiness says no.
    `integration`, `engine_thread_pinning`, `pytorch_num_threads`, `loggers`, `system_logging` are read and
    have no effect.
    """

    endpoints: list[EndpointSettings] = Field(min_length=1)
    num_cores: int | None = Field(default=None, ge=1)
    num_workers: int | None = Field(default=None, ge=1, le=1024)
    host: str = "127.0.0.1"
    port: int = Field(default=5543, ge=0, le=65535)
    body_limit_bytes: int = Field(default=2**20, ge=1)
    body_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    queue_limit: int = Field(default=64, ge=0)
    request_timeout_s: float = Field(default=60.0, gt=0, le=86400)
    drain_delay_s: float = Field(default=0.5, ge=0, le=3600)
    drain_limit_s: float = Field(default=30.0, ge=0, le=3600)
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    integration: Literal["local", "default", "sagemaker"] = "local"
    engine_thread_pinning: Any = None
    pytorch_num_threads: Any = None
    loggers: Any = None
    system_logging: Any = None

    @field_validator("log_level", mode="before")
    @classmethod
    def _renamed(cls, level: object) -> object:
        return _LOG_LEVELS.get(level, level) if isinstance(level, str) else level

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for kind, values in (("name", self.names()), ("route", [e.route for e in self.endpoints if e.route])):
            twice = [value for value, count in Counter(values).items() if count > 1]
            if twice:
                raise ValueError(f"two endpoints share the {kind} {twice[0]}")
        return self

    def names(self) -> list[str]:
        """Return each endpoint's name: its own, or its task's, numbered where that isn't enough."""
        unnamed = Counter(endpoint.task for endpoint in self.endpoints if endpoint.name is None)
        return [
            endpoint.name or (endpoint.task if unnamed[endpoint.task] == 1 else f"{endpoint.task}-{number}")
            for number, endpoint in enumerate(self.endpoints)
        ]

    def workers(self) -> int:
        """Return the number of threads that answer requests."""
        return self.num_workers or max(2, (self.num_cores or default_cores()) // 2)

    def unused(self) -> list[str]:
        """Return the keys that are set and have no effect, for a warning."""
        keys = ("engine_thread_pinning", "pytorch_num_threads", "loggers", "system_logging")
        inner = [
            f"endpoints.{number}.{key}" for number, endpoint in enumerate(self.endpoints) for key in endpoint.unused()
        ]
        return [key for key in keys if getattr(self, key)] + inner

    @classmethod
    def checked(cls, values: Mapping[str, Any], source: str) -> Self:
        """Make settings of plain values. Raises SettingsError naming `source` and each wrong key."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SettingsError(f"{source}: {problems(error)}; known keys: {', '.join(cls.model_fields)}") from None


def read_config(path: Path | str, **flags: Any) -> ServerSettings:
    """Read a YAML configuration; `flags` that aren't None stand above it.

    Raises SettingsError naming the file, the place and the key.
    """
    path = Path(path)
    document = _upgraded(_read_yaml(path), path)
    given = {key: value for key, value in flags.items() if value is not None}
    return ServerSettings.checked({**document, **given}, str(path))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_CONFIG_BYTES + 1).decode("utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: isn't UTF-8 (byte {error.start})") from error
    if len(text) > MOST_CONFIG_BYTES:
        raise SettingsError(f"{path}: is larger than {MOST_CONFIG_BYTES} bytes")
    if _depth(text) > _DEEPEST:
        raise SettingsError(f"{path}: isn't usable YAML: more than {_DEEPEST} brackets are open at once")
    try:
        document = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: isn't usable YAML: {error}") from error
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: holds no mapping; expected `endpoints:` with a list")
    return document


def _depth(text: str) -> int:
    """The most brackets open at once: the parser's time grows with their square."""
    steps = ((character in "[{") - (character in "]}") for character in text)
    return max(accumulate(steps), default=0)


def _upgraded(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """Bring the `models:` form of DeepSparse 1.0 into the `endpoints:` form."""
    if "models" not in document:
        return document
    if "endpoints" in document or not isinstance(document["models"], list):
        raise SettingsError(f"{path}: models: must be a list, and can't stand beside endpoints")
    rest = {key: value for key, value in document.items() if key not in ("models", "workers")}
    if "workers" in document:
        rest["num_workers"] = document["workers"]
    return {**rest, "endpoints": [_endpoint_of_model(row, path) for row in document["models"]]}


def _endpoint_of_model(row: object, path: Path) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise SettingsError(f"{path}: each of models: must be a mapping with task and model_path")
    dropped = ("scheduler", "input_shapes")  # the engine has one scheduler and no fixed shapes
    endpoint: dict[str, Any] = {"name" if key == "alias" else key: row[key] for key in row if key not in dropped}
    inner = {key: endpoint.pop(key) for key in ("engine_type", "num_cores") if endpoint.get(key) is not None}
    given = endpoint.get("kwargs")
    return {**endpoint, "kwargs": {**inner, **(given if isinstance(given, dict) else {})}}
