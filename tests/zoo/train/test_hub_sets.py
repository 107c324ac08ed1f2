"""`--dataset_name`: sets as the datasets package reads them."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.zoo.train.conftest import make_reviews, make_sentences
from zoo.errors import TrainingError
from zoo.train.arguments import DataArguments
from zoo.train.tasks import token_classification
from zoo.train.tasks.question_answering import hub_examples
from zoo.train.tasks.text_classification import TextArguments, main, named_examples
from zoo.train.tasks.token_classification import TokenArguments


def test_a_set_is_read_by_what_the_train_extra_installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    answers = {"text": ["hay"], "answer_start": [7]}
    row = {"id": "1", "question": "What?", "context": "It ate hay.", "answers": answers}
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text(json.dumps(row) + "\n")
    (example,) = hub_examples(DataArguments(dataset_name=str(tmp_path / "set")), "train")
    assert (example.question, example.context, example.answers) == ("What?", "It ate hay.", (("hay", 7),))


def test_labelled_texts_are_trained_on_by_the_name_of_their_set(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    names = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["low", "high"])}
    )
    for split, seed in (("train", 0), ("validation", 1)):
        rows = [{"sentence": text, "label": int(label)} for text, label in make_reviews(10, seed)]
        (tmp_path / "set").mkdir(exist_ok=True)
        datasets.Dataset.from_list(rows, features=names).to_parquet(tmp_path / "set" / f"{split}.parquet")
    out = tmp_path / "out"
    named = [
        "--model_name_or_path",
        str(encoder_folder),
        "--output_dir",
        str(out),
        "--dataset_name",
        str(tmp_path / "set"),
    ]
    assert (
        main([*named, "--do_train", "--do_eval", "--max_steps", "1", "--max_seq_length", "32", "--export", "false"])
        == 0
    )
    assert json.loads((out / "config.json").read_text())["id2label"] == {"0": "low", "1": "high"}
    assert {row["expected"] for row in json.loads((out / "eval_predictions.json").read_text())} == {"low", "high"}


def test_tagged_words_are_trained_on_by_the_name_of_their_set(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The set's own order of tags, of which one is in no row."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-MISC"]
    names = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=tags)),
        }
    )
    for split, seed in (("train", 0), ("validation", 1)):
        rows = [
            {"tokens": [word for word, _ in one], "ner_tags": [tags.index(tag) for _, tag in one]}
            for one in make_sentences(8, seed)
        ]
        (tmp_path / "set").mkdir(exist_ok=True)
        datasets.Dataset.from_list(rows, features=names).to_parquet(tmp_path / "set" / f"{split}.parquet")
    out = tmp_path / "out"
    named = ["--model_name_or_path", str(encoder_folder), "--output_dir", str(out), "--max_seq_length", "48"]
    more = ["--dataset_name", str(tmp_path / "set"), "--do_train", "--do_eval", "--max_steps", "1", "--export", "false"]
    assert token_classification.main([*named, *more]) == 0
    assert list(json.loads((out / "config.json").read_text())["id2label"].values()) == tags
    expected = [row["expected"] for row in json.loads((out / "eval_predictions.json").read_text())]
    assert expected == [[tag for _, tag in one] for one in make_sentences(8, 1)]


class Rows(list[dict[str, object]]):
    """As the datasets package gives them."""

    def __init__(self, rows: Sequence[dict[str, object]], names: Sequence[str] | None = None) -> None:
        super().__init__(rows)
        self.features = {"label": types.SimpleNamespace(names=names)} if names else {}


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (TextArguments(task_name="mnli"), ("nyu-mll/glue", "mnli", "validation_matched")),
        (TextArguments(dataset_name="glue", task_name="rte"), ("glue", "rte", "validation")),
        (TextArguments(dataset_name="glue", dataset_config_name="rte"), ("glue", "rte", "validation")),
        (TextArguments(dataset_name="sst2", task_name="sst2"), ("sst2", None, "validation")),
    ],
)
def test_a_task_of_glue_is_a_set_of_its_own(
    arguments: TextArguments, asked: tuple[str | None, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def load(name: str, configuration: str | None, split: str) -> Rows:
        calls.append((name, configuration, split))
        return Rows([{"premise": "a", "hypothesis": "b", "label": 1, "idx": 0}], ["no", "yes"])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))
    (example,), names = named_examples(arguments, "validation")
    assert calls == [asked]
    assert (example.texts, example.label, names) == (("a", "b"), "yes", ("no", "yes"))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (Rows([]), "--dataset_name mine, split train: holds no rows"),
        (Rows([{"sentence": "a", "label": -1}], ["no", "yes"]), r"split train: row 1: has no label \(-1\)"),
        (Rows([{"sentence": "a", "label": 0.5}]), "split train: row 1: the label 0.5 is a measure"),
        (Rows([{"sentence": "a", "grade": 1}]), "split train: row 1: there is no column label"),
    ],
)
def test_a_set_without_labels_is_explained(rows: Rows, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = types.SimpleNamespace(load_dataset=lambda *_, **__: rows)
    monkeypatch.setitem(sys.modules, "datasets", loader)
    with pytest.raises(TrainingError, match=said):
        named_examples(TextArguments(dataset_name="mine"), "train")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "--dataset_name mine, split train: holds no words"),
        ([{"tokens": ["a"], "ner_tags": [-1]}], r"split train: row 1: has no label \(-1\)"),
        ([{"tokens": ["a"], "ner_tags": 1}], "split train: row 1: ner_tags is a number; expected a list"),
        ([{"tokens": ["a"], "upos": [1]}], "split train: row 1: there is no column ner_tags or tags or labels"),
    ],
)
def test_a_set_without_tags_is_explained(
    rows: list[dict[str, object]], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Rows(rows)
    labels = types.SimpleNamespace(feature=types.SimpleNamespace(names=["no", "yes"]))
    found.features = {"tokens": types.SimpleNamespace(), "ner_tags": labels}
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda *_, **__: found))
    with pytest.raises(TrainingError, match=said):
        token_classification.named_examples(TokenArguments(dataset_name="mine"), "train")
