"""`zoo train question-answering`: fine-tune, prune, quantize and distil on SQuAD-like data, then export."""

from __future__ import annotations

import copy
import importlib
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import set_seed

from zoo.answers import Answer, Example, best_answers, read_squad, squad_metrics
from zoo.errors import TrainingError, ZooError
from zoo.modifiers import DistillationModifier, PerLayerDistillationModifier
from zoo.terminal import Output, counting_bar, waiting
from zoo.train.allocator import keep_freed_memory
from zoo.train.arguments import DataArguments, ModelArguments, RunArguments, check_output, parse
from zoo.train.distillation import LayerOutputs, ModelTeacher, RememberedTeacher, Teacher
from zoo.train.dropout import set_dropout, use_byte_dropout
from zoo.train.features import Collator, Feature, Features, make_features, predict
from zoo.train.models import inherited_quantization, load_model, load_tokenizer
from zoo.train.quantization import ATTENTION
from zoo.train.report import build_report
from zoo.train.sources import recipe_of, training_folder
from zoo.train.trainer import Trainer, given_checkpoint, in_float32, last_checkpoint

log = logging.getLogger("zoo.train")
_MEMORY_LIMIT_BYTES = 2**30  # of a teacher's remembered outputs


def main(argv: Sequence[str]) -> int:
    """Run the command line; return its exit code. The report goes to stdout, all else to stderr."""
    _log_to_stderr()
    keep_freed_memory()
    try:
        run = Run(*parse(argv))
        with redirect_stdout(sys.stderr):  # where transformers prints what it logs
            document = run.go()
    except ZooError as error:
        Output.fail(error, error.exit_code)
        return error.exit_code
    except OSError as error:
        Output.fail(TrainingError(f"{error}; complete checkpoints stay as they are"), TrainingError.exit_code)
        return TrainingError.exit_code
    if run.run_args.process_index == 0:
        Output.emit(document, str(run.folder))
    return 0


def _log_to_stderr() -> None:
    zoo_log = logging.getLogger("zoo")
    zoo_log.setLevel(logging.INFO)
    if not zoo_log.handlers:
        zoo_log.addHandler(logging.StreamHandler())


@dataclass
class Questions:
    """Examples with their windows."""

    examples: list[Example]
    features: list[Feature]


class Run:
    """One training run, from flags to a deployment folder."""

    def __init__(self, model: ModelArguments, data: DataArguments, run: RunArguments) -> None:
        self.model_args, self.data_args, self.run_args = model, data, run
        self.folder = Path(str(run.output_dir))

    def go(self) -> dict[str, Any]:
        """Train, evaluate, report and export, as the flags say; return the report, or the metrics without training.

        Raises ZooError.
        """
        resumed = self._resume_point()
        check_output(self.run_args, resuming=resumed is not None)
        set_seed(self.run_args.seed)
        self._load()
        self._read_data()
        self.folder.mkdir(parents=True, exist_ok=True)
        trainer = self._trainer()
        started = time.monotonic()
        if self.run_args.do_train:
            trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
        elif self.model_args.one_shot:
            trainer.apply_once()
        metrics = trainer.evaluate() if self.run_args.do_eval else {}
        return self._finish(trainer, metrics, time.monotonic() - started)

    def _resume_point(self) -> Path | None:
        asked = self.run_args.resume_from_checkpoint
        if asked and asked.lower() != "true":
            return given_checkpoint(Path(asked), self.folder)
        found = (
            last_checkpoint(self.folder) if self.run_args.do_train and not self.run_args.overwrite_output_dir else None
        )
        if asked and found is None:
            raise TrainingError(f"--resume_from_checkpoint: {self.folder} holds no complete checkpoint")
        if found is not None:
            log.info("resuming from %s", found)
        return found

    def _load(self) -> None:
        cache = self.model_args.cache_dir
        base = training_folder(self.model_args.model_name_or_path, cache)
        self.model = load_model(base)
        self.model.set_attn_implementation(ATTENTION)
        if self.model_args.dropout is not None:
            set_dropout(self.model, self.model_args.dropout)
        chosen = self.model_args.tokenizer_name
        self.tokenizer = load_tokenizer(base if chosen is None else training_folder(chosen, cache))
        self.plain: Tokenizer = self.tokenizer.backend_tokenizer
        self.recipe = recipe_of(self.model_args.recipe, self.model_args.recipe_args, cache)
        for finding in self.recipe.lint() if self.model_args.recipe else []:
            log.info("recipe: %s", finding)
        self.inherited = inherited_quantization(base, self.model, self.recipe)
        if self.run_args.load_best_model_at_end and self.recipe.modifiers:
            raise TrainingError("--load_best_model_at_end would undo what the recipe does later; leave it out")
        limit = int(getattr(self.model.config, "max_position_embeddings", self.data_args.max_seq_length))
        if self.data_args.max_seq_length > limit:
            raise TrainingError(f"--max_seq_length is {self.data_args.max_seq_length}; the model takes at most {limit}")
        if self.model_args.byte_dropout and self.run_args.device.type == "cpu":
            use_byte_dropout(self.model)
        self.collator = Collator(
            pad_id=int(self.tokenizer.pad_token_id or 0),
            with_types=int(getattr(self.model.config, "type_vocab_size", 0) or 0) > 0,
            length=self.data_args.max_seq_length if self.data_args.pad_to_max_length else None,
        )

    def _read_data(self) -> None:
        data = self.data_args
        self.train_set = self._questions(
            data.train_file,
            "train",
            data.max_train_samples,
            labels=True,
            wanted=self.run_args.do_train or self.model_args.one_shot,
        )
        self.eval_set = self._questions(
            data.validation_file, "validation", data.max_eval_samples, labels=False, wanted=self.run_args.do_eval
        )

    def _questions(self, file: str | None, split: str, most: int | None, *, labels: bool, wanted: bool) -> Questions:
        if not wanted:
            return Questions([], [])
        examples = read_squad(Path(file)) if file is not None else hub_examples(self.data_args, split)
        examples = examples[:most]
        if labels and not self.data_args.version_2_with_negative:
            unanswered = next((e.id for e in examples if not e.answers), None)
            if unanswered is not None:
                raise TrainingError(
                    f"question {unanswered!r} has no answer; give --version_2_with_negative to train on such"
                )
        features = make_features(
            self.plain,
            examples,
            max_length=self.data_args.max_seq_length,
            doc_stride=self.data_args.doc_stride,
            labels=labels,
        )
        log.info("%s: %d questions, %d windows", split, len(examples), len(features))
        return Questions(examples, features)

    def _trainer(self) -> QuestionAnsweringTrainer:
        train = Features(self.train_set.features)
        args = self.run_args
        args.remove_unused_columns = False
        args.label_names = ["start_positions", "end_positions"]
        return QuestionAnsweringTrainer(
            run=self,
            model=self.model,
            args=args,
            train_dataset=train,
            data_collator=self.collator,
            processing_class=self.tokenizer,
            recipe=self.recipe,
            inherited=self.inherited,
            teacher=self._teacher() if args.do_train else None,
            lengths=train.lengths if self.data_args.group_by_length else None,
        )

    def _teacher(self) -> Teacher | None:
        layers = [name for m in self.recipe.of_type(PerLayerDistillationModifier) for name in m.teacher_layer_names]
        keys = {m.teacher_input_keys for m in self.recipe.of_type(DistillationModifier) if m.hardness > 0}
        named = self.model_args.distill_teacher
        if named == "disable" or not (layers or keys):
            return None
        if named is None:
            raise TrainingError("the recipe distils: name a teacher by --distill_teacher FOLDER, self or disable")
        if named == "self":
            model: nn.Module = copy.deepcopy(self.model)
        else:
            folder = training_folder(named, self.model_args.cache_dir)
            model = load_model(folder)
            model.set_attn_implementation(ATTENTION)
            if load_tokenizer(folder).get_vocab() != self.tokenizer.get_vocab():
                raise TrainingError(
                    f"the teacher in {folder} has another vocabulary than the student; both must read the same tokens"
                )
        model.to(self.run_args.device)
        asked_alike = len(keys) <= 1 and self.model_args.remember_teacher
        remembered = self._remembered(model, layers, next(iter(keys), None)) if asked_alike else None
        return remembered or ModelTeacher(model)

    def _remembered(self, model: nn.Module, names: Sequence[str], keys: Sequence[str] | None) -> Teacher | None:
        """Run the teacher once over the data, if all that it and these layers give fits into memory."""
        windows = [feature.window for feature in self.train_set.features]
        if not windows:
            return None
        layers = LayerOutputs(model, names)
        size, half = self.run_args.per_device_eval_batch_size, bool(self.run_args.bf16)
        run = partial(predict, model, collator=self.collator, batch_size=size, autocast=half, layers=layers, keys=keys)
        token_bytes = sum(rows[0].nbytes for rows in run(windows=windows[:1]).values()) / len(windows[0])
        fits = token_bytes * sum(len(window) for window in windows) <= _MEMORY_LIMIT_BYTES
        if fits:
            log.info("running the teacher over %d windows", len(windows))
        with counting_bar("teacher") as progress:
            rows = run(windows=windows, progress=progress) if fits else {}
        layers.stop()
        return RememberedTeacher(rows, {name: rows.pop(name) for name in layers.names}) if fits else None

    def _finish(self, trainer: QuestionAnsweringTrainer, metrics: dict[str, float], seconds: float) -> dict[str, Any]:
        trained = self.run_args.do_train or self.model_args.one_shot
        if metrics:
            _write_json(self.folder / "eval_results.json", metrics)
        if not trained or not trainer.is_world_process_zero():
            return metrics
        trainer.save_model()
        trainer.save_state()
        report = build_report(trainer.session, metrics, seconds)
        _write_json(self.folder / "report.json", report)
        if report["missed"]:
            raise TrainingError("the recipe's targets were missed: " + "; ".join(report["missed"]))
        return self._export() if self.model_args.export else report

    def _export(self) -> dict[str, Any]:
        """Export, and return the report that says so."""
        from zoo.export import export

        known = (self.eval_set.examples or self.train_set.examples)[:32]
        count = self.model_args.num_export_samples
        with waiting("exporting"):
            path = export(
                self.folder,
                samples=[(e.question, e.context) for e in known],
                num_export_samples=count,
                max_length=self.data_args.max_seq_length,
            )
        log.info("exported to %s", path)
        report: dict[str, Any] = json.loads((path / "report.json").read_text(encoding="utf-8"))
        return report


class QuestionAnsweringTrainer(Trainer):
    """Evaluates by answering the validation questions: exact match and F1."""

    def __init__(self, *args: Any, run: Run, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.run = run

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Return eval_exact_match and eval_f1, and write eval_predictions.json and eval_nbest_predictions.json."""
        run, data = self.run, self.run.data_args
        started = time.monotonic()
        windows = [feature.window for feature in run.eval_set.features]
        with in_float32(self.model), counting_bar("evaluation") as progress:
            size = self.args.per_device_eval_batch_size
            logits = predict(self.model, windows, run.collator, size, progress=progress)
        best = answers_of(run.eval_set, logits, data)
        predictions = {example.id: found[0].text for example, found in zip(run.eval_set.examples, best, strict=True)}
        references = {example.id: [text for text, _ in example.answers] for example in run.eval_set.examples}
        metrics = {f"{metric_key_prefix}_{k}": v for k, v in squad_metrics(predictions, references).items()}
        metrics |= {
            f"{metric_key_prefix}_samples": len(references),
            f"{metric_key_prefix}_runtime": round(time.monotonic() - started, 1),
        }
        if self.is_world_process_zero():
            _write_json(run.folder / "eval_predictions.json", predictions)
            nbest = {e.id: [_plain(a) for a in found] for e, found in zip(run.eval_set.examples, best, strict=True)}
            _write_json(run.folder / "eval_nbest_predictions.json", nbest)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def answers_of(questions: Questions, logits: dict[str, list[torch.Tensor]], data: DataArguments) -> list[list[Answer]]:
    """Return the best answers of every example."""
    places: list[list[int]] = [[] for _ in questions.examples]
    for index, feature in enumerate(questions.features):
        places[feature.example].append(index)
    return [
        best_answers(
            [questions.features[i].window for i in mine],
            [logits["start_logits"][i].numpy() for i in mine],
            [logits["end_logits"][i].numpy() for i in mine],
            example.context,
            n_best=data.n_best_size,
            max_answer_length=data.max_answer_length,
            version_2_with_negative=data.version_2_with_negative,
            null_score_diff_threshold=data.null_score_diff_threshold,
        )
        for example, mine in zip(questions.examples, places, strict=True)
    ]


def _plain(answer: Answer) -> dict[str, Any]:
    return {"text": answer.text, "start": answer.start, "end": answer.end, "probability": answer.score}


def hub_examples(data: DataArguments, split: str) -> list[Example]:
    """Read a split with the `datasets` package. Raises TrainingError where that isn't installed or fails."""
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise TrainingError(
            "--dataset_name needs the datasets package: pip install datasets, or give --train_file and "
            "--validation_file with SQuAD JSON"
        ) from error
    try:
        rows = datasets.load_dataset(data.dataset_name, data.dataset_config_name, split=split)
    except Exception as error:
        raise TrainingError(f"--dataset_name {data.dataset_name} can't be loaded: {error}") from error
    try:
        return [_example(row) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"--dataset_name {data.dataset_name}, split {split}, isn't in the form of SQuAD ({error!r}): each row must "
            "have id, question, context and answers, which hold lists text and answer_start of one length"
        ) from error


def _example(row: Mapping[str, Any]) -> Example:
    answers = tuple(zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True))
    return Example(row["id"], row["question"], row["context"], answers)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
