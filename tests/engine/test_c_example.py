"""The library from plain C: the example program is built, run and compared with Python's answer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from engine import plan
from engine.library import library_path
from engine.runtime import CompiledModel
from tests.engine.programs import tiny_bert

CSRC = Path(__file__).parents[2] / "engine" / "csrc"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("this machine has no C compiler")
    program = tmp_path_factory.mktemp("example") / "run_plan"
    library = library_path().resolve()
    strict = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    parts = [CSRC / "examples" / "run_plan.c", "-I", CSRC / "include", library, f"-Wl,-rpath,{library.parent}"]
    subprocess.run([compiler, *strict, "-o", program, *parts], check=True)
    return program


def test_the_example_prints_what_python_computes(example: Path, tmp_path: Path) -> None:
    plan.write_plan(tiny_bert(), tmp_path / "m.plan")
    done = subprocess.run([example, tmp_path / "m.plan", "3", "7", "49"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    ids = np.array([[3, 7, 49]])
    with CompiledModel.from_plan(tmp_path / "m.plan", 1) as model:
        expected = model.run({"ids": ids, "mask": np.ones_like(ids)})
    at = lines.index("start")
    assert np.array_equal(np.array(lines[at + 1 : at + 4], np.float32), expected["start"][0])
    hidden = [row.split() for row in lines[lines.index("hidden") + 1 :][:3]]
    assert np.array_equal(np.array(hidden, np.float32), expected["hidden"][0])


def test_the_example_reports_errors_and_exits_with_1(example: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.plan").write_bytes(b"x" * 640)
    plan.write_plan(tiny_bert(), tmp_path / "m.plan")
    for arguments, message in (
        (["none.plan", "1"], "plan: none.plan: No such file"),
        (["bad.plan", "1"], "not a plan"),
        (["m.plan", "50"], "ids: 50 at [0, 0] is outside its table"),
    ):
        done = subprocess.run([example, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert message in done.stderr


def test_only_our_own_symbols_are_exported() -> None:
    if shutil.which("nm") is None:
        pytest.skip("this machine has no nm")
    listed = subprocess.run(["nm", "-D", "--defined-only", library_path()], capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert names - {"_init", "_fini"} == {name for name in names if name.startswith("spw_")}


def test_every_header_compiles_alone(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("this machine has no C compiler")
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", CSRC, "-I", CSRC / "include"]
    for header in sorted([*CSRC.glob("*.h"), *CSRC.glob("include/*.h")]):
        source = tmp_path / "alone.c"
        source.write_text(f'#include "{header}"\n')
        subprocess.run([compiler, *flags, source], check=True)
