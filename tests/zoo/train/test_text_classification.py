"""`zoo train text-classification`: from labelled texts to a folder that is served."""

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
    AutoModelForSequenceClassification,
)

import engine
from engine.pipelines import Pipeline
from tests.zoo.train.conftest import make_reviews, save_other_encoder, write_tsv
from tests.zoo.train.runs import TEXT_RECIPE, text_flags
from zoo.answers import load_tokenizer
from zoo.texts import text_rows
from zoo.train.models import load_model
from zoo.train.tasks.text_classification import main

HEAD = "classifier.weight"
Files = tuple[Path, Path]


@pytest.fixture(scope="module")
def dense(encoder_folder: Path, reviews: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine-tuned only: a base and a teacher of the same labels."""
    out = tmp_path_factory.mktemp("dense") / "out"
    assert main(text_flags(encoder_folder, out, *reviews, "--num_train_epochs", "2", "--learning_rate", "3e-3")) == 0
    return out


@pytest.fixture(scope="module")
def student(encoder_folder: Path, dense: Path, reviews: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pruned, quantized and distilled; with its checkpoints."""
    out = tmp_path_factory.mktemp("student") / "out"
    arguments = text_flags(encoder_folder, out, *reviews, "--recipe", TEXT_RECIPE, "--distill_teacher", str(dense))
    assert main([*arguments, "--save_strategy", "steps", "--save_steps", "2", "--num_export_samples", "2"]) == 0
    return out


def head_of(folder: Path) -> torch.Tensor:
    return safetensors.torch.load_file(folder / "model.safetensors")[HEAD]


def config_of(folder: Path) -> dict[str, object]:
    config: dict[str, object] = json.loads((folder / "config.json").read_text())
    return config


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
        assert expected.shape == (1, 2)
    assert config_of(deployment)["id2label"] == {"0": "0", "1": "1"}
    assert config_of(deployment)["architectures"] == ["BertForSequenceClassification"]


def test_report_says_what_was_reached(student: Path) -> None:
    report = json.loads((student / "deployment" / "report.json").read_text())
    assert report["missed"] == []
    assert report["steps"] == 12
    assert report["quantization"]["linear"] == {"quantized": 14, "all": 14}
    assert report["sparsity"]["bert.encoder.layer.1.output.dense.weight"]["zero_blocks"] == 0.5
    assert report["export"]["samples"] == 9 + 3
    metrics = json.loads((student / "eval_results.json").read_text())
    assert metrics == report["metrics"]
    rows = json.loads((student / "eval_predictions.json").read_text())
    right = [row["label"] == row["expected"] for row in rows]
    assert metrics["eval_accuracy"] == sum(right) / len(rows) == sum(right) / metrics["eval_samples"]
    assert 0 <= metrics["eval_f1"] <= 1
    assert all(0.5 <= row["probability"] <= 1 for row in rows)


def test_resuming_from_a_checkpoint_gives_the_same_bits(
    student: Path, dense: Path, encoder_folder: Path, reviews: Files, tmp_path: Path
) -> None:
    shutil.copytree(student / "checkpoint-4", tmp_path / "checkpoint-4")
    arguments = text_flags(encoder_folder, tmp_path, *reviews, "--recipe", TEXT_RECIPE, "--distill_teacher", str(dense))
    assert main([*arguments, "--export", "false"]) == 0
    assert (tmp_path / "model.safetensors").read_bytes() == (student / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["dense", "student"])
def test_the_engine_runs_what_was_trained(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(kind)
    shutil.copytree(folder / "deployment", tmp_path / "deployment")
    texts = [text for text, _ in make_reviews(12, seed=2)]
    model = load_model(folder, architecture=AutoModelForSequenceClassification)
    rows = text_rows(load_tokenizer(folder / "tokenizer.json"), [(text,) for text in texts])
    compiled = engine.compile(tmp_path / "deployment")
    ours, theirs = [], []
    for row in rows:
        feed = {"input_ids": row.input_ids, "attention_mask": row.attention_mask, "token_type_ids": row.type_ids}
        with torch.inference_mode():
            ours.append(model(**{k: torch.from_numpy(v)[None] for k, v in feed.items()}).logits[0].numpy())
        theirs.append(compiled.run({k: v[None] for k, v in feed.items()})["logits"][0])
    rounding = 1e-4 if kind == "dense" else 0.1 * np.stack(ours).std()
    assert np.sqrt(np.square(np.stack(ours) - np.stack(theirs)).mean()) < rounding
    with Pipeline.create(task="text_classification", model_path=tmp_path / "deployment", batch_size=None) as pipeline:
        found = pipeline(sequences=texts)
    assert {label for labels in found.labels for label in labels} <= {"0", "1"}
    assert [[str(logits.argmax())] for logits in theirs] == found.labels


@pytest.mark.parametrize("kind", ["distilbert", "roberta"])
def test_heads_of_two_layers_are_trained_and_served(kind: str, reviews: Files, tmp_path: Path) -> None:
    save_other_encoder(tmp_path / "base", kind)
    recipe = "modifiers:\n  - !QuantizationModifier {start_epoch: 0.0}\n"
    more = ("--max_steps", "2", "--recipe", recipe, "--num_export_samples", "1")
    assert main(text_flags(tmp_path / "base", tmp_path / "out", *reviews, *more)) == 0
    deployment = tmp_path / "out" / "deployment"
    inputs = dict(np.load(deployment / "sample-inputs" / "inp-0000.npz"))
    expected = np.load(deployment / "sample-outputs" / "out-0000.npz")["logits"]
    assert engine.compile(deployment).run(inputs)["logits"] == pytest.approx(expected, abs=0.05)


def test_a_base_of_the_same_labels_keeps_its_head_and_their_order(
    dense: Path, reviews: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = tmp_path / "base"
    shutil.copytree(dense, base, ignore=shutil.ignore_patterns("deployment"))
    config = {**config_of(dense), "id2label": {"0": "POSITIVE", "1": "NEGATIVE"}}
    (base / "config.json").write_text(json.dumps(config))
    names = {"0": "negative", "1": "positive"}
    renamed = [
        write_tsv(tmp_path / f"{n}.tsv", [(t, names[label]) for t, label in make_reviews(16, n)]) for n in (0, 1)
    ]
    out = tmp_path / "out"
    still = ("--max_steps", "1", "--learning_rate", "0", "--export", "false")
    assert main(text_flags(base, out, renamed[0], renamed[1], *still)) == 0
    assert "labels: POSITIVE, NEGATIVE (the head of the base)" in caplog.messages
    assert torch.equal(head_of(out), head_of(dense))
    assert config_of(out)["id2label"] == {"0": "POSITIVE", "1": "NEGATIVE"}
    rows = json.loads((out / "eval_predictions.json").read_text())
    assert [row["expected"] for row in rows] == ["NEGATIVE", "POSITIVE"] * 8


@pytest.mark.parametrize("names", [("no", "yes"), ("low", "middle", "high")])
def test_other_labels_get_a_new_head(
    names: tuple[str, ...], dense: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [(text, names[number % len(names)]) for number, (text, _) in enumerate(make_reviews(12))]
    data = write_tsv(tmp_path / "data.tsv", rows)
    still = ("--max_steps", "1", "--learning_rate", "0", "--max_train_samples", "8")
    assert main(text_flags(dense, tmp_path / "out", data, data, *still)) == 0
    assert f"labels: {', '.join(sorted(names))} (a new head)" in caplog.messages
    assert "starting at random: classifier" in caplog.messages
    assert head_of(tmp_path / "out").shape == (len(names), 32)
    assert not torch.equal(head_of(tmp_path / "out")[:2], head_of(dense))
    assert config_of(tmp_path / "out" / "deployment")["id2label"] == dict(zip("012", sorted(names), strict=False))
    assert ("eval_f1" in json.loads((tmp_path / "out" / "eval_results.json").read_text())) == (len(names) == 2)


def test_a_quantized_base_gets_a_new_head_too(student: Path, tmp_path: Path) -> None:
    """Its ranges are learned anew."""
    base = tmp_path / "base"
    shutil.copytree(student, base, ignore=shutil.ignore_patterns("deployment", "checkpoint-*"))
    stored = safetensors.torch.load_file(base / "model.safetensors")
    stored["classifier.input_quantizer.maximum"] = torch.tensor(1e6)
    safetensors.torch.save_file(stored, base / "model.safetensors", {"format": "pt"})
    rows = [(text, ("low", "middle", "high")[number % 3]) for number, (text, _) in enumerate(make_reviews(12))]
    data = write_tsv(tmp_path / "data.tsv", rows)
    assert main(text_flags(base, tmp_path / "out", data, data, "--max_steps", "2")) == 0
    state = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert state[HEAD].shape == (3, 32)
    assert state["classifier.input_quantizer.maximum"] < 2


def test_a_teacher_of_the_same_labels_gives_a_new_head_their_order(
    dense: Path, encoder_folder: Path, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(dense, teacher, ignore=shutil.ignore_patterns("deployment"))
    (teacher / "config.json").write_text(json.dumps({**config_of(dense), "id2label": {"0": "yes", "1": "no"}}))
    data = write_tsv(tmp_path / "data.tsv", [(t, ("no", "yes")[int(label)]) for t, label in make_reviews(8)])
    recipe = "modifiers:\n  - !DistillationModifier {hardness: 1.0}\n"
    more = ("--recipe", recipe, "--distill_teacher", str(teacher), "--max_steps", "1", "--export", "false")
    assert main(text_flags(encoder_folder, tmp_path / "out", data, data, *more)) == 0
    assert config_of(tmp_path / "out")["id2label"] == {"0": "yes", "1": "no"}


def test_a_teacher_without_a_head_is_refused(
    encoder_folder: Path, reviews: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = "modifiers:\n  - !DistillationModifier {hardness: 1.0}\n"
    more = ("--recipe", recipe, "--distill_teacher", str(encoder_folder))
    assert main(text_flags(encoder_folder, tmp_path / "out", *reviews, *more)) == 1
    assert f"the teacher in {encoder_folder} is no classifier" in capsys.readouterr().err


def test_a_remembered_teacher_gives_the_pooler_that_one_asked_at_every_step_gives(
    dense: Path, encoder_folder: Path, reviews: Files, tmp_path: Path
) -> None:
    names = "[bert.encoder.layer.0, bert.pooler]"
    recipe = f"""
modifiers:
  - !SetLearningRateModifier {{learning_rate: 1.0e-3}}
  - !DistillationModifier {{hardness: 0.5}}
  - !PerLayerDistillationModifier {{gain: 1.0, student_layer_names: {names}, teacher_layer_names: {names}}}
"""
    losses = []
    for remember in ("true", "false"):
        out = tmp_path / remember
        more = ("--recipe", recipe, "--distill_teacher", str(dense), "--remember_teacher", remember)
        schedule = ("--max_steps", "3", "--logging_steps", "1", "--dropout", "0", "--export", "false")
        assert main(text_flags(encoder_folder, out, *reviews, *more, *schedule)) == 0
        history = json.loads((out / "trainer_state.json").read_text())["log_history"]
        losses.append([entry[key] for entry in history for key in ("distillation_loss", "layer_loss") if key in entry])
    assert len(losses[0]) == 6
    assert min(losses[0]) > 0
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_trained_model_is_evaluated_alone(dense: Path, reviews: Files, tmp_path: Path) -> None:
    arguments = [a for a in text_flags(dense, tmp_path / "out", *reviews) if a != "--do_train"]
    assert main(arguments) == 0
    again = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    before = json.loads((dense / "eval_results.json").read_text())
    assert again["eval_accuracy"] == before["eval_accuracy"]
    assert [path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".json"] == []


def test_a_model_without_a_head_cannot_be_evaluated(
    encoder_folder: Path, reviews: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [a for a in text_flags(encoder_folder, tmp_path / "out", *reviews) if a != "--do_train"]
    assert main(arguments) == 1
    assert "is no classifier yet; train one with --do_train" in capsys.readouterr().err


def test_one_shot_prunes_and_quantizes_without_training(dense: Path, reviews: Files, tmp_path: Path) -> None:
    arguments = text_flags(dense, tmp_path / "out", *reviews, "--recipe", TEXT_RECIPE, "--one_shot")
    assert main([a for a in arguments if a != "--do_train"]) == 0
    report = json.loads((tmp_path / "out" / "deployment" / "report.json").read_text())
    assert (report["missed"], report["steps"]) == ([], 0)


def test_pairs_are_read_as_two_texts(encoder_folder: Path, tmp_path: Path) -> None:
    rows = [
        {"premise": text, "hypothesis": "the sea ?", "label": number % 3}
        for number, (text, _) in enumerate(make_reviews(9))
    ]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = ("--max_steps", "1", "--num_export_samples", "1")
    assert main(text_flags(encoder_folder, tmp_path / "out", data, data, *more)) == 0
    sample = np.load(tmp_path / "out" / "deployment" / "sample-inputs" / "inp-0000.npz")
    assert sample["token_type_ids"].max() == 1


def test_evaluation_may_follow_every_epoch(encoder_folder: Path, reviews: Files, tmp_path: Path) -> None:
    best = ("--save_strategy", "epoch", "--load_best_model_at_end", "--metric_for_best_model", "accuracy")
    more = ("--evaluation_strategy", "epoch", "--num_train_epochs", "2", "--export", "false", *best)
    assert main(text_flags(encoder_folder, tmp_path / "out", *reviews, *more)) == 0
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert [entry["epoch"] for entry in history if "eval_accuracy" in entry][:2] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "{path}: is empty"),
        ("sentence\tlabel\n", "{path}: holds no rows"),
        ("sentence\tgrade\nthe sea\t1\n", "{path}: line 2: there is no column label; the columns are sentence, grade"),
        ("words\tauthor\tlabel\nthe sea\tada\t1\n", "there is no column sentence or text"),
        ("sentence\tlabel\nthe sea\t1\nthe\thill\t0\n", "{path}: line 3: has 3 columns, the header has 2"),
        ("sentence\tlabel\nthe sea\t1\nthe hill\t\n", "{path}: line 3: label is empty"),
        ("sentence\tlabel\nthe sea\t1\nthe hill\t1\n", "{path}: the only label is '1'"),
        ("sentence\tlabel\nthe sea\t0.5\nthe hill\t1\n", "the label 0.5 is a measure; regression is not supported"),
        (
            "sentence\tlabel\nthe sea\tgood\nthe hill\tbad\n",
            "dev.tsv: line 2: the label '0' is none of the model's: bad, good",
        ),
    ],
)
def test_bad_data_are_named(
    content: str,
    said: str,
    encoder_folder: Path,
    reviews: Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = tmp_path / "bad.tsv"
    bad.write_text(content)
    assert main(text_flags(encoder_folder, tmp_path / "out", bad, reviews[1])) == 1
    error = capsys.readouterr().err
    assert said.format(path=bad) in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--max_seq_length", "512"], "takes at most 64"),
        (["--max_seq_length", "3"], "--max_seq_length: max_length is 3; it must be at least 5"),
        (["--task_name", "squad"], "--task_name squad is no task of GLUE: cola"),
        (["--task_name", "stsb"], "regression is not supported"),
        (["--input_column_names", "a,b,c"], "takes one column, or two"),
        (["--input_column_names", "words"], "there is no column words"),
        (["--doc_stride", "8"], "--doc_stride"),
    ],
)
def test_flags_that_cannot_be_used_are_explained(
    more: list[str],
    said: str,
    encoder_folder: Path,
    reviews: Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(text_flags(encoder_folder, tmp_path / "out", *reviews, *more)) in (1, 2)
    assert said in capsys.readouterr().err


def test_what_flags_a_run_needs_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output_dir", "o", "--model_name_or_path", "m", "--do_train"]) == 2
    assert "--do_train needs --train_file or --dataset_name or --task_name" in capsys.readouterr().err


def test_the_command_and_the_one_of_old_train_and_export(encoder_folder: Path, reviews: Files, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cli", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)

    out = tmp_path / "out"
    more = ("--max_steps", "1", "--export", "false")
    done = run("--json", "train", "text-classification", *text_flags(encoder_folder, out, *reviews, *more))
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["steps"] == 1
    done = run("legacy-export-onnx", "--model_path", str(out), "--task", "glue")
    assert (done.returncode, done.stdout.strip()) == (0, str(out / "deployment"))
    done = run("export", str(out), "--task", "qa")
    assert done.returncode == 1
    assert "holds a model for text_classification, not for question_answering" in done.stderr
