"""`zoo train question-answering` as a command: its flags, its errors, its exit codes and what it prints."""

from __future__ import annotations

import json
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import zoo.train.run
from tests.zoo.train.runs import flags
from zoo.errors import TrainingError
from zoo.settings import Settings
from zoo.terminal import Output
from zoo.train.arguments import DataArguments
from zoo.train.tasks import question_answering
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


def test_json_prints_the_report_and_nothing_else(
    base_folder: Path,
    train_file: Path,
    dev_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Output, "as_json", True)
    shown = []

    @contextmanager
    def bar(what: str) -> Iterator[Callable[..., None]]:
        yield lambda *counts: shown.append((what, *counts))

    monkeypatch.setattr(zoo.train.run, "counting_bar", bar)
    monkeypatch.setattr(zoo.train.run, "waiting", bar)
    recipe = "modifiers:\n  - !DistillationModifier {hardness: 1.0}\n"
    more = ("--max_steps", "1", "--logging_steps", "1", "--recipe", recipe, "--distill_teacher", "self")
    out = tmp_path / "out"
    assert main(flags(base_folder, out, train_file, dev_file, *more)) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((out / "deployment" / "report.json").read_text())
    assert [entry for entry in shown if entry[1] == entry[2]] == [("teacher", 24, 24), ("evaluation", 8, 8)]
    evaluated = [a for a in flags(base_folder, tmp_path / "eval", train_file, dev_file) if a != "--do_train"]
    assert main(evaluated) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "eval" / "eval_results.json").read_text())


def test_json_errors_are_documents(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Output, "as_json", True)
    assert main(["--output_dir", "o"]) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["exit_code"] == 2
    assert "--model_name_or_path" in error["message"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "isn't JSON"),
        ("[1]", "must hold one object"),
        ('{"output_dir": "o", "model": "m"}', "model"),
        ('{"output_dir": "o"}', "model_name_or_path"),
    ],
)
def test_a_malformed_file_of_flags_is_a_usage_error(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flags.json").write_text(content)
    assert main([str(tmp_path / "flags.json")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--no_such_flag", "1"], "--no_such_flag"),
        (["--max_steps", "many"], "--max_steps"),
        ([], "nothing to do"),
    ],
)
def test_flags_that_cannot_be_used_are_usage_errors(
    more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--output_dir", "o", "--model_name_or_path", "m", *more]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "--help" in error or not more


def test_an_output_folder_that_is_a_file_is_named(
    base_folder: Path, train_file: Path, dev_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("")
    arguments = [a for a in flags(base_folder, tmp_path / "out", train_file, dev_file) if a != "--do_train"]
    assert main(arguments) == 1
    assert f"{tmp_path / 'out'} is a file; --output_dir must be a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "row",
    [
        {"id": "1", "question": "what ?", "context": "the hay"},
        {"id": "1", "question": "what ?", "context": "the hay", "answers": ["hay"]},
        {"id": "1", "question": "what ?", "context": "the hay", "answers": {"text": ["hay"], "answer_start": []}},
    ],
)
def test_a_set_of_another_form_is_explained(row: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    loader = types.SimpleNamespace(load_dataset=lambda *_, **__: [row])
    monkeypatch.setitem(sys.modules, "datasets", loader)
    with pytest.raises(TrainingError, match="--dataset_name mine, split train, isn't in the form of SQuAD"):
        question_answering.hub_examples(DataArguments(dataset_name="mine"), "train")
