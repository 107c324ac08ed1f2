"""One run of `zoo train`, whatever the task: from flags to a deployment folder."""

from __future__ import annotations

import copy
import json
import logging
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed

from zoo.errors import TrainingError, ZooError
from zoo.modifiers import DistillationModifier, PerLayerDistillationModifier
from zoo.terminal import Output, counting_bar, waiting
from zoo.train.allocator import keep_freed_memory
from zoo.train.arguments import DataArguments, ModelArguments, RunArguments, check_output, parse
from zoo.train.distillation import LayerOutputs, ModelTeacher, RememberedTeacher, Teacher
from zoo.train.dropout import set_dropout, use_byte_dropout
from zoo.train.features import Collator, Feature, Features, predict
from zoo.train.models import inherited_quantization, load_tokenizer, tells_types_apart
from zoo.train.quantization import ATTENTION
from zoo.train.report import build_report
from zoo.train.sources import recipe_of, training_folder
from zoo.train.trainer import Trainer, given_checkpoint, in_float32, last_checkpoint

log = logging.getLogger("zoo.train")
_MEMORY_LIMIT_BYTES = 2**30  # of a teacher's remembered outputs
_EXPORT_SAMPLES = 32

DataT = TypeVar("DataT", bound=DataArguments)
ExampleT = TypeVar("ExampleT")


def train(task: type[Run[Any, Any]], argv: Sequence[str]) -> int:
    """Run the command line of a task; return its exit code. The report goes to stdout, all else to stderr."""
    _log_to_stderr()
    keep_freed_memory()
    try:
        run = task.of(argv)
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
        zoo_log.addHandler(_StderrHandler())


class _StderrHandler(logging.Handler):
    """Writes to what standard error is by then: who calls `main` twice may have put another in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.format(record)}\n")
        sys.stderr.flush()


@dataclass
class Split(Generic[ExampleT]):
    """Examples, and the model's inputs made of them; none where the run doesn't need the split."""

    examples: list[ExampleT] = field(default_factory=list)
    features: list[Feature] = field(default_factory=list)


class Run(ABC, Generic[DataT, ExampleT]):
    """One training run. A task says what its data are, which model it takes, and how it is judged."""

    task: ClassVar[str]  # as zoo.export names it
    flags: ClassVar[type[DataArguments]]
    label_names: ClassVar[tuple[str, ...]]  # the model's arguments that say what it should give

    def __init__(self, model: ModelArguments, data: DataT, run: RunArguments) -> None:
        self.model_args, self.data_args, self.run_args = model, data, run
        self.folder = Path(str(run.output_dir))
        self.train_set, self.eval_set = Split[ExampleT](), Split[ExampleT]()

    @classmethod
    def of(cls, argv: Sequence[str]) -> Self:
        """Return the run that flags describe. Raises FlagsError."""
        flags: Any = cls.flags
        return cls(*parse(argv, flags))

    @abstractmethod
    def read(self, file: str | None, split: str) -> list[ExampleT]:
        """Read "train" or "validation": the file, or what the flags name instead. Raises TrainingError."""

    @abstractmethod
    def load_student(self, folder: Path, teacher: Path | None) -> PreTrainedModel:
        """Load the model to train; the data are read by then. `teacher`: the folder of the model that teaches it."""

    @abstractmethod
    def load_teacher(self, folder: Path) -> PreTrainedModel:
        """Load the model that teaches."""

    @abstractmethod
    def make_features(self, examples: Sequence[ExampleT], *, labels: bool) -> list[Feature]:
        """Return the model's inputs for the examples, with what it should say if `labels`. Raises TrainingError."""

    @abstractmethod
    def judge(self, outputs: Mapping[str, Sequence[Tensor]]) -> tuple[dict[str, float], dict[str, Any]]:
        """Return metrics for what the model gives for all validation features, and files that tell of it, as JSON."""

    @abstractmethod
    def texts(self, example: ExampleT) -> tuple[str, ...]:
        """Return what the model is asked with."""

    def go(self) -> dict[str, Any]:
        """Train, evaluate, report and export, as the flags say; return the report, or the metrics without training.

        Raises ZooError.
        """
        resumed = self._resume_point()
        check_output(self.run_args, resuming=resumed is not None)
        set_seed(self.run_args.seed)
        self._read()
        self._load()
        self._tokenize()
        self.folder.mkdir(parents=True, exist_ok=True)
        trainer = self._trainer()
        started = time.monotonic()
        if self.run_args.do_train:
            trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
        elif self.model_args.one_shot:
            trainer.apply_once()
        metrics = trainer.evaluate() if self.run_args.do_eval else {}
        return self._finish(trainer, metrics, time.monotonic() - started)

    @property
    def changes_model(self) -> bool:
        """Whether the run trains, or applies a recipe at once: it needs training data then."""
        return self.run_args.do_train or self.model_args.one_shot

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

    def _read(self) -> None:
        data = self.data_args
        if self.changes_model:
            self.train_set.examples = self.read(data.train_file, "train")[: data.max_train_samples]
        if self.run_args.do_eval:
            self.eval_set.examples = self.read(data.validation_file, "validation")[: data.max_eval_samples]

    def _load(self) -> None:
        cache = self.model_args.cache_dir
        base = training_folder(self.model_args.model_name_or_path, cache)
        self.recipe = recipe_of(self.model_args.recipe, self.model_args.recipe_args, cache)
        for finding in self.recipe.lint() if self.model_args.recipe else []:
            log.info("recipe: %s", finding)
        if self.run_args.load_best_model_at_end and self.recipe.modifiers:
            raise TrainingError("--load_best_model_at_end would undo what the recipe does later; leave it out")
        self.teacher_folder = self._find_teacher()
        self.model = self.load_student(base, self.teacher_folder)
        self.model.set_attn_implementation(ATTENTION)
        if self.model_args.dropout is not None:
            set_dropout(self.model, self.model_args.dropout)
        chosen = self.model_args.tokenizer_name
        self.tokenizer = load_tokenizer(base if chosen is None else training_folder(chosen, cache))
        self.plain: Tokenizer = self.tokenizer.backend_tokenizer
        self.inherited = inherited_quantization(base, self.model, self.recipe)
        limit = int(getattr(self.model.config, "max_position_embeddings", self.data_args.max_seq_length))
        if self.data_args.max_seq_length > limit:
            raise TrainingError(f"--max_seq_length is {self.data_args.max_seq_length}; the model takes at most {limit}")
        if self.model_args.byte_dropout and self.run_args.device.type == "cpu":
            use_byte_dropout(self.model)
        self.collator = Collator(
            pad_id=int(self.tokenizer.pad_token_id or 0),
            with_types=tells_types_apart(self.model),
            length=self.data_args.max_seq_length if self.data_args.pad_to_max_length else None,
        )

    def _tokenize(self) -> None:
        for name, split, labels in (("train", self.train_set, True), ("validation", self.eval_set, False)):
            split.features = self.make_features(split.examples, labels=labels)
            if split.examples:
                log.info("%s: %d examples, %d inputs", name, len(split.examples), len(split.features))

    def _trainer(self) -> EvaluatingTrainer:
        features = Features(self.train_set.features)
        args = self.run_args
        args.remove_unused_columns = False
        args.label_names = list(self.label_names)
        return EvaluatingTrainer(
            run=self,
            model=self.model,
            args=args,
            train_dataset=features,
            eval_dataset=Features(self.eval_set.features) if self.eval_set.features else None,
            data_collator=self.collator,
            processing_class=self.tokenizer,
            recipe=self.recipe,
            inherited=self.inherited,
            teacher=self._teacher(),
            lengths=features.lengths if self.data_args.group_by_length else None,
        )

    @property
    def _taught_layers(self) -> list[str]:
        return [name for m in self.recipe.of_type(PerLayerDistillationModifier) for name in m.teacher_layer_names]

    @property
    def _taught_keys(self) -> set[tuple[str, ...] | None]:
        """What the teacher is asked with, by each modifier that asks it for outputs."""
        return {m.teacher_input_keys for m in self.recipe.of_type(DistillationModifier) if m.hardness > 0}

    @property
    def _is_taught(self) -> bool:
        distils = bool(self._taught_layers or self._taught_keys)
        return distils and self.run_args.do_train and self.model_args.distill_teacher != "disable"

    def _find_teacher(self) -> Path | None:
        """Return the folder of the teacher; None where there is none, or the model teaches itself."""
        named = self.model_args.distill_teacher
        if not self._is_taught or named == "self":
            return None
        if named is None:
            raise TrainingError("the recipe distils: name a teacher by --distill_teacher FOLDER, self or disable")
        return training_folder(named, self.model_args.cache_dir)

    def _teaching_model(self) -> nn.Module:
        folder = self.teacher_folder
        if folder is None:
            return copy.deepcopy(self.model)
        model = self.load_teacher(folder)
        model.set_attn_implementation(ATTENTION)
        if load_tokenizer(folder).get_vocab() != self.tokenizer.get_vocab():
            raise TrainingError(
                f"the teacher in {folder} has another vocabulary than the student; both must read the same tokens"
            )
        return model

    def _teacher(self) -> Teacher | None:
        if not self._is_taught:
            return None
        layers, keys = self._taught_layers, self._taught_keys
        model = self._teaching_model().to(self.run_args.device)
        asked_alike = len(keys) <= 1 and self.model_args.remember_teacher
        remembered = self._remembered(model, layers, next(iter(keys), None)) if asked_alike else None
        return remembered or ModelTeacher(model)

    def _remembered(self, model: nn.Module, names: Sequence[str], keys: Sequence[str] | None) -> Teacher | None:
        """Run the teacher once over the data, if all that it and these layers give fits into memory."""
        rows = [feature.tokens for feature in self.train_set.features]
        if not rows:
            return None
        layers = LayerOutputs(model, names)
        size, half = self.run_args.per_device_eval_batch_size, bool(self.run_args.bf16)
        run = partial(predict, model, collator=self.collator, batch_size=size, autocast=half, layers=layers, keys=keys)
        token_bytes = sum(given[0].nbytes for given in run(rows=rows[:1]).values()) / len(rows[0])
        fits = token_bytes * sum(len(row) for row in rows) <= _MEMORY_LIMIT_BYTES
        if fits:
            log.info("running the teacher over %d inputs", len(rows))
        with counting_bar("teacher") as progress:
            found = run(rows=rows, progress=progress) if fits else {}
        layers.stop()
        return RememberedTeacher(found, {name: found.pop(name) for name in layers.names}) if fits else None

    def _finish(self, trainer: EvaluatingTrainer, metrics: dict[str, float], seconds: float) -> dict[str, Any]:
        if metrics:
            _write_json(self.folder / "eval_results.json", metrics)
        if not self.changes_model or not trainer.is_world_process_zero():
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

        known = (self.eval_set.examples or self.train_set.examples)[:_EXPORT_SAMPLES]
        with waiting("exporting"):
            path = export(
                self.folder,
                task=self.task,
                samples=[self.texts(example) for example in known],
                num_export_samples=self.model_args.num_export_samples,
                max_length=self.data_args.max_seq_length,
            )
        log.info("exported to %s", path)
        report: dict[str, Any] = json.loads((path / "report.json").read_text(encoding="utf-8"))
        return report


class EvaluatingTrainer(Trainer):
    """Evaluates by how the task judges all that the model gives for the validation data."""

    def __init__(self, *args: Any, run: Run[Any, Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.run = run

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Return the task's metrics, prefixed by eval_, and write its files about them."""
        run, started = self.run, time.monotonic()
        rows = [feature.tokens for feature in run.eval_set.features]
        with in_float32(self.model), counting_bar("evaluation") as progress:
            size = self.args.per_device_eval_batch_size
            outputs = predict(self.model, rows, run.collator, size, progress=progress)
        judged, documents = run.judge(outputs)
        chosen = str(self.args.metric_for_best_model).removeprefix("eval_")
        if self.args.load_best_model_at_end and chosen not in judged:
            raise TrainingError(f"--metric_for_best_model {chosen}: with these labels there is {', '.join(judged)}")
        metrics = {f"{metric_key_prefix}_{key}": value for key, value in judged.items()}
        metrics |= {
            f"{metric_key_prefix}_samples": len(run.eval_set.examples),
            f"{metric_key_prefix}_runtime": round(time.monotonic() - started, 1),
        }
        for name, document in documents.items() if self.is_world_process_zero() else ():
            _write_json(run.folder / name, document)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
