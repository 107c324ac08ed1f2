"""`zoo evaluate`: how right a served model is, by the files that training reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import cli
from engine import PipelineError
from engine.bench import evaluate_labels, evaluate_squad, evaluate_tags
from engine.pipelines import Pipeline
from tests.engine.tiny_models import question_answering_model, text_classification_model, token_classification_model
from zoo.labelled import LabelledText
from zoo.tagged import TaggedWords

Run = Callable[..., tuple[int, str, str]]
TAGGED = "It O\nwas O\nin O\nParis B-LOC\n\nin O\nspring O\nParis I-LOC\n\nmat I-THING\n"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["evaluate", *map(str, arguments)])
        said = capsys.readouterr()
        return int(str(ended.value.code)), said.out, said.err

    return call


def test_questions(run: Run, tmp_path: Path) -> None:
    folder, context = question_answering_model(tmp_path), "It was in Paris in Spring."
    answers = {"text": ["Paris in Spring"], "answer_start": [10]}
    row = {"id": "1", "question": "where?", "context": context, "answers": answers}
    (tmp_path / "dev.json").write_text(json.dumps({"data": [row]}), encoding="utf-8")
    asked = [folder, "--dataset", tmp_path / "dev.json", "--compare", "onnxruntime"]
    code, out, _ = run(*asked)
    lines = out.splitlines()
    assert (code, lines[0], lines[3]) == (0, "1 questions", "same start and end on 100.00 % of the windows")
    assert [line.split(None, 1)[1] for line in lines[1:3]] == ["exact match 100.00 %, F1 100.00 %"] * 2
    assert json.loads(run(*asked, "--json")[1])["same_argmax"] == 1


@pytest.mark.parametrize("numbered", [False, True])
def test_labelled_texts(run: Run, tmp_path: Path, numbered: bool) -> None:
    """Three of four are right, and one is taken for label 1 that isn't."""
    folder = text_classification_model(tmp_path)
    with Pipeline.create("text_classification", folder, engine_type="onnxruntime") as pipeline:
        names = pipeline.folder.labels()
        texts = ["it was lovely", "is it lovely ?", "it was on the mat", "the cat sat on the mat"]
        given = [labels[0] for labels in pipeline(sequences=texts).labels]
    assert given == ["positive", "positive", "negative", "negative"]
    numbers = {name: number for number, name in names.items()}
    right = [numbers[label] for label in given]
    right[0] = 1 - right[0]
    rows = [
        f"{text}\t{number if numbered else names[number].upper()}" for text, number in zip(texts, right, strict=True)
    ]
    (tmp_path / "dev.tsv").write_text("\n".join(["sentence\tlabel", *rows]), encoding="utf-8")
    asked = [folder, "--task", "glue", "--dataset", tmp_path / "dev.tsv"]
    code, out, _ = run(*asked)
    assert (code, out.splitlines()[0]) == (0, "4 texts")
    assert "accuracy 75.00 %, F1 66.67 %" in out
    found = json.loads(run(*asked, "--json", "--engine", "onnxruntime")[1])
    assert found["engines"]["onnxruntime"] == {"accuracy": 0.75, "f1": pytest.approx(2 / 3)}


@pytest.mark.parametrize("engine_type", ["sparrow", "onnxruntime"])
def test_tagged_words(run: Run, tmp_path: Path, engine_type: str) -> None:
    """The model finds B-LOC, B-TIME and I-THING: two entities of three that it gives are right, and of three there."""
    folder = token_classification_model(tmp_path)
    (tmp_path / "dev.conll").write_text(TAGGED, encoding="utf-8")
    asked = [folder, "--task", "ner", "--dataset", tmp_path / "dev.conll", "--engine", engine_type]
    code, out, _ = run(*asked)
    assert (code, out.splitlines()[0]) == (0, "3 sentences")
    found = json.loads(run(*asked, "--json")[1])["engines"][engine_type]
    # Given: LOC; TIME and LOC, the tag B- where the file says I-; THING. All but the TIME are there.
    assert found == {"accuracy": 6 / 8, "precision": 3 / 4, "recall": 1.0, "f1": pytest.approx(6 / 7)}


def test_what_cannot_be_measured_is_told(run: Run, tmp_path: Path) -> None:
    folder = text_classification_model(tmp_path)
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nparis\tfine\n", encoding="utf-8")
    code, _, said = run(folder, "--task", "text_classification", "--dataset", tmp_path / "dev.tsv")
    assert code != 0
    assert "dev.tsv: line 2: the label 'fine' is none of the model's" in " ".join(said.split())
    code, _, said = run(folder, "--task", "embedding", "--dataset", tmp_path / "dev.tsv")
    assert code != 0
    assert "can't be measured; question_answering, text_classification, token_classification can" in " ".join(
        said.split()
    )


def test_a_pipeline_of_another_task_is_refused(tmp_path: Path) -> None:
    with Pipeline.create("text_classification", text_classification_model(tmp_path), num_cores=1) as pipeline:
        with pytest.raises(PipelineError, match="not text_classification"):
            evaluate_squad(pipeline, [])
        with pytest.raises(PipelineError, match="not text_classification"):
            evaluate_tags(pipeline, [TaggedWords(("a",), ("O",), "here")])
        with pytest.raises(PipelineError, match=r"examples \(0\)"):
            evaluate_labels(pipeline, list[LabelledText]())
