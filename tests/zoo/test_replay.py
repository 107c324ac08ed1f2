"""Samples through the model before it is published, and what the registry's gate tells the publisher."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import zoo
from tests.registry.builders import graph
from zoo.errors import CheckError, NotFoundError
from zoo.layout import read_layout
from zoo.replay import replay
from zoo.settings import Settings
from zoo.stub import Stub

ROOT = Path(__file__).parents[2]
X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def settings(registry: str, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", cache=tmp_path / "cache", endpoint=registry)


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def write(folder: Path, inputs: list[bytes], outputs: list[bytes], report: str = "{}", model: bytes = graph()) -> Path:
    """A model that doubles, with samples. `report` holds what is known of it."""
    named = {"deployment/model.onnx": model, "report.json": report.encode()}
    for kind, short, samples in (("inputs", "inp", inputs), ("outputs", "out", outputs)):
        named |= {f"sample-{kind}/{short}-{number:04d}.npz": data for number, data in enumerate(samples)}
    for name, data in named.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ([npz(x=X), npz(x=X[:1])], [npz(y=2 * X), npz(y=2 * X[:1])]),
        ([npz(arr_0=X[0])], [npz(arr_0=2 * X[0])]),  # SparseZoo's: neither names nor batch
    ],
)
def test_samples_that_are_true_are_told_to_the_registry(
    settings: Settings, tmp_path: Path, inputs: list[bytes], outputs: list[bytes]
) -> None:
    stub = f"zoo:true-{len(inputs)}"
    done = zoo.publish(write(tmp_path / "m", inputs, outputs), stub, settings=settings)
    said = done.checks[-1]
    assert (said.check, said.state, said.by) == ("samples", "passed", "publisher")
    assert f"{len(inputs)} in ONNX Runtime" in said.detail
    assert zoo.resolve(stub, settings=settings).checks == done.checks


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        ([npz(x=X)], [npz(y=2 * X + 0.1)], r"out-0000\.npz: y isn't what deployment/model\.onnx gives for inp-0000"),
        ([npz(x=X)], [npz(y=2 * X[0])], "difference inf"),
        ([npz(x=X)], [npz(y=np.full_like(X, np.nan))], "difference nan"),
        ([npz(x=X)], [npz(y=X, z=X)], "holds y, z;.*has y"),
        ([npz(x=X.astype(np.int64))], [npz(y=X)], r"inp-0000\.npz can't be run"),
        ([b"x"], [npz(y=X)], r"inp-0000\.npz is no \.npz file"),
        ([npz(x=np.array([{}], object))], [npz(y=X)], r"inp-0000\.npz is no \.npz file"),
        ([npz(x=X)], [npz(y=X), npz(y=X)], "1 files of sample inputs have 2"),
    ],
)
def test_samples_that_are_not_are_refused_before_anything_is_sent(
    settings: Settings, tmp_path: Path, inputs: list[bytes], outputs: list[bytes], reason: str
) -> None:
    events: list[str] = []
    folder = write(tmp_path / "m", inputs, outputs)
    with pytest.raises(CheckError, match=reason):
        zoo.publish(folder, "zoo:false", settings=settings, progress=lambda event: events.append(event.action))
    assert "upload" not in events
    with pytest.raises(NotFoundError):
        zoo.resolve("zoo:false", settings=settings)


def test_samples_under_a_wrong_name_are_not_taken_for_another_input(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("a", "b", "y")]
    body = helper.make_graph([helper.make_node("Sub", ["a", "b"], ["y"])], "two", values[:2], values[2:])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    folder = write(tmp_path, [npz(b=X, c=X)], [npz(y=0 * X)], model=model)
    with pytest.raises(CheckError, match=r"inp-0000\.npz holds b, c; deployment/model\.onnx has a, b"):
        replay(read_layout(folder, Stub.parse("zoo:a")))


def test_a_quantized_model_may_differ_by_its_roundings(tmp_path: Path) -> None:
    off = 2 * X + np.resize([0.05, -0.05], X.shape).astype(np.float32)
    for quantized in (True, False):
        folder = write(tmp_path / str(quantized), [npz(x=X)], [npz(y=off)], json.dumps({"quantized": quantized}))
        layout = read_layout(folder, Stub.parse("zoo:a"))
        if quantized:
            assert replay(layout).state == "passed"  # type: ignore[union-attr]  # it has samples
        else:
            with pytest.raises(CheckError):
                replay(layout)


@pytest.mark.parametrize(("output", "passes"), [("logits", True), ("scores", False)])
def test_classes_that_nearly_tie_are_measured_by_all_samples(output: str, passes: bool, tmp_path: Path) -> None:
    tie, clear = (np.array([row], np.float32) for row in ([1, 1.001], [-2, 2]))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", output)]
    body = helper.make_graph([helper.make_node("Identity", ["x"], [output])], "same", values[:1], values[1:])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    given = [npz(**{output: tie + np.array([[0.005, -0.005]], np.float32)}), npz(**{output: clear})]
    folder = write(tmp_path, [npz(x=tie), npz(x=clear)], given, json.dumps({"quantized": True}), model)
    layout = read_layout(folder, Stub.parse("zoo:a"))
    if passes:
        assert replay(layout).state == "passed"  # type: ignore[union-attr]  # it has samples
    else:
        with pytest.raises(CheckError, match=r"out-0000\.npz: scores isn't what"):
            replay(layout)


def test_without_samples_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert replay(read_layout(write(tmp_path, [npz(x=X)], []), Stub.parse("zoo:a"))) is None


def test_a_skipped_replay_is_recorded_with_its_reason(settings: Settings, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", [npz(x=X)], [npz(y=X)])
    done = zoo.publish(folder, "zoo:skipped", skip_replay="made by\nanother machine", settings=settings)
    assert (done.checks[-1].state, done.checks[-1].detail) == ("skipped", "made by another machine")


def test_the_command_refuses_skips_and_shows(registry: str, tmp_path: Path) -> None:
    def command(*arguments: str, code: int = 0) -> str:
        environment = {"PATH": "", "HOME": str(tmp_path), "ZOO_HOME": str(tmp_path / "home"), "ZOO_ENDPOINT": registry}
        done = subprocess.run(
            [sys.executable, "cli.py", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    folder = str(write(tmp_path / "m", [npz(x=X)], [npz(y=X)]))
    assert "--skip-replay" in command("publish", folder, "zoo:shown", code=1)
    command("publish", folder, "zoo:shown", "--skip-replay", "a known difference")
    shown = command("show", "zoo:shown")
    assert "samples  skipped, sample-inputs: a known difference" in shown
    assert "onnx     passed, deployment/model.onnx: IR 8, 1 nodes, inputs x; outputs y" in shown
    broken = str(write(tmp_path / "b", [], [], model=b"graph"))
    assert "deployment/model.onnx: it is no ONNX model" in command("publish", broken, "zoo:broken", code=1)
