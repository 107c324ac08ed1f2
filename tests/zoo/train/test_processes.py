"""Training as processes of their own: several of them, and one that is stopped by a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.zoo.train.runs import RECIPE, SECOND_ORDER, flags

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [RECIPE, SECOND_ORDER], ids=["magnitude", "second order"])
def test_two_processes_hold_the_same_weights_masks_and_ranges(
    recipe: str, base_folder: Path, train_file: Path, dev_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = flags(base_folder, out, train_file, dev_file, "--recipe", recipe, "--distill_teacher", "self")
    script = str(Path(__file__).with_name("train_in_ranks.py"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    done = subprocess.run(
        [*launch, *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (safetensors.torch.load_file(out.with_suffix(f".rank{rank}")) for rank in (0, 1))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    report = json.loads((out / "report.json").read_text())
    assert (report["missed"], report["steps"]) == ([], 8)
    assert (out / "deployment" / "model.onnx").is_file()


@pytest.mark.slow
def test_row_77_sigterm_saves_a_checkpoint_from_which_the_same_command_goes_on(
    base_folder: Path, train_file: Path, dev_file: Path, tmp_path: Path
) -> None:
    recipe = RECIPE.replace("num_epochs: 4.0", "num_epochs: 200.0")
    more = ("--recipe", recipe, "--distill_teacher", "self", "--logging_steps", "5")
    whole = train(flags(base_folder, tmp_path / "whole", train_file, dev_file, *more))
    assert whole.wait(timeout=240) == 0
    arguments = flags(base_folder, tmp_path / "stopped", train_file, dev_file, *more)
    process = train(arguments)
    wait_for(lambda: "'loss'" in output(process), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step" in output(process)
    assert not (tmp_path / "stopped" / "deployment").exists()
    assert len(list((tmp_path / "stopped").glob("checkpoint-*"))) == 1
    again = train(arguments)
    assert again.wait(timeout=240) == 0
    assert "resuming from" in output(again)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]


def train(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start the command, its output in a file beside the output folder."""
    log = Path(f"{arguments[3]}-{time.monotonic_ns()}.log")
    with log.open("wb") as file:
        command = [sys.executable, "-u", "-m", "cli", "train", "question-answering", *arguments]
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=file, stderr=file)
    LOGS[process.pid] = log
    return process


LOGS: dict[int, Path] = {}


def output(process: subprocess.Popen[bytes]) -> str:
    return LOGS[process.pid].read_text("utf-8", "replace")


def wait_for(condition: object, process: subprocess.Popen[bytes]) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, output(process)[-2000:]
        assert time.monotonic() < deadline, output(process)[-2000:]
        time.sleep(0.05)
