"""`zoo import` as a command: from a hub of ours, and from folders as SparseZoo had them."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zoo
from tests.zoo.importing.checkpoints import LAYERS, PARTS, repository
from tests.zoo.live_registry import serving
from zoo.errors import ManifestError, UnavailableError
from zoo.importing import import_model, unpickle
from zoo.importing.pickles import PickleError, convert
from zoo.layout import read_layout
from zoo.recipe import Recipe
from zoo.settings import Settings
from zoo.stub import Stub

ROOT = Path(__file__).parents[3]
NAME = "intel/bert-tiny-uncased-squadv1.1-sparse-80-1x4-block-pruneofa"
STUB = "zoo:nlp/question_answering/bert-l2_h16/pytorch/huggingface/squad/pruned80-none-vnni"
ALIAS = "zoo:bert-l2_h16-squad_wikipedia_bookcorpus-pruned80.4block"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Our own registry, which answers as a hub, with a model of Prune-OFA's form."""
    folder = tmp_path_factory.mktemp("hub")
    with serving(folder / "registry") as url:
        settings = Settings.load(endpoint=url, home=folder / "home", cache=folder / "cache")
        zoo.publish(repository(folder / "repository"), f"zoo:@{NAME}", settings=settings)
        yield url


def _zoo(hub: str, home: Path, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "ZOO_"))}
    env |= {"HF_ENDPOINT": hub, "HF_HOME": str(home / "hf"), "ZOO_ENDPOINT": hub, "ZOO_HOME": str(home / "zoo")}
    command = [sys.executable, "-m", "cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_a_hub_s_model_is_measured_named_and_published_again(hub: str, tmp_path: Path) -> None:
    target = tmp_path / "model"
    found = json.loads(_zoo(hub, tmp_path, "import", f"hf:{NAME}", "--out", target, "--json").stdout)
    assert (found["stub"], found["alias"]) == (STUB, ALIAS)
    assert (found["license"], found["pattern"], found["quantized"]) == ("apache-2.0", "block4", False)
    sparse = {name for name, layer in found["layers"].items() if layer["pattern"] == "block4"}
    assert len(sparse) == LAYERS * len(PARTS)
    assert found["sparsity"] == pytest.approx(0.8, abs=0.02)
    assert found["origin"].startswith(f"hf:{NAME}@")

    config = json.loads((target / "training/config.json").read_text())
    assert not {key for key in config if key.startswith("_") or key == "auto_map"}
    _zoo(hub, tmp_path, "recipe", "lint", target / "recipe.md")
    (held,) = (m for m in Recipe.load(target / "recipe.md").modifiers if type(m).__name__ == "ConstantPruningModifier")
    assert len(held.params) == len(PARTS)  # type: ignore[attr-defined]

    _zoo(hub, tmp_path, "publish", target, found["stub"], "--alias", found["alias"])
    facts = json.loads(_zoo(hub, tmp_path, "show", ALIAS, "--json").stdout)["manifest"]["metadata"]
    assert facts["license"] == "apache-2.0"
    assert (facts["pattern"], facts["sparsity"]) == ("block4", pytest.approx(found["sparsity"], abs=1e-4))
    assert (facts["task"], facts["architecture"], facts["dataset"]) == ("question_answering", "bert", "squad")


def test_a_revision_is_followed_and_what_is_not_there_is_said(hub: str, tmp_path: Path) -> None:
    _zoo(hub, tmp_path, "import", f"hf:{NAME}", "--out", tmp_path / "a", "--revision", "v1")
    for arguments in ((f"hf:{NAME}", "--revision", "v9"), ("hf:intel/none",), ("hf:not a name",)):
        refused = _zoo(hub, tmp_path, "import", *arguments, "--out", tmp_path / "b", code=3)
        assert "hf:" in refused.stderr
    again = _zoo(hub, tmp_path, "import", f"hf:{NAME}", "--out", tmp_path / "a", code=1)
    assert "--out" in again.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "hf"]


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "ZOO_OFFLINE"])
def test_offline_no_hub_is_asked(hub: str, tmp_path: Path, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.importing.hub._client", None)
    monkeypatch.setenv(variable, "1")
    with pytest.raises(UnavailableError, match=f"while offline; the variable {variable}"):
        import_model(f"hf:{NAME}", tmp_path / "model")


def test_a_hub_that_is_away_is_exit_6(tmp_path: Path) -> None:
    gone = _zoo("http://127.0.0.1:9", tmp_path, "import", f"hf:{NAME}", "--out", tmp_path / "a", code=6)
    assert "127.0.0.1:9" in gone.stderr


@pytest.mark.slow
def test_the_recipe_that_is_written_holds_every_zero_in_training(tmp_path: Path) -> None:
    import torch
    from transformers import BertForQuestionAnswering

    from zoo.train import RecipeSession

    repository(tmp_path / "old/training")
    done = import_model(str(tmp_path / "old"), tmp_path / "new")
    model = BertForQuestionAnswering.from_pretrained(tmp_path / "new/training")
    zeros = {name: model.get_parameter(name) == 0 for name in done.measured.sparse}
    session = RecipeSession(model, Recipe.load(tmp_path / "new/recipe.md"), steps_per_epoch=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    inputs = {"input_ids": torch.arange(20).reshape(2, 10)}
    for _ in range(12):
        session.before_step(optimizer)
        outputs = model(**inputs, start_positions=torch.tensor([1, 2]), end_positions=torch.tensor([3, 4]))
        session.loss(outputs.loss, outputs, inputs).backward()
        optimizer.step()
        session.after_step()
        optimizer.zero_grad()
    session.finish()
    for name, zero in zeros.items():
        weight = model.get_parameter(name)
        assert (weight[zero] == 0).all()
        assert (weight[~zero] != 0).all()


# --- folders in the originals' layout


def _tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _original(folder: Path) -> Path:
    """A model folder as sparsezoo left it: archives, a graph with external data, recipes, a card, state."""
    repository(folder / "training")
    (folder / "training/README.md").unlink()
    (folder / "training/training_args.bin").write_bytes(b"pickle")
    (folder / "training/pytorch_model.bin").write_bytes(b"pickle")
    _tar(folder / "model.onnx.tar.gz", {"model.onnx": b"graph", "model.data": b"weights"})
    _tar(folder / "sample-inputs.tar.gz", {"sample-inputs/inp-0000.npz": b"PK1", "sample-inputs/inp-0001.npz": b"PK2"})
    _tar(folder / "sample-outputs_onnxruntime.tar.gz", {"out-0000.npz": b"PK3"})
    (folder / "recipe.md").write_text("---\nmodifiers: []\n---\n# original\n")
    (folder / "recipe_transfer.md").write_text("---\nmodifiers: []\n---\n")
    (folder / "model.md").write_text("---\ndomain: nlp\nsub_domain: question_answering\nlicense: mit\n---\n# BERT\n")
    (folder / "metrics.yaml").write_text("f1: 87\n")
    (folder / "logs").mkdir()
    return folder


def test_an_original_s_folder_becomes_publishable(tmp_path: Path) -> None:
    done = import_model(str(_original(tmp_path / "old")), tmp_path / "new")
    places = {file.path: file.role.value for file in read_layout(tmp_path / "new", Stub.parse(STUB)).files}
    assert places == {
        "training/config.json": "training",
        "training/model.safetensors": "training",
        "training/tokenizer.json": "training",
        "training/vocab.txt": "training",
        "deployment/model.onnx": "deployment",
        "deployment/model.data": "deployment",
        "deployment/config.json": "deployment",
        "deployment/tokenizer.json": "deployment",
        "deployment/vocab.txt": "deployment",
        "sample-inputs/inp-0000.npz": "sample-inputs",
        "sample-inputs/inp-0001.npz": "sample-inputs",
        "sample-outputs_onnxruntime/out-0000.npz": "sample-outputs",
        "recipe.md": "recipe",
        "recipe_transfer.md": "recipe",
        "model.md": "card",
        "metrics.yaml": "metrics",
        "report.json": "metrics",
    }
    assert "# original" in (tmp_path / "new/recipe.md").read_text()
    assert (done.license, done.measured.pattern) == ("mit", "block4")
    noted = " ".join(done.notes)
    assert all(word in noted for word in ("training_args.bin", "pytorch_model.bin", "logs"))


def test_a_deployment_archive_counts_where_its_folder_is_absent(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    _tar(tmp_path / "old/deployment.tar.gz", {"deployment/model.onnx": b"graph", "deployment/config.json": b"{}"})
    _tar(tmp_path / "old/model.onnx.tar.gz", {"model.onnx": b"another"})
    import_model(str(tmp_path / "old"), tmp_path / "new")
    assert (tmp_path / "new/deployment/model.onnx").read_bytes() == b"graph"
    assert not (tmp_path / "new/recipe.md").exists()


def test_lineage_is_taken_over_where_it_can_be_resolved(tmp_path: Path) -> None:
    old = _original(tmp_path / "old")
    (old / "model.md").write_text("---\nbase: zoo:base\nteacher: zoo:teacher\nrecipe: ours\n---\n# BERT\n")
    import_model(str(old), tmp_path / "new")
    facts = read_layout(tmp_path / "new", Stub.parse(STUB)).metadata
    assert (facts.base, facts.teacher, facts.recipe) == ("zoo:base", "zoo:teacher", None)


def test_a_file_that_is_none_is_named_by_its_place_in_the_folder(tmp_path: Path) -> None:
    old = _original(tmp_path / "old")
    (old / "training/model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ManifestError, match=r"^training/model\.safetensors is no safetensors file"):
        import_model(str(old), tmp_path / "new")


def test_row_33_a_hostile_archive_leaves_no_folder_behind(tmp_path: Path) -> None:
    old = _original(tmp_path / "old")
    _tar(old / "sample-outputs.tar.gz", {"../../escaped": b"x"})
    done = _zoo("http://127.0.0.1:9", tmp_path, "import", old, "--out", tmp_path / "new", code=4)
    assert "../../escaped" in done.stderr
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob("**/escaped"))


def test_links_are_refused(tmp_path: Path) -> None:
    old = _original(tmp_path / "old")
    (old / "training/passwd").symlink_to("/etc/passwd")
    with pytest.raises(zoo.ZooError, match="is a link"):
        import_model(str(old), tmp_path / "new")


# --- pickles


class _Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def _pickled(folder: Path) -> Path:
    old = _original(folder)
    (old / "training/model.safetensors").unlink()
    return old


def test_pickled_weights_are_refused_unless_they_may_be_converted(tmp_path: Path) -> None:
    old = _pickled(tmp_path / "old")
    done = _zoo("http://127.0.0.1:9", tmp_path, "import", old, "--out", tmp_path / "new", code=4)
    assert "--convert-pickles" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_pickle_of_tensors_is_converted_and_measured(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    old = _original(tmp_path / "old")
    weights = load_file(old / "training/model.safetensors")
    (old / "training/model.safetensors").unlink()
    torch.save(weights, old / "training/pytorch_model.bin")
    done = import_model(str(old), tmp_path / "new", convert_pickles=True)
    assert (done.measured.pattern, len(done.measured.sparse)) == ("block4", LAYERS * len(PARTS))
    converted = load_file(tmp_path / "new/training/model.safetensors")
    assert all(torch.equal(converted[name], weights[name]) for name in weights)


@pytest.mark.slow
def test_a_pickle_that_would_run_code_runs_none(tmp_path: Path) -> None:
    mark, source = tmp_path / "mark", tmp_path / "pytorch_model.bin"
    for data in (pickle.dumps(_Evil(mark)), pickle.dumps({"weight": _Evil(mark)}, protocol=2), b"", b"PK\x03\x04junk"):
        source.write_bytes(data)
        with pytest.raises(PickleError, match=r"pytorch_model\.bin"):
            convert([source], tmp_path / "model.safetensors")
    assert not mark.exists()
    assert not (tmp_path / "model.safetensors").exists()


def test_the_converting_process_has_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        leave = f"import runpy; runpy.run_path({unpickle.__file__!r})['_leave_network']()"
        assert subprocess.run([sys.executable, "-c", connect]).returncode == 0
        done = subprocess.run([sys.executable, "-c", f"{leave}; {connect}"], capture_output=True, text=True)
    if done.returncode == unpickle.NO_ISOLATION:
        pytest.skip(done.stderr.strip())
    assert "unreachable" in done.stderr.lower()
