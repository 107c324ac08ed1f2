"""Runs of programs on every instruction set that this CPU has, which must agree bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine import plan
from engine.library import load_library
from engine.program import Program
from engine.runtime import CompiledModel

Array = NDArray[Any]
ISAS = ("scalar", "avx2", "avxvnni", "avx512vnni")


def supported() -> list[str]:
    _, lib = load_library()
    return [isa for isa in ISAS if lib.spw_isa_supported(isa.encode())]


def ids(tokens: int) -> Array:
    return np.arange(tokens).reshape(1, -1)


def run_all(
    monkeypatch: pytest.MonkeyPatch, program: Program, inputs: dict[str, Array], threads: tuple[int, ...] = (1, 3)
) -> dict[str, Array]:
    """The program's outputs, after checking that every instruction set and thread count gives the same bits."""
    encoded, results = plan.encode(program), []
    for isa in supported():
        monkeypatch.setenv("SPARROW_ISA", isa)
        for count in threads:
            with CompiledModel.from_plan(encoded, count) as model:
                assert model.isa == isa
                results.append(model.run(inputs))
    for result in results[1:]:
        for name, values in results[0].items():
            assert values.tobytes() == result[name].tobytes()
    return results[0]
