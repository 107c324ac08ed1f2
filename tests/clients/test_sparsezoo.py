"""sparsezoo 1.8.1 and deepsparse 1.8.0 as PyPI has them, against this registry."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.clients.models import COLUMNS, ROWS, runnable, weights
from tests.registry.builders import ALIAS, LONG, Folder, small
from tests.zoo.live_registry import serving

pytestmark = pytest.mark.slow
STUBS = pytest.mark.parametrize("stub", [LONG, ALIAS, f"{ALIAS}@v1"], ids=["long", "short", "pinned"])


@dataclass
class OldClient:
    """Runs the originals' programs with their settings pointed at a registry of ours."""

    bin: Path
    url: str
    home: Path

    def run(self, program: str, *arguments: str, succeeds: bool = True) -> subprocess.CompletedProcess[str]:
        env = {
            **os.environ,
            "SPARSEZOO_API_URL": self.url,
            "SPARSEZOO_MODELS_PATH": str(self.home / "models"),
            "HOME": str(self.home),
            "NM_DISABLE_ANALYTICS": "1",
        }
        command = [self.bin / program, *arguments]
        done = subprocess.run(command, env=env, cwd=self.home, capture_output=True, text=True, timeout=120)
        assert (done.returncode == 0) == succeeds, done.stdout + done.stderr
        return done

    def python(self, code: str) -> Any:
        """What the code's last line prints, as JSON."""
        return json.loads(self.run("python", "-c", code).stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("registry")) as url:
        with httpx.Client(base_url=url) as client:
            assert runnable().publish(client).status_code == 201
            recipe_only = Folder("zoo:tiny-nowhere-pruned", {"recipe.md": ("recipe", b"---\nmodifiers: []\n---\n")})
            assert recipe_only.publish(client).status_code == 201
            assert small("zoo:@acme/tiny", metadata={"domain": "nlp", "task": "question_answering"}).publish(client)
        yield url


@pytest.fixture
def old(originals: Path, registry: str, tmp_path: Path) -> OldClient:
    return OldClient(originals, registry, tmp_path)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_search_finds_by_parts_and_opens_each_model(old: OldClient) -> None:
    found = old.python(
        "import json; from sparsezoo import search_models\n"
        "wanted = dict(domain='nlp', sub_domain='question_answering', architecture='bert', sub_architecture='base')\n"
        "stubs = search_models(**wanted, sparse_name='pruned80_quant', return_stubs=True)\n"
        "none = search_models(**wanted, sparse_name='pruned80', framework='keras', return_stubs=True)\n"
        "models = search_models(domain='nlp', sub_domain='question_answering')\n"
        "print(json.dumps([stubs, none, [model.source for model in models]]))"
    )
    assert found == [[LONG], [], [LONG]]
    listed = old.run("sparsezoo", "search", "--domain", "nlp", "--sub-domain", "question_answering")
    assert LONG in listed.stdout + listed.stderr


@STUBS
def test_a_model_is_downloaded_whole(old: OldClient, stub: str) -> None:
    code = (
        "import json; from sparsezoo import Model\n"
        f"model = Model({stub!r}, download_path={str(old.home / 'model')!r})\n"
        "done = model.download()\n"
        "results = {r.recorded_units: r.recorded_value for r in model.validation_results['validation']}\n"
        "print(json.dumps([done, results, len(model.sample_inputs.files)]))"
    )
    assert old.python(code) == [True, {"exact_match": 79.62, "f1": 87.41}, 1]
    expected = {path: data for path, (_, data) in runnable().files.items() if path != "report.json"}
    expected["model.onnx"] = expected["deployment/model.onnx"]
    archives = {"sample-inputs.tar.gz", "sample-outputs.tar.gz"}
    assert {path: data for path, data in _files(old.home / "model").items() if path not in archives} == expected


def test_parts_lie_where_callers_look_for_them_on_the_first_run_and_the_next(old: OldClient) -> None:
    code = (
        "import json; from sparsezoo import Model\n"
        f"model = Model({ALIAS!r})\n"
        "found = [model.training.path, model.deployment.path, model.recipes.default.path, model.model_card.path,\n"
        "         model.training.get_file('config.json').path, model.onnx_model.path]\n"
        "print(json.dumps(found))"
    )
    first = old.python(code)
    top = old.home / "models/zoo" / f"{ALIAS.removeprefix('zoo:')}@v1"
    places = ["training", "deployment", "recipe.md", "model.md", "training/config.json", "model.onnx"]
    assert first == [str(top / place) for place in places]
    assert old.python(code) == first


def test_a_recipe_is_chosen_by_query(old: OldClient) -> None:
    code = (
        "import json; from sparsezoo import Model\n"
        f"model = Model({ALIAS + '?recipe=transfer'!r})\n"
        "print(json.dumps([model.recipes.available, open(model.recipes.default.path).read()]))"
    )
    assert old.python(code) == [["recipe_transfer"], "---\nmodifiers: []\n---\n"]


def test_the_download_command(old: OldClient) -> None:
    old.run("sparsezoo.download", ALIAS, "--save-dir", str(old.home / "saved"))
    assert (old.home / "saved/deployment/model.onnx").read_bytes() == runnable().files["deployment/model.onnx"][1]


def test_refusals_say_what_is_missing(old: OldClient) -> None:
    unknown = old.run("python", "-c", "import sparsezoo; sparsezoo.Model('zoo:no-such-model')", succeeds=False)
    assert "No matching models found" in unknown.stderr
    without = old.run("python", "-c", "import sparsezoo; sparsezoo.Model('zoo:tiny-nowhere-pruned')", succeeds=False)
    assert "has no deployment/model.onnx" in without.stderr


@STUBS
def test_deepsparse_compiles_a_model_by_stub(old: OldClient, stub: str) -> None:
    code = (
        "import json, numpy, deepsparse\n"
        f"engine = deepsparse.compile_model({stub!r}, batch_size=1)\n"
        f"x = numpy.arange({ROWS}, dtype=numpy.float32).reshape(1, {ROWS})\n"
        "print(json.dumps(engine.run([x])[0].tolist()))"
    )
    expected = np.arange(ROWS, dtype=np.float32) @ weights()
    np.testing.assert_allclose(np.reshape(old.python(code), COLUMNS), expected, rtol=1e-4, atol=1e-4)
