"""`teacher_input_keys`: what a teacher is asked with, at every step or once over the data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.zoo.train.runs import flags
from zoo.train.tasks.question_answering import main

RECIPE = "modifiers:\n  - !DistillationModifier {hardness: 1.0, teacher_input_keys: %s}\n"


@pytest.mark.parametrize("keys", ["[input_ids, attention_mask]", "[input_ids]"])
def test_a_remembered_teacher_saw_the_inputs_that_one_asked_at_every_step_sees(
    keys: str, base_folder: Path, train_file: Path, dev_file: Path, tmp_path: Path
) -> None:
    losses = []
    for remember in ("true", "false"):
        out = tmp_path / remember
        more = ("--recipe", RECIPE % keys, "--distill_teacher", "self", "--remember_teacher", remember)
        schedule = ("--max_steps", "2", "--logging_steps", "1", "--dropout", "0", "--pad_to_max_length", "false")
        alike = ("--per_device_train_batch_size", "1", "--per_device_eval_batch_size", "1", "--export", "false")
        assert main(flags(base_folder, out, train_file, dev_file, *more, *schedule, *alike)) == 0
        history = json.loads((out / "trainer_state.json").read_text())["log_history"]
        losses.append([entry["distillation_loss"] for entry in history if "distillation_loss" in entry])
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-3, abs=1e-9)


def test_inputs_that_a_batch_lacks_are_named(
    base_folder: Path, train_file: Path, dev_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--recipe", RECIPE % "[ids]", "--distill_teacher", "self")
    assert main(flags(base_folder, tmp_path / "out", train_file, dev_file, *more)) == 1
    assert "teacher_input_keys names 'ids'; a batch has attention_mask, input_ids" in capsys.readouterr().err
