from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.zoo.train.runs import RECIPE, SECOND_ORDER, flags
from zoo.answers import best_answers, load_tokenizer, make_windows, read_squad
from zoo.train.arguments import parse
from zoo.train.distillation import ModelTeacher, Outputs
from zoo.train.models import load_model
from zoo.train.quantization import QuantizedLinear
from zoo.train.tasks.question_answering import QuestionArguments, main
from zoo.train.trainer import LengthGroupedSampler


@pytest.fixture(scope="module")
def student(base_folder: Path, train_file: Path, dev_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pruned, quantized and distilled; with its checkpoints."""
    out = tmp_path_factory.mktemp("student") / "out"
    arguments = flags(base_folder, out, train_file, dev_file, "--recipe", RECIPE, "--distill_teacher", "self")
    code = main([*arguments, "--save_strategy", "steps", "--save_steps", "2", "--num_export_samples", "2"])
    assert code == 0
    return out


def test_training_leaves_a_folder_that_can_be_served(student: Path) -> None:
    deployment = student / "deployment"
    assert {path.name for path in deployment.iterdir()} >= {
        *("model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json", "recipe.yaml", "report.json"),
        *("sample-inputs", "sample-outputs"),
    }
    assert len(list((deployment / "sample-inputs").glob("inp-*.npz"))) == 2
    for name in ("eval_results.json", "eval_predictions.json", "eval_nbest_predictions.json", "trainer_state.json"):
        assert json.loads((student / name).read_text())
    assert not list(student.glob("*.bin"))
    assert not list(student.glob(".export-*"))


def test_report_says_what_was_reached(student: Path) -> None:
    report = json.loads((student / "deployment" / "report.json").read_text())
    assert report["missed"] == []
    assert report["steps"] == 12
    assert report["sparsity"]["bert.encoder.layer.1.output.dense.weight"]["zero_blocks"] == 0.5
    assert report["quantization"]["linear"] == {"quantized": 13, "all": 13}
    assert report["quantization"]["embedding"] == {"quantized": 3, "all": 3}
    assert 0 <= report["metrics"]["eval_f1"] <= 100
    assert report["export"]["samples"] >= 8


def test_the_trained_folder_loads_again_with_the_same_outputs(student: Path) -> None:
    model = load_model(student)
    assert sum(isinstance(m, QuantizedLinear) for m in model.modules()) == 13
    state = safetensors.torch.load_file(student / "model.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_rows_72_and_73_resuming_from_a_checkpoint_gives_the_same_bits(
    student: Path, base_folder: Path, train_file: Path, dev_file: Path, tmp_path: Path
) -> None:
    for step in ("4", "10"):  # while pruning; after quantization froze
        out = tmp_path / f"from-{step}"
        shutil.copytree(student / f"checkpoint-{step}", out / f"checkpoint-{step}")
        (out / "checkpoint-11").mkdir()
        (out / "checkpoint-11" / "trainer_state.json").write_text("{")  # torn by a crash: not taken
        arguments = flags(base_folder, out, train_file, dev_file, "--recipe", RECIPE, "--distill_teacher", "self")
        assert main([*arguments, "--export", "false"]) == 0
        assert (out / "model.safetensors").read_bytes() == (student / "model.safetensors").read_bytes()


def test_second_order_pruning_and_layers_of_a_teacher_resume_with_the_same_bits(
    base_folder: Path, train_file: Path, dev_file: Path, tmp_path: Path
) -> None:
    more = ("--recipe", SECOND_ORDER, "--distill_teacher", "self", "--dropout", "0")
    whole = flags(base_folder, tmp_path / "whole", train_file, dev_file, *more)
    assert main([*whole, "--save_strategy", "steps", "--save_steps", "4"]) == 0
    report = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert report["missed"] == []
    assert {facts["zero_blocks"] for facts in report["sparsity"].values()} == {0.5}
    out = tmp_path / "resumed"
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", out / "checkpoint-4")
    assert main(flags(base_folder, out, train_file, dev_file, *more)) == 0
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_evaluation_under_bfloat16_is_in_float32_as_serving_is(
    base_folder: Path, train_file: Path, dev_file: Path, tmp_path: Path
) -> None:
    arguments = flags(base_folder, tmp_path / "out", train_file, dev_file, "--bf16", "--num_train_epochs", "1")
    assert main(arguments) == 0
    best = json.loads((tmp_path / "out" / "eval_nbest_predictions.json").read_text())
    model = load_model(tmp_path / "out")
    examples = read_squad(dev_file)
    tokenizer = load_tokenizer(tmp_path / "out" / "tokenizer.json")
    for example in examples:
        windows = make_windows(tokenizer, example.question, example.context, max_length=48, doc_stride=8)
        with torch.inference_mode():
            outputs = [
                model(
                    input_ids=torch.from_numpy(w.input_ids)[None],
                    attention_mask=torch.from_numpy(w.attention_mask)[None],
                    token_type_ids=torch.from_numpy(w.type_ids)[None],
                )
                for w in windows
            ]
        starts, ends = ([o[key][0].numpy() for o in outputs] for key in ("start_logits", "end_logits"))
        expected = best_answers(windows, starts, ends, example.context, n_best=20, max_answer_length=30)
        got = best[example.id]
        assert got[0]["text"] == expected[0].text
        assert got[0]["probability"] == pytest.approx(expected[0].score, rel=1e-4)


def test_a_teacher_computes_in_bfloat16_when_its_student_does(
    base_folder: Path, train_file: Path, dev_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed_in = []
    teach = ModelTeacher.__call__

    def spy(self: ModelTeacher, inputs: Mapping[str, Any]) -> Outputs:
        outputs = teach(self, inputs)
        computed_in.append(outputs["start_logits"].dtype)
        return outputs

    monkeypatch.setattr(ModelTeacher, "__call__", spy)
    recipe = "modifiers:\n  - !DistillationModifier {hardness: 1.0}\n"
    more = ("--bf16", "--max_steps", "1", "--recipe", recipe, "--distill_teacher", "self", "--export", "false")
    assert main(flags(base_folder, tmp_path / "out", train_file, dev_file, *more, "--remember_teacher", "false")) == 0
    assert computed_in == [torch.bfloat16]


def test_a_teacher_that_is_remembered_teaches_the_same_layers_as_one_that_is_asked(
    base_folder: Path, train_file: Path, dev_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layers = "[bert.encoder.layer.0, bert.encoder.layer.1.intermediate]"
    recipe = f"""
modifiers:
  - !SetLearningRateModifier {{learning_rate: 1.0e-3}}
  - !PerLayerDistillationModifier {{gain: 1.0, student_layer_names: {layers}, teacher_layer_names: {layers}}}
"""
    losses = []
    for remember in ("true", "false"):
        out = tmp_path / remember
        more = ("--recipe", recipe, "--distill_teacher", "self", "--remember_teacher", remember, "--export", "false")
        schedule = ("--num_train_epochs", "2", "--logging_steps", "1", "--dropout", "0.3")
        assert main(flags(base_folder, out, train_file, dev_file, *more, *schedule)) == 0
        assert ("running the teacher over 24 inputs" in caplog.messages) == (remember == "true")
        caplog.clear()
        history = json.loads((out / "trainer_state.json").read_text())["log_history"]
        losses.append([entry["layer_loss"] for entry in history if "layer_loss" in entry])
    assert len(losses[0]) == 6
    assert min(losses[0]) > 0
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_row_75_resuming_with_another_recipe_shows_the_difference(
    student: Path,
    base_folder: Path,
    train_file: Path,
    dev_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(student / "checkpoint-4", tmp_path / "checkpoint-4")
    changed = RECIPE.replace("final_sparsity: 0.5", "final_sparsity: 0.75")
    arguments = flags(base_folder, tmp_path, train_file, dev_file, "--recipe", changed, "--distill_teacher", "self")
    assert main(arguments) == 1
    assert "+      final_sparsity: 0.75" in capsys.readouterr().err


def test_a_quantized_model_can_be_trained_on_and_stays_quantized(
    student: Path, train_file: Path, dev_file: Path, tmp_path: Path
) -> None:
    recipe = "modifiers:\n  - !ConstantPruningModifier {start_epoch: 0.0, params: __ALL_PRUNABLE__}\n"
    arguments = flags(student, tmp_path / "out", train_file, dev_file, "--recipe", recipe, "--num_train_epochs", "1")
    assert main([*arguments, "--export", "false"]) == 0
    before, after = load_model(student), load_model(tmp_path / "out")
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(before.state_dict()[name] == 0, after.state_dict()[name] == 0)
    assert sum(isinstance(m, QuantizedLinear) for m in after.modules()) == 13


def test_a_missed_target_fails_the_run(
    base_folder: Path, train_file: Path, dev_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = flags(base_folder, tmp_path / "out", train_file, dev_file, "--recipe", RECIPE)
    assert main([*arguments, "--distill_teacher", "disable", "--max_steps", "3"]) == 1
    error = capsys.readouterr().err
    assert "targets were missed" in error
    assert "before quantization started" in error
    assert not (tmp_path / "out" / "deployment").exists()


BEST = ["--load_best_model_at_end", "--eval_strategy", "epoch", "--save_strategy", "epoch"]


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text(json.dumps({"data": rows}))
    return path


ROW = {
    "id": "a",
    "question": "who wrote it ?",
    "context": "ada wrote it in 1843 .",
    "answers": {"text": ["ada"], "answer_start": [0]},
}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b'{"data": []}', "holds no questions"),
        (b'{"data": [\xff]}', "isn't UTF-8"),
        (json.dumps({"data": [ROW, ROW]}).encode(), r"data[1]: id 'a' stands already at data[0]"),
        (
            json.dumps({"data": [{**ROW, "answers": {"text": ["ada"], "answer_start": [3]}}]}).encode(),
            "data[0].answers[0]: at 3 the context says",
        ),
        (json.dumps({"data": [{**ROW, "answers": {"text": [], "answer_start": []}}]}).encode(), "'a' has no answer"),
    ],
)
def test_row_80_bad_data_is_named(
    content: bytes, said: str, base_folder: Path, dev_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_bytes(content)
    assert main(flags(base_folder, tmp_path / "out", bad, dev_file)) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_row_80_one_row_longer_than_the_model_is_trained_on_in_windows(
    base_folder: Path, dev_file: Path, tmp_path: Path
) -> None:
    context = "ada wrote it in 1843 . " + "the river ends in the sea . " * 40
    one = write_rows(tmp_path / "one.json", [{**ROW, "context": context}])
    assert main(flags(base_folder, tmp_path / "out", one, one, "--num_train_epochs", "1", "--export", "false")) == 0
    assert json.loads((tmp_path / "out" / "eval_results.json").read_text())["eval_samples"] == 1


def test_one_shot_prunes_and_quantizes_without_training(
    base_folder: Path, train_file: Path, dev_file: Path, tmp_path: Path
) -> None:
    arguments = flags(
        base_folder, tmp_path / "out", train_file, dev_file, "--recipe", RECIPE, "--one_shot", "--export", "false"
    )
    assert main([a for a in arguments if a != "--do_train"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["missed"] == []
    assert report["steps"] == 0
    assert all(float(v) > 0 for k, v in load_model(tmp_path / "out").state_dict().items() if k.endswith(".maximum"))


def test_evaluation_may_follow_every_epoch(base_folder: Path, train_file: Path, dev_file: Path, tmp_path: Path) -> None:
    more = ("--evaluation_strategy", "epoch", "--num_train_epochs", "2", "--export", "false")
    assert main(flags(base_folder, tmp_path / "out", train_file, dev_file, *more)) == 0
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert [entry["epoch"] for entry in history if "eval_f1" in entry][:2] == [1.0, 2.0]


def test_the_flags_of_the_source_article_are_accepted(tmp_path: Path) -> None:
    model, data, run = parse(
        (  # noqa: SIM905
            "--output_dir bert_large_uncased-squad --model_name_or_path "
            "zoo:bert-large-wikipedia_bookcorpus-pruned80.4block_quantized --distill_teacher "
            "zoo:nlp/question_answering/bert-large/pytorch/huggingface/squad/base-none --recipe "
            "zoo:nlp/question_answering/bert-large/pytorch/huggingface/squad/pruned80_quant-none-vnni "
            "--dataset_name squad --do_train --do_eval --per_device_train_batch_size 8 "
            "--per_device_eval_batch_size 32 --gradient_accumulation_steps 4 --preprocessing_num_workers 6 "
            "--max_seq_length 384 --doc_stride 128"
        ).split(),
        QuestionArguments,
    )
    assert (data.dataset_name, data.max_seq_length, data.doc_stride) == ("squad", 384, 128)
    assert run.gradient_accumulation_steps == 4
    assert model.distill_teacher is not None


def test_dashes_and_a_json_file_say_the_same(tmp_path: Path) -> None:
    given = ["--output-dir", "o", "--model-name-or-path", "m", "--do-eval", "--validation-file=v.json"]
    dashed = parse(given, QuestionArguments)
    path = tmp_path / "arguments.json"
    path.write_text('{"output_dir": "o", "model_name_or_path": "m", "do_eval": true, "validation_file": "v.json"}')
    filed = parse([str(path)], QuestionArguments)
    assert dashed[:2] == filed[:2]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--recipe", RECIPE], "name a teacher"),
        (["--recipe", "modifiers:\n  - !NoSuchModifier {}\n"], "NoSuchModifier"),
        (["--max_seq_length", "512"], "takes at most 64"),
        (["--load_best_model_at_end", "--eval_strategy", "no"], "load_best_model_at_end"),
        (BEST, "--load_best_model_at_end needs --metric_for_best_model: f1 or exact_match"),
        ([*BEST, "--metric_for_best_model", "f1", "--recipe", RECIPE], "would undo what the recipe does later"),
        (["--resume_from_checkpoint", "true"], "no complete checkpoint"),
        (["--max_train_samples", "0"], "must be 1 or more"),
        (["--do_predict"], "--do_predict is not supported"),
    ],
)
def test_contradictions_are_explained(
    more: list[str],
    said: str,
    base_folder: Path,
    train_file: Path,
    dev_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(flags(base_folder, tmp_path / "out", train_file, dev_file, *more)) in (1, 2)
    assert said in capsys.readouterr().err


def test_a_used_output_folder_is_refused(
    base_folder: Path, train_file: Path, dev_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    assert main(flags(base_folder, tmp_path, train_file, dev_file)) == 1
    assert "not empty" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_a_folder_without_safetensors_is_refused(
    base_folder: Path, train_file: Path, dev_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(base_folder, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert main(flags(pickled, tmp_path / "out", train_file, dev_file)) == 1
    assert "has no model.safetensors" in capsys.readouterr().err


def test_batches_group_like_lengths_and_depend_on_seed_and_epoch_alone() -> None:
    lengths = np.random.default_rng(0).integers(10, 300, 1003).tolist()
    sampler = LengthGroupedSampler(lengths, 16, seed=3)
    first = list(sampler)
    assert sorted(first) == list(range(1003))
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    padded = sum(max(lengths[i] for i in first[b : b + 16]) * len(first[b : b + 16]) for b in range(0, 1003, 16))
    assert padded < 1.1 * sum(lengths)


def test_a_data_set_by_name_without_its_package_says_what_to_do(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    named = ["--model_name_or_path", str(base_folder), "--output_dir", str(tmp_path / "out"), "--dataset_name", "squad"]
    assert main([*named, "--do_train", "--max_seq_length", "48"]) == 1
    assert "pip install datasets, or give --train_file" in capsys.readouterr().err
