"""The C drivers of `tests/engine/csrc`, built under sanitizers: memory, undefined behaviour, data races."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from engine import plan
from engine.program import Counted, Table
from tests.engine.programs import Builder, tiny_bert
from tests.engine.test_code import coded_layer
from tests.engine.test_code_refusals import finishing

ROOT = Path(__file__).parents[2]
ADDRESS, THREAD = "address,undefined", "thread"
# A hostile plan may ask for any size, and the shadow of a block takes an eighth of it in real memory.
ASAN_OPTIONS = "max_allocation_size_mb=1024:allocator_may_return_null=1:detect_leaks=1"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def build(folder: Path, sanitizers: str) -> Path:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("this machine has no cmake")
    options = ["-DCMAKE_BUILD_TYPE=Debug", "-DSPARROW_TESTING=ON", f"-DSPARROW_SANITIZE={sanitizers}"]
    subprocess.run([cmake, "-S", ROOT, "-B", folder, *options], check=True, capture_output=True)
    built = subprocess.run([cmake, "--build", folder, "-j2"], check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The build folder of each sanitizer; SPARROW_SANITIZER_BUILDS keeps them between runs."""
    kept = os.environ.get("SPARROW_SANITIZER_BUILDS")
    root = Path(kept) if kept else tmp_path_factory.mktemp("sanitizers")
    return {s: build(root / s.replace(",", "-"), s) for s in (ADDRESS, THREAD)}


@pytest.fixture
def small_plan(tmp_path: Path) -> Path:
    plan.write_plan(tiny_bert(channels=8), tmp_path / "m.plan")
    return tmp_path / "m.plan"


@pytest.fixture
def float_plan(tmp_path: Path) -> Path:
    """Counted positions, float attention with a bias of distances, and bytes by each token's own range."""
    real = np.random.default_rng(0).standard_normal
    b = Builder("ids")
    x = b.embed(Table(real((9, 8), np.float32), 0), Table(real((40, 8), np.float32), Counted(0), offset=1))
    y = b.attention(x, x, x, 2, bias=real((2, 79), np.float32))
    y = b.linear_of_tokens(y, np.eye(8), np.ones(8), np.zeros(8))
    plan.write_plan(b.done(y=y), tmp_path / "float.plan")
    return tmp_path / "float.plan"


@pytest.fixture
def coded_plan(tmp_path: Path) -> Path:
    plan.write_plan(coded_layer(depth=12, rows=30, kept=0.2), tmp_path / "c.plan")
    return tmp_path / "c.plan"


@pytest.fixture
def finishing_plan(tmp_path: Path) -> Path:
    (tmp_path / "f.plan").write_bytes(finishing("gelu", depth=8))
    return tmp_path / "f.plan"


def passes(*command: Path | str) -> None:
    environment = os.environ | {"ASAN_OPTIONS": ASAN_OPTIONS}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("sanitizers", [ADDRESS, THREAD])
def test_kernels_agree_and_stay_inside_their_outputs(builds: dict[str, Path], sanitizers: str) -> None:
    passes(builds[sanitizers] / "kernel_margins")


@pytest.mark.parametrize("of", ["small_plan", "float_plan", "coded_plan", "finishing_plan"])
def test_hostile_plans_never_touch_foreign_memory(
    builds: dict[str, Path], of: str, request: pytest.FixtureRequest
) -> None:
    passes(builds[ADDRESS] / "hostile_plans", request.getfixturevalue(of))


def test_row_91_every_failing_allocation_is_a_status(builds: dict[str, Path], small_plan: Path) -> None:
    passes(builds[ADDRESS] / "allocation_failures", small_plan)


@pytest.mark.parametrize("sanitizers", [ADDRESS, THREAD])
def test_row_97_shared_plans_pools_and_sessions(builds: dict[str, Path], small_plan: Path, sanitizers: str) -> None:
    passes(builds[sanitizers] / "pool_stress", small_plan)


def test_every_item_of_every_job_is_computed_once(builds: dict[str, Path]) -> None:
    passes(builds[THREAD] / "pool_jobs")
