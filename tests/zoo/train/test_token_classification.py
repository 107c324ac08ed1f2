"""`zoo train token-classification`: from tagged words to a folder that is served."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
from transformers import (
    AutoModelForTokenClassification,
)

import engine
from engine.pipelines import Pipeline
from tests.zoo.train.conftest import WORDS, make_sentences, make_tokenizer, save_other_encoder, write_conll
from tests.zoo.train.runs import TOKEN_RECIPE, text_flags
from zoo.answers import load_tokenizer
from zoo.entities import entities, entity_scores
from zoo.texts import word_rows
from zoo.train.models import load_model
from zoo.train.tasks.token_classification import main, token_labels

LABELS = ["O", "B-LOC", "B-PER", "I-LOC", "I-PER"]
HEAD = "classifier.weight"
Files = tuple[Path, Path]
STILL = ("--max_steps", "1", "--learning_rate", "0", "--export", "false")


@pytest.fixture(scope="module")
def dense(encoder_folder: Path, sentences: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine-tuned only, until it knows what there is to know: a base and a teacher of the same labels."""
    out = tmp_path_factory.mktemp("dense") / "out"
    more = ("--num_train_epochs", "10", "--learning_rate", "5e-3")
    assert main(text_flags(encoder_folder, out, *sentences, *more)) == 0
    return out


@pytest.fixture(scope="module")
def student(encoder_folder: Path, dense: Path, sentences: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pruned, quantized and distilled."""
    out = tmp_path_factory.mktemp("student") / "out"
    more = ("--recipe", TOKEN_RECIPE, "--distill_teacher", str(dense), "--num_export_samples", "2")
    assert main(text_flags(encoder_folder, out, *sentences, *more)) == 0
    return out


def written(path: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads(path.read_text())
    return document


def rows_of(folder: Path) -> list[dict[str, list[str | None]]]:
    rows: list[dict[str, list[str | None]]] = json.loads((folder / "eval_predictions.json").read_text())
    return rows


def head_of(folder: Path) -> torch.Tensor:
    return safetensors.torch.load_file(folder / "model.safetensors")[HEAD]


def write_json(path: Path, sentences: list[list[tuple[str, object]]], words: str, tags: str) -> Path:
    rows = [{words: [word for word, _ in one], tags: [tag for _, tag in one]} for one in sentences]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_can_be_learned_is_learned(dense: Path, sentences: Files) -> None:
    metrics = written(dense / "eval_results.json")
    assert metrics["eval_samples"] == 9
    assert metrics["eval_f1"] == metrics["eval_precision"] == metrics["eval_recall"] == metrics["eval_accuracy"] == 1
    rows = rows_of(dense)
    expected = make_sentences(9, seed=1)
    assert [list(zip(row["words"], row["expected"], strict=True)) for row in rows] == expected
    assert [row["labels"] for row in rows] == [row["expected"] for row in rows]


def test_training_leaves_a_folder_that_can_be_served(student: Path) -> None:
    deployment = student / "deployment"
    assert {path.name for path in deployment.iterdir()} == {
        *("model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json", "recipe.yaml", "report.json"),
        *("sample-inputs", "sample-outputs"),
    }
    session = onnxruntime.InferenceSession(deployment / "model.onnx", providers=["CPUExecutionProvider"])
    for number in range(2):
        inputs = dict(np.load(deployment / "sample-inputs" / f"inp-{number:04d}.npz"))
        expected = np.load(deployment / "sample-outputs" / f"out-{number:04d}.npz")["logits"]
        assert np.array_equal(session.run(["logits"], inputs)[0], expected)
        assert expected.shape == (*inputs["input_ids"].shape, 5)
    config = written(deployment / "config.json")
    assert config["id2label"] == dict(zip("01234", LABELS, strict=True))
    assert config["architectures"] == ["BertForTokenClassification"]
    assert "problem_type" not in config


def test_report_says_what_was_reached(student: Path) -> None:
    report = json.loads((student / "deployment" / "report.json").read_text())
    assert (report["missed"], report["steps"]) == ([], 48)
    assert report["quantization"]["linear"] == {"quantized": 13, "all": 13}
    assert report["sparsity"]["bert.encoder.layer.1.output.dense.weight"]["zero_blocks"] == 0.5
    assert report["export"]["samples"] == 9 + 3
    metrics = written(student / "eval_results.json")
    assert metrics == report["metrics"]
    rows = rows_of(student)
    pairs = [pair for row in rows for pair in zip(row["labels"], row["expected"], strict=True)]
    assert metrics["eval_accuracy"] == sum(a == b for a, b in pairs) / len(pairs)
    scores = entity_scores(*([[str(tag) for tag in row[key]] for row in rows] for key in ("labels", "expected")))
    assert scores == {key: metrics[f"eval_{key}"] for key in scores}


@pytest.mark.parametrize("kind", ["dense", "student"])
def test_the_engine_runs_what_was_trained(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(kind)
    shutil.copytree(folder / "deployment", tmp_path / "deployment")
    words = [[word for word, _ in one] for one in make_sentences(12, seed=2)]
    model = load_model(folder, architecture=AutoModelForTokenClassification)
    rows = word_rows(load_tokenizer(folder / "tokenizer.json"), words)
    compiled = engine.compile(tmp_path / "deployment")
    ours, theirs = [], []
    for row in rows:
        feed = {"input_ids": row.input_ids, "attention_mask": row.attention_mask, "token_type_ids": row.type_ids}
        with torch.inference_mode():
            ours.append(model(**{k: torch.from_numpy(v)[None] for k, v in feed.items()}).logits[0].numpy())
        theirs.append(compiled.run({k: v[None] for k, v in feed.items()})["logits"][0])
    every, other = np.concatenate(ours), np.concatenate(theirs)
    assert np.sqrt(np.square(every - other).mean()) < (1e-4 if kind == "dense" else 0.1 * every.std())
    options = {"task": "token_classification", "model_path": tmp_path / "deployment", "batch_size": None}
    with Pipeline.create(**options, ignore_labels=[]) as pipeline:
        found = pipeline(inputs=words, is_split_into_words=True)
    picked = [
        [LABELS[index] for index in logits[row.firsts].argmax(-1)] for row, logits in zip(rows, theirs, strict=True)
    ]
    assert [[one.entity for one in told] for told in found.predictions] == picked
    if kind == "dense":
        assert picked == [[tag for _, tag in one] for one in make_sentences(12, seed=2)]
        with Pipeline.create(**options, aggregation_strategy="first") as pipeline:
            found = pipeline(inputs=[" ".join(one) for one in words])
        kinds = [[one.entity for one in told] for told in found.predictions]
        assert kinds == [[entity.kind for entity in entities(tags)] for tags in picked]


@pytest.mark.parametrize("kind", ["distilbert", "roberta"])
def test_other_encoders_are_trained_and_served(kind: str, sentences: Files, tmp_path: Path) -> None:
    save_other_encoder(tmp_path / "base", kind)
    recipe = "modifiers:\n  - !QuantizationModifier {start_epoch: 0.0}\n"
    more = ("--max_steps", "2", "--recipe", recipe, "--num_export_samples", "1", "--pad_to_max_length", "true")
    assert main(text_flags(tmp_path / "base", tmp_path / "out", *sentences, *more)) == 0
    deployment = tmp_path / "out" / "deployment"
    inputs = dict(np.load(deployment / "sample-inputs" / "inp-0000.npz"))
    expected = np.load(deployment / "sample-outputs" / "out-0000.npz")["logits"]
    found = engine.compile(deployment).run(inputs)["logits"]
    assert np.sqrt(np.square(found - expected).mean()) < 0.1 * expected.std()


@pytest.mark.parametrize(("words", "tags"), [("tokens", "ner_tags"), ("words", "labels"), ("said", "pos")])
def test_json_gives_what_columns_give(
    words: str, tags: str, dense: Path, encoder_folder: Path, sentences: Files, tmp_path: Path
) -> None:
    numbered = [
        write_json(tmp_path / f"{seed}.jsonl", [[*one] for one in make_sentences(count, seed)], words, tags)
        for count, seed in ((96, 0), (9, 1))
    ]
    named = () if words != "said" else ("--text_column_name", words, "--label_column_name", tags)
    schedule = ("--max_steps", "2", "--export", "false", "--task_name", "ner")
    assert main(text_flags(encoder_folder, tmp_path / "out", numbered[0], numbered[1], *schedule, *named)) == 0
    assert main(text_flags(encoder_folder, tmp_path / "same", *sentences, *schedule)) == 0
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "same")]
    assert files[0] == files[1]


def test_numbers_get_the_names_of_the_base_and_else_tell_no_entities(
    dense: Path, encoder_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    numbers: list[list[tuple[str, object]]] = [
        [(word, LABELS.index(tag)) for word, tag in one] for one in make_sentences(12, 3)
    ]
    data = write_json(tmp_path / "data.json", numbers, "tokens", "tags")
    assert main(text_flags(dense, tmp_path / "kept", data, data, *STILL)) == 0
    assert "labels: O, B-LOC, B-PER, I-LOC, I-PER (the head of the base)" in caplog.messages
    assert written(tmp_path / "kept" / "eval_results.json")["eval_f1"] == 1
    assert main(text_flags(encoder_folder, tmp_path / "out", data, data, *STILL)) == 0
    assert written(tmp_path / "out" / "config.json")["id2label"] == {n: n for n in "01234"}
    assert "eval_f1" not in written(tmp_path / "out" / "eval_results.json")
    assert any("labels are numbers: accuracy alone is told" in message for message in caplog.messages)


def test_best_by_what_numbers_cannot_tell_is_refused(
    encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_json(tmp_path / "data.json", [[("the", 0), ("sea", 1)]], "tokens", "tags")
    best = ("--save_strategy", "epoch", "--eval_strategy", "epoch", "--load_best_model_at_end")
    more = (*best, "--metric_for_best_model", "f1", "--export", "false")
    assert main(text_flags(encoder_folder, tmp_path / "out", data, data, *more)) == 1
    assert "--metric_for_best_model f1: with these labels there is accuracy" in capsys.readouterr().err


def test_a_base_of_the_same_labels_keeps_its_head_and_of_others_gets_a_new_one(
    dense: Path, sentences: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(text_flags(dense, tmp_path / "kept", *sentences, *STILL)) == 0
    assert torch.equal(head_of(tmp_path / "kept"), head_of(dense))
    fewer = [[(word, "O" if tag.endswith("LOC") else tag) for word, tag in one] for one in make_sentences(8)]
    data = write_conll(tmp_path / "data.conll", fewer)
    assert main(text_flags(dense, tmp_path / "new", data, data, *STILL)) == 0
    assert "labels: O, B-PER, I-PER (a new head)" in caplog.messages
    assert head_of(tmp_path / "new").shape == (3, 32)


def test_a_head_of_another_task_is_no_head(encoder_folder: Path, dense: Path, sentences: Files, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(dense, base, ignore=shutil.ignore_patterns("deployment"))
    config = {**written(dense / "config.json"), "architectures": ["BertForSequenceClassification"]}
    (base / "config.json").write_text(json.dumps(config))
    assert main(text_flags(base, tmp_path / "out", *sentences, *STILL)) == 0
    assert not torch.equal(head_of(tmp_path / "out"), head_of(dense))


def test_a_teacher_of_other_labels_is_refused(
    dense: Path, encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_conll(tmp_path / "data.conll", [[("the", "O"), ("sea", "B-LOC")]])
    more = ("--recipe", TOKEN_RECIPE, "--distill_teacher", str(dense))
    assert main(text_flags(encoder_folder, tmp_path / "out", data, data, *more)) == 1
    assert "the teacher tells apart O, B-LOC, B-PER, I-LOC, I-PER; the data's labels are O, B-LOC" in (
        capsys.readouterr().err
    )


def test_a_remembered_teacher_teaches_as_one_asked_at_every_step(
    dense: Path, encoder_folder: Path, sentences: Files, tmp_path: Path
) -> None:
    recipe = (
        "modifiers:\n  - !SetLearningRateModifier {learning_rate: 1.0e-3}\n  - !DistillationModifier {hardness: 1}\n"
    )
    losses = []
    for remember in ("true", "false"):
        out = tmp_path / remember
        more = ("--recipe", recipe, "--distill_teacher", str(dense), "--remember_teacher", remember)
        schedule = ("--max_steps", "3", "--logging_steps", "1", "--dropout", "0", "--export", "false")
        assert main(text_flags(encoder_folder, out, *sentences, *more, *schedule)) == 0
        history = json.loads((out / "trainer_state.json").read_text())["log_history"]
        losses.append([entry["distillation_loss"] for entry in history if "distillation_loss" in entry])
    assert len(losses[0]) == 3
    assert min(losses[0]) > 0
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_padding_changes_no_loss(dense: Path, encoder_folder: Path, sentences: Files, tmp_path: Path) -> None:
    """Neither the task's nor the teacher's."""
    recipe = "modifiers:\n  - !DistillationModifier {hardness: 0.5}\n"
    losses = []
    for padded in ("true", "false"):
        more = ("--recipe", recipe, "--distill_teacher", str(dense), "--pad_to_max_length", padded, "--dropout", "0")
        assert (
            main(text_flags(encoder_folder, tmp_path / padded, *sentences, *STILL, *more, "--logging_steps", "1")) == 0
        )
        entry = json.loads((tmp_path / padded / "trainer_state.json").read_text())["log_history"][0]
        losses.append((entry["task_loss"], entry["distillation_loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_trained_model_is_evaluated_alone(dense: Path, sentences: Files, tmp_path: Path) -> None:
    assert main([a for a in text_flags(dense, tmp_path / "out", *sentences) if a != "--do_train"]) == 0
    assert written(tmp_path / "out" / "eval_results.json")["eval_f1"] == 1
    assert [path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".json"] == []


def test_one_shot_prunes_and_quantizes_without_training(dense: Path, sentences: Files, tmp_path: Path) -> None:
    arguments = text_flags(dense, tmp_path / "out", *sentences, "--recipe", TOKEN_RECIPE, "--one_shot")
    assert main([a for a in arguments if a != "--do_train"]) == 0
    report = json.loads((tmp_path / "out" / "deployment" / "report.json").read_text())
    assert (report["missed"], report["steps"]) == ([], 0)


def test_what_is_cut_is_counted_and_neither_taught_nor_judged(
    dense: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = make_sentences(6, seed=4)
    data = write_conll(tmp_path / "data.conll", rows)
    more = ("--max_seq_length", "8", "--max_eval_samples", "5")
    assert main(text_flags(dense, tmp_path / "out", data, data, *STILL, *more)) == 0
    lost = [sum(max(len(one) - 6, 0) for one in some) for some in (rows, rows[:5])]
    words = [sum(map(len, some)) for some in (rows, rows[:5])]
    assert f"train: {lost[0]} of {words[0]} words have no token among the first 8" in caplog.messages
    assert f"validation: {lost[1]} of {words[1]} words have no token among the first 8" in caplog.messages
    for row, sentence in zip(rows_of(tmp_path / "out"), rows, strict=False):
        assert row["expected"] == [tag for _, tag in sentence]
        assert [label is None for label in row["labels"]] == [place >= 6 for place in range(len(sentence))]


@pytest.mark.parametrize("everything", [False, True])
def test_pieces_bear_the_labels_of_their_words(everything: bool) -> None:
    tokenizer = make_tokenizer(["s", "##ea", "##side", "the"]).backend_tokenizer
    (row,) = word_rows(tokenizer, [("the", "seaside", "seaside")])
    following = np.array([0, 2, 2]) if everything else None
    labels = token_labels(row, np.array([0, 1, 2]), following)
    further = 2 if everything else -100
    assert labels.tolist() == [-100, 0, 1, further, further, 2, further, further, -100]


def test_all_tokens_may_be_labelled(encoder_folder: Path, tmp_path: Path) -> None:
    """Words of several pieces are learned with another loss, and judged by their first one as before."""
    make_tokenizer([*WORDS[:-1], "##hill"]).save_pretrained(tmp_path / "base")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(encoder_folder / name, tmp_path / "base")
    data = write_conll(tmp_path / "data.conll", [[("seahill", "B-LOC"), ("the", "O")]] * 4)
    losses = []
    for everything in ("false", "true"):
        more = ("--label_all_tokens", everything, "--logging_steps", "1", "--dropout", "0")
        assert main(text_flags(tmp_path / "base", tmp_path / everything, data, data, *STILL, *more)) == 0
        history = json.loads((tmp_path / everything / "trainer_state.json").read_text())["log_history"]
        losses.append(history[0]["task_loss"])
        assert [len(row["labels"]) for row in rows_of(tmp_path / everything)] == [2] * 4
    assert losses[0] != losses[1]


def test_sentences_without_a_token_are_left_out(encoder_folder: Path, tmp_path: Path) -> None:
    rows: list[list[tuple[str, object]]] = [[("the", "O"), ("sea", "LOC")], [("\u0007", "O")], [("sea", "LOC")]]
    data = write_json(tmp_path / "data.json", rows, "tokens", "tags")
    more = ("--per_device_train_batch_size", "1", "--num_train_epochs", "1", "--export", "false")
    assert main(text_flags(encoder_folder, tmp_path / "out", data, data, *more)) == 0
    assert [row["labels"] == [None] for row in rows_of(tmp_path / "out")] == [False, False]


def test_no_token_at_all_is_explained(encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_json(tmp_path / "data.json", [[("\u0007", "O"), ("\u0008", "B-X")]], "tokens", "tags")
    assert main(text_flags(encoder_folder, tmp_path / "out", data, data)) == 1
    assert "train: no word has a token" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("the O\nsea O\n", "{path}: the only label is 'O'; a classifier needs two or more"),
        ("the O\nsea\n", "{path}: line 2: has one column"),
        ("the O\nsea B-X\n", "dev.conll: line {line}: the label 'B-PER' is none of the model's: O, B-X; leave such"),
    ],
)
def test_bad_data_are_named(
    content: str,
    said: str,
    encoder_folder: Path,
    sentences: Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = tmp_path / "bad.conll"
    bad.write_text(content)
    lines = sentences[1].read_text().split("\n")
    line = next(number for number, text in enumerate(lines, 1) if "PER" in text)
    assert main(text_flags(encoder_folder, tmp_path / "out", bad, sentences[1])) == 1
    error = capsys.readouterr().err
    assert said.format(path=bad, line=line) in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--max_seq_length", "512"], "takes at most 64"),
        (["--max_seq_length", "2"], "--max_seq_length: max_length is 2; it must be at least 4"),
        (["--task_name", "pos"], "--task_name is pos; ner is known, --label_column_name names other tags"),
        (["--label_column_name", "tags"], "CoNLL's columns have no names"),
        (["--doc_stride", "8"], "--doc_stride"),
        (["--load_best_model_at_end", "--metric_for_best_model", "mcc"], "f1 or precision or recall or accuracy"),
    ],
)
def test_flags_that_cannot_be_used_are_explained(
    more: list[str],
    said: str,
    encoder_folder: Path,
    sentences: Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(text_flags(encoder_folder, tmp_path / "out", *sentences, *more)) in (1, 2)
    assert said in capsys.readouterr().err


def test_the_command_and_the_one_of_old_train_and_export(
    encoder_folder: Path, sentences: Files, tmp_path: Path
) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cli", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)

    out = tmp_path / "out"
    done = run("--json", "train", "token-classification", *text_flags(encoder_folder, out, *sentences, *STILL))
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["steps"] == 1
    done = run("legacy-export-onnx", "--model_path", str(out), "--task", "ner")
    assert (done.returncode, done.stdout.strip()) == (0, str(out / "deployment"))
