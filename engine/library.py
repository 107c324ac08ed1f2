"""The C library: found, loaded and described once. Its statuses become errors here, and nowhere else is it opened."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cffi

import engine
from engine.errors import EngineError, ExecutionError, InputError, PlanError

LIBRARY_NAME = "libsparrow.so"
STATUS_ERRORS: dict[int, type[EngineError]] = {2: PlanError, 3: InputError}
"""Which error a status of the library becomes; all others are ExecutionError."""


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


def create(kind: str, make: Callable[[Any, Any], int]) -> Any:
    """Calls a function of the library that makes a `kind` or reports why not."""
    ffi, _ = load_library()
    made, problem = ffi.new(f"{kind} **"), ffi.new("spw_error *")
    check(make(made, problem), problem)
    return made[0]


def check(status: int, problem: Any) -> None:
    """Raises the error that a status of the library stands for, with the sentence in `problem`."""
    if status != 0:
        ffi, _ = load_library()
        message = ffi.string(problem.message).decode(errors="replace")
        raise STATUS_ERRORS.get(status, ExecutionError)(message)


def library_version() -> str:
    """The C library's version. Raises ExecutionError."""
    ffi, lib = load_library()
    return str(ffi.string(lib.spw_version()).decode())


def default_isa() -> str:
    """The instruction set that runs when nobody says: SPARROW_ISA, or the best one that this CPU has.

    Raises ExecutionError for a SPARROW_ISA that this build or this CPU lacks.
    """
    named, usable = os.environ.get("SPARROW_ISA"), usable_isas()
    if named and named not in usable:
        known, here = ", ".join(_isas()), ", ".join(usable)
        raise ExecutionError(f"SPARROW_ISA is {named!r}; this build has {known}, this CPU can run {here}")
    return named or usable[0]


def usable_isas() -> list[str]:
    """The instruction sets that this build has and this CPU can run, the best first."""
    _, lib = load_library()
    return [name for name in _isas() if lib.spw_isa_supported(name.encode())]


def runs_code() -> bool:
    """Whether plans may hold machine code: this CPU and this system can run it, and SPARROW_CODE isn't 0."""
    _, lib = load_library()
    return os.environ.get("SPARROW_CODE") != "0" and bool(lib.spw_code_supported())


def _isas() -> list[str]:
    ffi, lib = load_library()
    names = itertools.takewhile(lambda name: name != ffi.NULL, map(lib.spw_isa_name, itertools.count()))
    return [ffi.string(name).decode() for name in names]
