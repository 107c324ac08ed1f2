"""Runs plans: NumPy arrays in, NumPy arrays out, with the GIL released."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.cores import default_cores
from engine.errors import ExecutionError, InputError, PlanError
from engine.library import check, create, load_library

INT64_MAX = 2**63 - 1
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutputInfo:
    """An output's name and shape; `channels` None means that the last dimension is absent."""

    name: str
    channels: int | None
    per_token: bool

    def shape(self, batch: int, sequence: int) -> tuple[int, ...]:
        """The shape for one request: [batch, sequence, channels] without the parts that are absent."""
        rows = (batch, sequence) if self.per_token else (batch,)
        return rows if self.channels is None else (*rows, self.channels)


@dataclass(frozen=True)
class StepInfo:
    """What a step of a plan does; `sparrow.h` describes the fields."""

    name: str
    kernel: str
    k: int
    n: int
    heads: int
    head_dim: int
    channels: int
    per_batch: int
    weight_bytes: int
    constant_bytes: int
    tile_bytes_read: int
    tile_bytes_written: int


@dataclass(frozen=True)
class Peaks:
    """Multiply-adds a second of bytes and of float32, from registers, and bytes a second from memory."""

    s8_products_per_s: float
    f32_products_per_s: float
    bytes_per_s: float


def _create_pool(threads: int) -> Any:
    ffi, lib = load_library()
    return create("spw_pool", lambda made, e: lib.spw_pool_create(threads, ffi.NULL, made, e))


def _open_plan(source: str | os.PathLike[str] | bytes | int) -> Any:
    _, lib = load_library()
    if isinstance(source, int):
        return create("spw_plan", lambda made, e: lib.spw_plan_open_descriptor(source, made, e))
    if isinstance(source, bytes):
        return create("spw_plan", lambda made, e: lib.spw_plan_from_memory(source, len(source), made, e))
    path = os.fsencode(os.fspath(source))
    if not Path(source).is_file():
        raise PlanError(f"{os.fspath(source)} is no plan file: it doesn't exist or is a folder")
    return create("spw_plan", lambda made, e: lib.spw_plan_open(path, made, e))


def _integers(name: str, given: Any) -> NDArray[Any]:
    """The input as a C-contiguous int32 or int64 array [batch, sequence]; raises InputError."""
    array = np.asarray(given)
    if array.dtype.kind not in "biu":
        raise InputError(f"input {name} has dtype {array.dtype}, expected int64 or int32")
    if array.ndim != 2:
        raise InputError(f"input {name} has shape {array.shape}, expected [batch, sequence]")
    if array.size == 0:
        raise InputError(f"input {name} has shape {array.shape}: batch and sequence must be at least 1")
    if array.dtype == np.uint64 and array.max() > INT64_MAX:
        raise InputError(f"input {name} holds {array.max()}, which int64 can't")
    wanted = np.int32 if array.dtype.newbyteorder("=") == np.int32 else np.int64
    return np.ascontiguousarray(array, wanted)


@dataclass
class _Stream:
    """Threads of their own, and the memory of the run that uses them, made at the first run."""

    pool: Any
    session: Any = None


def _shares(num_cores: int, num_streams: int) -> list[int]:
    """Threads of each stream: all cores are given out, none twice."""
    return [num_cores // num_streams + (i < num_cores % num_streams) for i in range(num_streams)]


def _at_least_one(name: str, value: int | None) -> None:
    if value is not None and (isinstance(value, bool) or value < 1):
        raise ExecutionError(f"{name} is {value}, expected at least 1")


class CompiledModel:
    """A plan with its threads. Any batch and sequence length; safe to call from several threads at once.

    As many calls run side by side as there are streams; more of them wait. All streams share the plan. After
    `os.fork` the child must open its own model.
    """

    def __init__(self, plan: Any, pools: Sequence[Any]) -> None:
        ffi, lib = load_library()
        self._ffi, self._lib = ffi, lib
        self._plan = plan
        self._streams = [_Stream(pool) for pool in pools]
        self._free = list(reversed(self._streams))
        self._turn = threading.Condition()
        self._closed = False
        count = lib.spw_plan_input_count(plan)
        self._inputs = tuple(ffi.string(lib.spw_plan_input_name(plan, i)).decode() for i in range(count))
        self._outputs = tuple(self._output(i) for i in range(lib.spw_plan_output_count(plan)))

    @classmethod
    def from_plan(
        cls, source: str | os.PathLike[str] | bytes | int, num_cores: int | None = None, num_streams: int | None = None
    ) -> Self:
        """Opens a plan file by its path or by a descriptor, which stays open, or a plan in memory.

        `num_cores` threads (default: see `cores`) are divided among `num_streams` (default 1, at most one a core).
        SPARROW_ISA in the environment forces an instruction set; a plan with machine code for another one is refused at
        the first run. Raises PlanError for a damaged plan, and ExecutionError when the library, the instruction set,
        memory or threads are missing.
        """
        _at_least_one("num_cores", num_cores)
        _at_least_one("num_streams", num_streams)
        _, lib = load_library()
        cores = default_cores() if num_cores is None else num_cores
        streams = min(num_streams or 1, cores)
        if streams < (num_streams or 1):
            _LOG.warning("num_streams is %s, but there are %s cores: using %s streams", num_streams, cores, streams)
        plan = _open_plan(source)
        pools: list[Any] = []
        try:
            pools.extend(map(_create_pool, _shares(cores, streams)))
            return cls(plan, pools)
        except BaseException:
            for pool in pools:
                lib.spw_pool_free(pool)
            lib.spw_plan_free(plan)
            raise

    def _output(self, index: int) -> OutputInfo:
        info = self._ffi.new("spw_output_info *")
        self._lib.spw_plan_output(self._plan, index, info)
        return OutputInfo(self._ffi.string(info.name).decode(), info.channels or None, bool(info.per_token))

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs, in the model's order; each is [batch, sequence] of int64 or int32."""
        return self._inputs

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs, in the model's order; each is float32."""
        return tuple(output.name for output in self._outputs)

    @property
    def outputs(self) -> tuple[OutputInfo, ...]:
        """The outputs with their shapes."""
        return self._outputs

    @property
    def source(self) -> bytes:
        """The 32 bytes by which the plan's writer named what it was made from."""
        with self._opened():
            return bytes(self._ffi.buffer(self._lib.spw_plan_source(self._plan), self._lib.SPW_SOURCE_BYTES))

    @property
    def num_cores(self) -> int:
        """Threads of all streams together."""
        with self._opened() as streams:
            return sum(int(self._lib.spw_pool_threads(stream.pool)) for stream in streams)

    @property
    def num_streams(self) -> int:
        """Runs that go on side by side."""
        with self._opened() as streams:
            return len(streams)

    @property
    def isa(self) -> str:
        """The instruction set whose kernels run."""
        with self._opened() as streams:
            return str(self._ffi.string(self._lib.spw_pool_isa(streams[0].pool)).decode())

    @contextmanager
    def _opened(self) -> Iterator[list[_Stream]]:
        """All streams, while nobody can close the model. Raises ExecutionError when it is closed."""
        with self._turn:
            if self._closed:
                raise ExecutionError("this model is closed")
            yield self._streams

    @contextmanager
    def _stream(self) -> Iterator[_Stream]:
        """A stream that nobody else uses meanwhile; waits for one."""
        with self._turn:
            while not self._closed and not self._free:
                self._turn.wait()
            with self._opened():
                stream = self._free.pop()
            try:
                self._prepare(stream)
            except BaseException:
                self._free.append(stream)
                raise
        try:
            yield stream
        finally:
            with self._turn:
                closed = self._closed
                if not closed:
                    self._free.append(stream)
                    self._turn.notify()
            if closed:
                self._release(stream)

    def _prepare(self, stream: _Stream) -> None:
        if stream.session is None:
            stream.session = create(
                "spw_session", lambda made, e: self._lib.spw_session_create(self._plan, stream.pool, made, e)
            )

    def _release(self, stream: _Stream) -> None:
        self._lib.spw_session_free(self._ffi.NULL if stream.session is None else stream.session)
        self._lib.spw_pool_free(stream.pool)

    def _checked(self, inputs: Mapping[str, Any]) -> list[NDArray[Any]]:
        unknown, missing = set(inputs) - set(self._inputs), set(self._inputs) - set(inputs)
        if unknown or missing:
            raise InputError(
                f"this model's inputs are {', '.join(self._inputs)}; "
                f"missing: {sorted(missing) or 'none'}, unknown: {sorted(map(str, unknown)) or 'none'}"
            )
        arrays = [_integers(name, inputs[name]) for name in self._inputs]
        for name, array in zip(self._inputs, arrays, strict=True):
            if array.shape != arrays[0].shape:
                raise InputError(
                    f"input {name} has shape {array.shape}, but {self._inputs[0]} has {arrays[0].shape}: "
                    "all inputs need the same"
                )
        return arrays

    def _checked_lengths(self, lengths: Sequence[int] | NDArray[Any] | None, batch: int) -> Any:
        if lengths is None:
            return None
        array = np.asarray(lengths)
        if array.dtype.kind not in "iu" or array.shape != (batch,):
            raise InputError(f"lengths has shape {array.shape} and dtype {array.dtype}, expected [{batch}] integers")
        return np.ascontiguousarray(array.clip(-1, 2**31 - 1), np.int32)

    def run(
        self, inputs: Mapping[str, Any], lengths: Sequence[int] | NDArray[Any] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Runs the model on integer arrays [batch, sequence] by input name; returns float32 by output name.

        `lengths` [batch], each 1 to sequence: only that many tokens of each sequence are computed, the outputs
        behind are zero. Raises InputError for arrays that don't fit the model (their names, dtypes, shapes,
        values), and ExecutionError when memory runs out or the process was forked.
        """
        arrays = self._checked(inputs)
        batch, sequence = arrays[0].shape
        counted = self._checked_lengths(lengths, batch)
        results = self._results(batch, sequence)
        with self._stream() as stream:
            self._run(stream.session, arrays, counted, results)
        return dict(zip(self.output_names, results, strict=True))

    def _results(self, batch: int, sequence: int) -> list[NDArray[np.float32]]:
        try:
            return [np.empty(output.shape(batch, sequence), np.float32) for output in self._outputs]
        except (MemoryError, ValueError) as error:
            raise ExecutionError(
                f"the outputs of {batch} sequences of {sequence} tokens don't fit into memory; run fewer at a time"
            ) from error

    def _run(self, session: Any, arrays: list[Any], lengths: Any, results: list[Any]) -> None:
        ffi = self._ffi
        inputs = ffi.new("spw_input[]", len(arrays))
        for place, array in zip(inputs, arrays, strict=True):
            place.data = ffi.cast("void *", array.ctypes.data)
            place.type = int(array.dtype == np.int64)
        outputs = ffi.new("float *[]", [ffi.cast("float *", result.ctypes.data) for result in results])
        request, problem = ffi.new("spw_request *"), ffi.new("spw_error *")
        request.batch, request.sequence = arrays[0].shape
        request.lengths = ffi.NULL if lengths is None else ffi.cast("int32_t *", lengths.ctypes.data)
        request.inputs, request.outputs = inputs, outputs
        check(self._lib.spw_run(session, request, problem), problem)

    @property
    def steps(self) -> tuple[StepInfo, ...]:
        """What the plan's steps do, in their order."""
        with self._opened():
            return tuple(self._step(index) for index in range(self._lib.spw_plan_step_count(self._plan)))

    def _step(self, index: int) -> StepInfo:
        info = self._ffi.new("spw_step_info *")
        self._lib.spw_plan_step(self._plan, index, info)
        values = {field.name: getattr(info, field.name) for field in fields(StepInfo)}
        text = {name: self._ffi.string(values[name]).decode() for name in ("name", "kernel")}
        return StepInfo(**{**values, **text})

    def profile(self, inputs: Mapping[str, Any]) -> NDArray[np.uint64]:
        """Runs the model once and returns the nanoseconds that each step took. Raises as `run` does."""
        arrays = self._checked(inputs)
        results = self._results(*arrays[0].shape)
        with self._stream() as stream:
            times = np.zeros(self._lib.spw_plan_step_count(self._plan), np.uint64)
            self._lib.spw_session_profile(stream.session, self._ffi.cast("uint64_t *", times.ctypes.data))
            try:
                self._run(stream.session, arrays, None, results)
            finally:
                self._lib.spw_session_profile(stream.session, self._ffi.NULL)
        return times

    def peaks(self) -> Peaks:
        """What one stream's threads reach at most on this machine, measured now, in about 100 ms."""
        found = self._ffi.new("spw_peaks *")
        problem = self._ffi.new("spw_error *")
        with self._stream() as stream:
            check(self._lib.spw_probe(stream.pool, found, problem), problem)
        return Peaks(found.s8_products_per_s, found.f32_products_per_s, found.bytes_per_s)

    def close(self) -> None:
        """Frees the model; runs under way finish first. Closing twice is fine."""
        with self._turn:
            if self._closed:
                return
            self._closed = True
            idle, self._free = self._free, []
            self._turn.notify_all()
        for stream in idle:
            self._release(stream)
        self._lib.spw_plan_free(self._plan)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()
