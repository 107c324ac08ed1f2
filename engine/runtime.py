"""Runs plans: NumPy arrays in, NumPy arrays out, with the GIL released. The only user of the C library."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cffi
import numpy as np
from numpy.typing import NDArray

import engine
from engine.cores import default_cores
from engine.errors import EngineError, ExecutionError, InputError, PlanError

LIBRARY_NAME = "libsparrow.so"
INT64_MAX = 2**63 - 1

STATUS_ERRORS: dict[int, type[EngineError]] = {2: PlanError, 3: InputError}
"""Which error a status of the library becomes; all others are ExecutionError."""


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


def library_path() -> Path:
    """Where the C library is: SPARROW_LIBRARY, or beside the installed package.

    Raises ExecutionError when it is in neither place.
    """
    named = os.environ.get("SPARROW_LIBRARY")
    places = [Path(named)] if named else [Path(folder) / LIBRARY_NAME for folder in engine.__path__]
    for place in places:
        if place.is_file():
            return place
    searched = ", ".join(map(str, places))
    raise ExecutionError(
        f"the engine's C library isn't at {searched}: install the package (pip builds it), "
        "or name a built one in the environment variable SPARROW_LIBRARY"
    )


@functools.cache
def load_library() -> tuple[Any, Any]:
    """The cffi handle and the open library, loaded once. Raises ExecutionError."""
    ffi = cffi.FFI()
    declarations = [Path(folder) / "_ffi.cdef.txt" for folder in engine.__path__]
    ffi.cdef(next(path for path in declarations if path.is_file()).read_text())
    path = library_path()
    try:
        return ffi, ffi.dlopen(str(path))
    except OSError as error:
        raise ExecutionError(f"{path} can't be loaded: {error}") from error


def _create(kind: str, make: Callable[[Any, Any], int]) -> Any:
    """Calls a function of the library that makes a `kind` or reports why not."""
    ffi, _ = load_library()
    made, problem = ffi.new(f"{kind} **"), ffi.new("spw_error *")
    _check(make(made, problem), problem)
    return made[0]


def _check(status: int, problem: Any) -> None:
    if status != 0:
        ffi, _ = load_library()
        message = ffi.string(problem.message).decode(errors="replace")
        raise STATUS_ERRORS.get(status, ExecutionError)(message)


def _open_plan(source: str | os.PathLike[str] | bytes) -> Any:
    _, lib = load_library()
    if isinstance(source, bytes):
        return _create("spw_plan", lambda made, e: lib.spw_plan_from_memory(source, len(source), made, e))
    path = os.fsencode(os.fspath(source))
    if not Path(source).is_file():
        raise PlanError(f"{os.fspath(source)} is no plan file: it doesn't exist or is a folder")
    return _create("spw_plan", lambda made, e: lib.spw_plan_open(path, made, e))


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


class CompiledModel:
    """A plan with its threads. Any batch and sequence length; safe to call from several threads at once.

    Calls in parallel take turns on the model's threads. After `os.fork` the child must open its own model.
    """

    def __init__(self, plan: Any, pool: Any) -> None:
        ffi, lib = load_library()
        self._ffi, self._lib = ffi, lib
        self._plan, self._pool = plan, pool
        self._lock = threading.Lock()
        self._free: list[Any] = []
        self._closed = False
        count = lib.spw_plan_input_count(plan)
        self._inputs = tuple(ffi.string(lib.spw_plan_input_name(plan, i)).decode() for i in range(count))
        self._outputs = tuple(self._output(i) for i in range(lib.spw_plan_output_count(plan)))

    @classmethod
    def from_plan(cls, source: str | os.PathLike[str] | bytes, num_cores: int | None = None) -> Self:
        """Opens a plan file, or a plan in memory, with `num_cores` threads (default: see `cores`).

        SPARROW_ISA in the environment forces an instruction set: scalar, avx2 or avx512vnni. Raises PlanError
        for a damaged plan, and ExecutionError when the library, the instruction set, memory or threads are
        missing.
        """
        if num_cores is not None and (isinstance(num_cores, bool) or num_cores < 1):
            raise ExecutionError(f"num_cores is {num_cores}, expected at least 1")
        _, lib = load_library()
        threads = default_cores() if num_cores is None else num_cores
        plan = _open_plan(source)
        try:
            pool = _create("spw_pool", lambda made, e: lib.spw_pool_create(threads, load_library()[0].NULL, made, e))
        except BaseException:
            lib.spw_plan_free(plan)
            raise
        return cls(plan, pool)

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
    def num_cores(self) -> int:
        """Threads that one run uses."""
        return int(self._lib.spw_pool_threads(self._open_pool()))

    @property
    def isa(self) -> str:
        """The instruction set whose kernels run: scalar, avx2 or avx512vnni."""
        return str(self._ffi.string(self._lib.spw_pool_isa(self._open_pool())).decode())

    def _open_pool(self) -> Any:
        if self._closed:
            raise ExecutionError("this model is closed")
        return self._pool

    @contextmanager
    def _session(self) -> Iterator[Any]:
        """A session that no other thread uses; freed instead of kept when the model was closed meanwhile."""
        with self._lock:
            self._open_pool()
            session = self._free.pop() if self._free else None
            if session is None:
                session = _create(
                    "spw_session", lambda made, e: self._lib.spw_session_create(self._plan, self._pool, made, e)
                )
        try:
            yield session
        finally:
            with self._lock:
                if not self._closed:
                    self._free.append(session)
                    session = None
            if session is not None:
                self._lib.spw_session_free(session)

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
        results = {o.name: np.empty(o.shape(batch, sequence), np.float32) for o in self._outputs}
        with self._session() as session:
            self._run(session, arrays, counted, list(results.values()))
        return results

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
        _check(self._lib.spw_run(session, request, problem), problem)

    def close(self) -> None:
        """Frees the model; runs under way finish first. Closing twice is fine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            sessions, self._free = self._free, []
        for session in sessions:
            self._lib.spw_session_free(session)
        self._lib.spw_plan_free(self._plan)
        self._lib.spw_pool_free(self._pool)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()
