"""`zoo train question-answering` as a command: its flags, its errors, its exit codes and what it prints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.zoo.train.runs import flags
from zoo.settings import Settings
from zoo.train.tasks.question_answering import main
from zoo.train.trainer import last_checkpoint


def test_cache_dir_is_where_models_and_recipes_are_pulled_to(
    base_folder: Path, train_file: Path, dev_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = {}
    (tmp_path / "recipe.md").write_text("---\nmodifiers: []\n---\n")

    def pull(stub: str, role: str, *, settings: Settings, **_: object) -> Path:
        caches[stub] = settings.cache
        return tmp_path / "recipe.md" if role == "recipe" else base_folder

    monkeypatch.setattr("zoo.resolver.pull", pull)
    more = ("--recipe", "zoo:recipe", "--tokenizer_name", "zoo:tokens", "--cache_dir", str(tmp_path / "cache"))
    arguments = flags(base_folder, tmp_path / "out", train_file, dev_file, *more, "--max_steps", "1")
    arguments[1] = "zoo:model"
    assert main([*arguments, "--export", "false"]) == 0
    assert caches == dict.fromkeys(("zoo:model", "zoo:recipe", "zoo:tokens"), tmp_path / "cache")


def test_resuming_from_what_is_no_complete_checkpoint_names_the_newest(
    base_folder: Path, train_file: Path, dev_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = flags(base_folder, out, train_file, dev_file, "--max_steps", "2", "--export", "false")
    wrong = ("--resume_from_checkpoint", str(out / "checkpoint-9"))
    assert main([*arguments, *wrong]) == 1
    assert f"{out / 'checkpoint-9'} is no complete checkpoint, and {out} holds none" in capsys.readouterr().err
    assert main([*arguments, "--save_strategy", "steps", "--save_steps", "1"]) == 0
    shutil.copytree(out / "checkpoint-2", out / "checkpoint-9")
    (out / "checkpoint-9" / "session.safetensors").write_bytes(b"torn")
    capsys.readouterr()
    assert main([*arguments, *wrong]) == 1
    assert f"the newest complete one in {out} is {last_checkpoint(out)}" in capsys.readouterr().err
    assert main([*arguments, "--resume_from_checkpoint", str(out / "checkpoint-1")]) == 0
