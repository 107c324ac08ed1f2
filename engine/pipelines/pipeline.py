"""What all pipelines share: finding the task and the model, checking requests, running batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from tokenizers import Tokenizer

from engine.errors import PipelineError
from engine.pipelines.backend import Backend, open_backend
from engine.pipelines.batching import BatchRunner, TokenRow
from engine.pipelines.model_folder import ModelFolder, find_model_folder

_OF_CREATE = ("num_cores", "num_streams", "batch_size", "engine_type")
Outputs = tuple[NDArray[np.float32], ...]


class Schema(BaseModel):
    """A closed, typed record: unknown fields and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


def _encodable(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"is no Unicode text: half a surrogate pair at character {error.start}") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]
"""A text that UTF-8 can carry: Python strings can hold more."""

Texts = Annotated[list[Text], Field(fail_fast=True)]
"""A list of them, of which the first wrong one is named: a request may hold very many."""


def _longest_bucket(value: object) -> object:
    """The originals' list of lengths asked for one engine each; here every length up to the longest runs."""
    if isinstance(value, list) and value and all(isinstance(length, int) for length in value):
        return max(value)
    return value


SequenceLength = Annotated[
    int | None,
    BeforeValidator(_longest_bucket),
    Field(ge=4, validation_alias=AliasChoices("max_seq_length", "sequence_length")),
]
"""The option `max_seq_length`, in tokens, under both of its names; None for the task's default."""

RequestT = TypeVar("RequestT", bound=Schema)
OptionsT = TypeVar("OptionsT", bound=Schema)
ResultT = TypeVar("ResultT", bound=Schema)


class Pipeline(ABC, Generic[RequestT, OptionsT, ResultT]):
    """A task on a model. Any number of threads may call one pipeline.

    A call takes the fields of one request (`pipeline(question=..., context=...)`) or a list of requests,
    as records or dictionaries, and returns one result or a list of them. `form_fields` are the request's
    texts, for a form that a person fills in.
    """

    task: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    form_fields: ClassVar[tuple[str, ...]]
    request_type: type[RequestT]
    options_type: type[OptionsT]
    result_type: type[ResultT]

    def __init__(
        self, folder: ModelFolder, backend: Backend, batch_size: int | None, options: OptionsT, engine_type: str
    ) -> None:
        self.folder, self.options, self.batch_size, self.engine_type = folder, options, batch_size, engine_type
        self._backend = backend
        self.tokenizer = folder.tokenizer()
        self._runner = BatchRunner(backend, batch_size, _padding_id(self.tokenizer, folder))
        self.outputs = self.choose_outputs(backend.output_names)
        self.prepare()

    @staticmethod
    def create(
        task: str,
        model_path: Path | str,
        *,
        num_cores: int | None = None,
        num_streams: int | None = None,
        batch_size: int | None = 1,
        engine_type: str = "sparrow",
        **options: Any,
    ) -> Pipeline[Any, Any, Any]:
        """Load a model folder, or a `zoo:` stub, for a task; `close` it, or use it in a `with` block.

        `task`: question_answering (qa), text_classification, token_classification (ner),
        zero_shot_text_classification, embedding; case, `-`, `_` and spaces don't matter. `num_streams` calls run
        side by side, each on its share of the `num_cores`. `batch_size`: most sequences in one engine run, None for
        as many as fit a fixed memory. `engine_type`: sparrow or onnxruntime. `options` are the task's own.

        Raises PipelineError for an unknown task, engine or option and for missing files, ModelError for a
        model file that the engine can't run.
        """
        kind, folder, checked = _found(task, model_path, options)
        backend = open_backend(folder.model, engine_type, num_cores, num_streams)
        try:
            return kind(folder, backend, batch_size, checked, engine_type)
        except BaseException:
            backend.close()
            raise

    @staticmethod
    def check(task: str, model_path: Path | str, **options: Any) -> None:
        """Raise PipelineError for what `create` would refuse of the task, the options and the folder.

        Takes the arguments of `create`, and reads everything but the model itself.
        """
        inner = {key: value for key, value in options.items() if key not in _OF_CREATE}
        _, folder, _ = _found(task, model_path, inner)
        folder.tokenizer()

    @abstractmethod
    def prepare(self) -> None:
        """Set up what `encode` needs, once. Raises PipelineError when options and model don't agree."""

    @abstractmethod
    def choose_outputs(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the model outputs that the task reads. Raises PipelineError when the model lacks them."""

    @abstractmethod
    def encode(self, request: RequestT, /) -> Sequence[TokenRow]:
        """Turn a request into one or more token rows."""

    @abstractmethod
    def decode(self, request: RequestT, rows: Sequence[Any], outputs: Sequence[Outputs], /) -> ResultT:
        """Turn what the model says of the request's rows into its result."""

    def __call__(self, requests: Sequence[RequestT | Mapping[str, Any]] | None = None, /, **fields: Any) -> Any:
        """Answer the request given by its fields, or a list of requests. Raises PipelineError, EngineError."""
        if requests is None:
            return self.run([self.request(fields)])[0]
        if fields or isinstance(requests, str | bytes | Mapping) or not isinstance(requests, Sequence):
            raise PipelineError(f"give a list of requests, or the fields {list(self.request_type.model_fields)}")
        return self.run([self.request(request) for request in requests])

    def request(self, fields: RequestT | Mapping[str, Any]) -> RequestT:
        """Check one request. Raises PipelineError naming each wrong field."""
        if isinstance(fields, self.request_type):
            return fields
        return _checked(self.request_type, fields, f"request for {self.task}")

    def count(self, fields: Mapping[str, Any]) -> int:
        """Return how many texts a request, which need not be checked yet, asks about: its longest list's, or 1."""
        return max([1, *(len(value) for value in fields.values() if isinstance(value, list))])

    def run(self, requests: Sequence[RequestT], stop: Callable[[], bool] | None = None) -> list[ResultT]:
        """Answer checked requests together; `stop` is asked before each engine run.

        Raises StoppedError once `stop()` is true, and EngineError.
        """
        encoded = [self.encode(request) for request in requests]
        found = iter(self._runner.run([row for rows in encoded for row in rows], self.outputs, stop))
        return [
            self.decode(request, rows, [next(found) for _ in rows])
            for request, rows in zip(requests, encoded, strict=True)
        ]

    def compute(self, rows: Sequence[TokenRow]) -> list[Outputs]:
        """Return what the model says of each token row: the task's outputs, float32, padding behind them."""
        return self._runner.run(rows, self.outputs)

    def longest(self, wanted: int | None, default: int) -> int:
        """Return the sequence length to use: `wanted`, or `default` as far as the model reaches.

        Raises PipelineError when `wanted` is more than the model reaches.
        """
        limits = [limit for limit in (self.folder.longest_sequence, self._backend.fixed_shape[1]) if limit]
        if wanted is not None and any(wanted > limit for limit in limits):
            raise PipelineError(f"sequence length {wanted} is more than the model's {min(limits)}")
        return min([default if wanted is None else wanted, *limits])

    def close(self) -> None:
        """Free the model. The pipeline can't be called afterwards."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _found(
    task: str, model_path: Path | str, options: Mapping[str, Any]
) -> tuple[type[Pipeline[Any, Any, Any]], ModelFolder, Any]:
    """Return the task's pipeline, the model's folder and the checked options. Raises PipelineError."""
    # Here, because each task's own file imports this one.
    from engine.pipelines.tasks import find_task

    kind = find_task(task)
    checked = _checked(kind.options_type, options, f"options of {kind.task}")
    return kind, find_model_folder(model_path), checked


SchemaT = TypeVar("SchemaT", bound=Schema)


def _checked(kind: type[SchemaT], fields: object, what: str) -> SchemaT:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise PipelineError(f"{what}: {problems(error)}; known: {', '.join(kind.model_fields)}") from None


def problems(error: ValidationError) -> str:
    """Say in one line what is wrong with which field."""
    told = (f"{field_name(row['loc']) or 'it'}: {row['msg']}" for row in error.errors())
    return "; ".join(dict.fromkeys(told))


def field_name(location: Sequence[int | str]) -> str:
    """Return a field as a user wrote it: without the types, such as list[str], that pydantic tried it for."""
    return ".".join(str(part) for part in location if "[" not in str(part))


def _padding_id(tokenizer: Tokenizer, folder: ModelFolder) -> int:
    stated = folder.config.get("pad_token_id")
    if isinstance(stated, int) and not isinstance(stated, bool):
        return stated
    found = (tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>"))
    return next((index for index in found if index is not None), 0)
