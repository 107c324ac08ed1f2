"""A folder as it is published: which files belong to it, with which roles, and what its card says."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from tests.zoo.test_publish import build
from zoo.errors import ManifestError, ZooError
from zoo.layout import read_layout
from zoo.stub import Stub


def layout(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    found = read_layout(folder, Stub.parse("zoo:a"))
    return {f.path: f.role.value for f in found.files}, {item.path: item.reason for item in found.left_out}


def test_layout_roles_and_reasons(tmp_path: Path) -> None:
    folder = build(
        tmp_path,
        training__config_json="{}",
        training__model_safetensors=b"1",
        training__optimizer_pt=b"1",
        training__training_args=b"1",
        **{"training__checkpoint-500__model_safetensors": b"1", "deployment__model_onnx": b"1"},
        recipe_md="r",
        recipe__x_md="no",
        model_md="card",
        README_md="card",
        report_json="{}",
        benchmark_yaml="{}",
        train_log="log",
        notes_txt="?",
    )
    (folder / ".git").mkdir()
    (folder / ".git/config").write_text("")
    (folder / "training/training_args.bin").write_bytes(b"1")
    (folder / "sample-outputs").mkdir()
    (folder / "sample-outputs/out-0000.npz").write_bytes(b"1")
    roles, left_out = layout(folder)
    assert roles == {
        "README.md": "card",
        "benchmark.yaml": "benchmark",
        "deployment/model.onnx": "deployment",
        "model.md": "card",
        "recipe.md": "recipe",
        "report.json": "metrics",
        "sample-outputs/out-0000.npz": "sample-outputs",
        "training/config.json": "training",
        "training/model.safetensors": "training",
        "training/training.args": "training",
    }
    assert left_out == {
        ".git/": "hidden",
        "notes.txt": "not a file of a model folder",
        "recipe/x.md": "not a file of a model folder",
        "train.log": "a log",
        "training/checkpoint-500/": "a checkpoint of a training run",
        "training/optimizer.pt": "the trainer's state, which a finished model doesn't need",
        "training/training_args.bin": "the trainer's state, which a finished model doesn't need",
    }


def test_layout_of_a_trained_and_exported_folder(tmp_path: Path) -> None:
    report = {
        "metrics": {"eval_f1": 90.5, "note": "x"},
        "sparsity": {
            "a": {"sparsity": 0.5, "elements": 100, "mask_type": "block4"},
            "b": {"sparsity": 0.9, "elements": 300, "mask_type": "block4"},
        },
        "quantization": {"linear": {"quantized": 3, "all": 4}},
    }
    folder = build(tmp_path, config_json="{}", model_safetensors=b"1", recipe_yaml="r", deployment__model_onnx=b"1")
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "deployment/sample-inputs").mkdir()
    (folder / "deployment/sample-inputs/inp-0000.npz").write_bytes(b"1")
    assert layout(folder)[0] == {
        "deployment/model.onnx": "deployment",
        "deployment/sample-inputs/inp-0000.npz": "sample-inputs",
        "recipe.yaml": "recipe",
        "report.json": "metrics",
        "training/config.json": "training",
        "training/model.safetensors": "training",
        "training/recipe.yaml": "training",
    }
    metadata = read_layout(folder, Stub.parse("zoo:a")).metadata
    assert metadata.model_dump(exclude_none=True) == {
        "sparsity": 0.8,
        "pattern": "block4",
        "quantized": True,
        "metrics": {"f1": 90.5},
    }


@pytest.mark.parametrize(
    "text", ["[]", "5", '{"sparsity": {"a": 5, "b": {"sparsity": "x"}}, "metrics": [], "quantization": {"linear": 1}}']
)
def test_report_of_another_shape_tells_nothing(tmp_path: Path, text: str) -> None:
    found = read_layout(build(tmp_path, report_json=text), Stub.parse("zoo:a")).metadata
    assert found.model_dump(exclude_none=True) == {"metrics": {}}


def test_layout_of_a_flat_folder(tmp_path: Path) -> None:
    names = ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "model.onnx", "model.onnx.data", "x.py"]
    for name in names:
        (tmp_path / name).write_text(name)
    roles, left_out = layout(tmp_path)
    assert list(roles) == [
        "deployment/config.json",
        "deployment/model.onnx",
        "deployment/model.onnx.data",
        "deployment/tokenizer.json",
        "deployment/vocab.txt",
        "training/config.json",
        "training/model.safetensors",
        "training/tokenizer.json",
        "training/vocab.txt",
    ]
    assert list(left_out) == ["x.py"]


def test_layout_refuses_links(tmp_path: Path) -> None:
    folder = build(tmp_path / "m", deployment__model_onnx=b"1")
    (folder / "deployment/weights.data").symlink_to("/etc/passwd")
    with pytest.raises(ZooError, match=r"weights\.data is a link"):
        layout(folder)
    (folder / "deployment/weights.data").unlink()
    (folder / "training").symlink_to("/etc")
    with pytest.raises(ZooError, match="training is a link"):
        layout(folder)


def test_layout_refuses_weights_that_are_only_pickles(tmp_path: Path) -> None:
    folder = build(tmp_path, config_json="{}", model_md="x")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ZooError, match=r"pytorch_model\.bin are pickles.*safetensors"):
        layout(folder)
    (folder / "model.safetensors").write_bytes(b"1")
    assert layout(folder)[1]["pytorch_model.bin"].startswith("a pickle")


def test_layout_of_special_files_and_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    os.mkfifo(tmp_path / "training/pipe")
    with pytest.raises(ZooError, match="nothing to publish"):
        layout(tmp_path)
    with pytest.raises(ZooError, match="is no folder"):
        layout(tmp_path / "absent")


def test_layout_refuses_names_that_no_manifest_may_hold(tmp_path: Path) -> None:
    (tmp_path / "deployment").mkdir()
    (tmp_path / "deployment/mod\u00e8le.onnx").write_bytes(b"1")
    with pytest.raises(ManifestError, match="ASCII"):
        layout(tmp_path)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("---\na: [\n---\n", "no YAML"),
        ("---\nlicense: a\nlicense: b\n---\n", "twice|duplicate|already"),
        ("---\nsparsity: 80\n---\n", "wrong at sparsity"),
        ("---\nlicense: {a: b}\n---\n", "wrong at license"),
        ("---\n" + "[" * 5000 + "\n---\n", "can't be read"),
        ("---\nx: !!python/object:os.system {}\n---\n", "can't be read"),
        (b"---\n\xff\n---\n", "no UTF-8"),
        (b"a" * (2 << 20), "larger than"),
    ],
)
def test_wrong_cards_are_named(tmp_path: Path, card: str | bytes, message: str) -> None:
    folder = build(tmp_path, model_md=card, deployment__model_onnx=b"1")
    with pytest.raises(ManifestError, match=message):
        layout(folder)


@pytest.mark.parametrize("card", ["no front matter", "---\n---\n", "---\n- a\n---\n", "---\nunknown: x\n---\n", ""])
def test_cards_without_fields_are_fine(tmp_path: Path, card: str) -> None:
    assert layout(build(tmp_path, model_md=card))[0] == {"model.md": "card"}


@pytest.mark.parametrize(("owner", "call"), [(os, "scandir"), (Path, "lstat")])
def test_a_folder_that_cannot_be_read_is_named_rather_than_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, call: str
) -> None:
    folder = build(tmp_path, training__model_safetensors=b"1", deployment__model_onnx=b"1")
    usual = getattr(owner, call)

    def refuse(path: str | Path) -> object:
        if "deployment" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return usual(path)

    monkeypatch.setattr(owner, call, refuse)
    with pytest.raises(ZooError, match=rf"/deployment.* can't be read: Permission denied; run: chmod .* {folder}"):
        layout(folder)
