"""The scripts of benchmarks/ that measure the engine, on tiny models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.engine.models import Bert
from tests.engine.tiny_models import question_answering_model


def run(*arguments: str | Path) -> tuple[Any, str]:
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout), done.stderr


def test_scaling_measures_each_sparsity_thread_and_length(tmp_path: Path) -> None:
    onnx.save(Bert("qdq", layers=1).build(), tmp_path / "model.onnx")
    flags = ("--tokens", "5,17", "--sparsities", "0,0.9", "--threads", "1,2", "--turns", "2")
    found, shown = run("benchmarks.scaling", tmp_path / "model.onnx", *flags)
    measured = {(row["sparsity"], row["threads"], row["tokens"]) for row in found["rows"]}
    assert measured == {(s, t, n) for s in (0, 0.9) for t in (1, 2) for n in (5, 17)}
    assert all(row["ms"] > 0 for row in found["rows"])
    assert "| 90% gone |" in shown


def test_packed_lengths_counts_the_files_own_tokens(tmp_path: Path) -> None:
    folder = question_answering_model(tmp_path / "qa")
    rows = [
        {
            "id": str(i),
            "question": "where?",
            "context": "the cat sat. " * i,
            "answers": {"text": [], "answer_start": []},
        }
        for i in range(1, 7)
    ]
    (tmp_path / "squad.json").write_text(json.dumps({"data": rows}))
    flags = ("--squad", tmp_path / "squad.json", "--tokenizer", folder / "tokenizer.json")
    found, _ = run("benchmarks.packed_lengths", folder / "model.onnx", *flags, "--batch_size", "3", "--longest", "48")
    assert (found["batches"], found["batch_size"], found["padded_tokens"]) == (2, 3, 48)
    assert found["length_ratio"] == pytest.approx(48 / found["mean_tokens"], rel=0.01)
    assert found["throughput_ratio"] > 0
