"""`--dataset_name`: question-answering sets as the datasets package reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo.train.arguments import DataArguments
from zoo.train.tasks.question_answering import hub_examples


def test_a_set_is_read_by_what_the_train_extra_installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    answers = {"text": ["hay"], "answer_start": [7]}
    row = {"id": "1", "question": "What?", "context": "It ate hay.", "answers": answers}
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text(json.dumps(row) + "\n")
    (example,) = hub_examples(DataArguments(dataset_name=str(tmp_path / "set")), "train")
    assert (example.question, example.context, example.answers) == ("What?", "It ate hay.", (("hay", 7),))
