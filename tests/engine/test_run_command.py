"""`zoo run`: a text from the command line through each task's pipeline, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cli
from tests.engine.tiny_models import (
    embedding_model,
    question_answering_model,
    text_classification_model,
    token_classification_model,
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; return its exit code and what it said on standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["run", *map(str, arguments)])
        said = capsys.readouterr()
        return int(str(ended.value.code)), said.out, said.err

    return call


def test_a_question(run: Run, tmp_path: Path) -> None:
    folder = question_answering_model(tmp_path)
    code, out, _ = run(folder, "-q", "where?", "-c", "It was in Paris in Spring.")
    assert code == 0
    assert out.startswith("Paris in Spring   (score 0.")
    assert out.endswith(", characters 10-25)\n")


def test_entities(run: Run, tmp_path: Path) -> None:
    folder = token_classification_model(tmp_path)
    (tmp_path / "text.txt").write_text("It was in Paris,\nin spring.", encoding="utf-8")
    asked = [folder, "--task", "ner", "--text", f"@{tmp_path / 'text.txt'}"]
    code, out, _ = run(*asked, "--aggregation_strategy", "first")
    lines = [line.split() for line in out.splitlines()]
    assert (code, [(row[0], row[2], row[3]) for row in lines]) == (
        0,
        [("LOC", "10-15", "paris"), ("TIME", "20-26", "spring")],
    )
    assert [line.index(word) for line, word in zip(out.splitlines(), ("paris", "spring"), strict=True)] == [20, 20]
    _, out, _ = run(*asked, "--json")
    assert [row["entity"] for row in json.loads(out)["predictions"][0]] == ["B-LOC", "B-TIME"]
    assert run(folder, "--task", "ner", "--text", "the cat")[:2] == (0, "nothing found\n")


def test_labels(run: Run, tmp_path: Path) -> None:
    folder = text_classification_model(tmp_path)
    code, out, _ = run(folder, "--task", "sentiment-analysis", "-t", "it was lovely")
    assert code == 0
    assert out.startswith("positive  0.")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "contradiction", "1": "entailment"}
    (folder / "config.json").write_text(json.dumps(config))
    code, out, _ = run(folder, "--task", "zero_shot_text_classification", "-t", "the cat", "--labels", "mat, lovely")
    assert (code, [line.split()[0] for line in out.splitlines()]) == (0, ["lovely", "mat"])


def test_an_embedding_is_a_line_of_numbers(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(embedding_model(tmp_path), "--task", "embedding", "--text", "the cat")
    assert code == 0
    assert len([float(number) for number in out.split()]) == 32


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["-q", "where?"], 2, "question_answering takes --question and --context"),
        (["-q", "where?", "-c", "here", "-t", "there"], 2, "and no other text"),
        (["--task", "ner"], 2, "token_classification takes --text"),
        (["--task", "ner", "-q", "where?"], 2, "token_classification takes --text"),
        (["--task", "zero-shot-classification", "-t", "a"], 2, "takes --text and --labels"),
        (["--task", "yolo", "-t", "a"], 2, "no task is named 'yolo'"),
        (["--task", "ner", "-t", "a", "--aggregation-strategy", "best"], 1, "aggregation_strategy"),
        (["-q", "a", "-c", "b", "--aggregation-strategy", "max"], 1, "aggregation_strategy: Extra"),
        (["--task", "ner", "-t", "@absent.txt"], 1, "absent.txt"),
    ],
)
def test_what_does_not_fit_is_said(run: Run, tmp_path: Path, arguments: list[Any], code: int, said: str) -> None:
    folder = token_classification_model(tmp_path)
    ended, out, err = run(folder, *arguments)
    assert (ended, out) == (code, "")
    assert said in " ".join(err.split())
