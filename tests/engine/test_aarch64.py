"""The library for 64-bit Arm: cross-compiled, run by an emulator, and compared with this machine's results."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from engine import plan
from engine.runtime import CompiledModel
from tests.engine.programs import tiny_bert

ROOT = Path(__file__).parents[2]
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
TARGET = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_C_COMPILER={COMPILER}"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build folder."""
    for program in (COMPILER, EMULATOR, "cmake"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed; on Debian: apt install gcc-aarch64-linux-gnu qemu-user cmake")
    folder = tmp_path_factory.mktemp("aarch64")
    options = [*TARGET, "-DCMAKE_BUILD_TYPE=Release", "-DSPARROW_TESTING=ON"]
    subprocess.run(["cmake", "-S", ROOT, "-B", folder, *options], check=True, capture_output=True)
    build = ["cmake", "--build", folder, "-j2", "--target", "kernel_margins", "run_plan"]
    built = subprocess.run(build, check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def emulate(*command: Path | str, isa: str = "", cpu: str = "max") -> subprocess.CompletedProcess[str]:
    asked = subprocess.run([COMPILER, "-print-file-name=libc.so.6"], capture_output=True, text=True, check=True)
    system = Path(asked.stdout.strip()).resolve().parents[1]
    environment = os.environ | {"SPARROW_ISA": isa}
    run = [EMULATOR, "-cpu", cpu, "-L", system, *command]
    return subprocess.run(run, capture_output=True, text=True, check=False, timeout=600, env=environment)


def test_neon_kernels_agree_with_scalar_ones(arm: Path) -> None:
    done = emulate(arm / "kernel_margins")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_plan_gives_the_bits_that_this_machine_computes(arm: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.plan"
    plan.write_plan(tiny_bert(layers=2), path)
    ids = np.arange(37)[None]
    with CompiledModel.from_plan(path, 1) as model:
        expected = model.run({"ids": ids, "mask": np.ones_like(ids)})
    wanted = np.concatenate([expected[name].ravel() for name in model.output_names])
    for isa in ("neon", "scalar"):
        done = emulate(arm / "run_plan", path, *map(str, ids[0]), isa=isa)
        assert done.returncode == 0, done.stderr
        words = (word for line in done.stdout.splitlines() if line not in expected for word in line.split())
        got = np.array([float(word) for word in words], np.float32)
        assert got.tobytes() == wanted.tobytes()


def test_an_arm_cpu_without_the_dot_product_runs_the_plain_kernels(arm: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.plan"
    plan.write_plan(tiny_bert(), path)
    assert emulate(arm / "run_plan", path, "1", "2", cpu="cortex-a72").returncode == 0
    refused = emulate(arm / "run_plan", path, "1", "2", isa="neon", cpu="cortex-a72")
    assert refused.returncode == 1
    assert "this CPU can't run the instruction set neon" in refused.stderr
