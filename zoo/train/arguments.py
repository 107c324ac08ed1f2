"""The flags of `zoo train`: those of the Hugging Face example scripts and of SparseML, plus transformers' own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

import torch
from transformers import HfArgumentParser, TrainingArguments

from zoo.errors import TrainingError

_RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
}


def flag(default: Any, text: str) -> Any:
    """Return the field of a flag with its default and its line of help."""
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """Which model, teacher and recipe."""

    model_name_or_path: str = field(metadata={"help": "folder or zoo: stub of the model to start from"})
    distill_teacher: str | None = flag(None, "folder or zoo: stub of the teacher, or self, or disable")
    recipe: str | None = flag(None, "recipe: a file, a zoo: stub, or the text itself")
    recipe_args: str | None = flag(None, "variables of the recipe to replace: JSON, or k=v,k2=v2")
    tokenizer_name: str | None = flag(None, "folder or zoo: stub of the tokenizer, if not the model's own")
    cache_dir: str | None = flag(None, "where pulled models are kept; overrides ZOO_CACHE")
    one_shot: bool = flag(False, "apply the recipe without training")
    remember_teacher: bool = flag(True, "run the teacher once over the data, instead of once an epoch")
    byte_dropout: bool = flag(True, "draw dropout masks one byte an element: faster on CPUs")
    dropout: float | None = flag(None, "dropout rate instead of the model's own; 0 suits students of few weights")
    num_export_samples: int = flag(0, "sample inputs and outputs to write beside the exported model")
    export: bool = flag(True, "export to <output_dir>/deployment when training is done")
    config_name: str | None = flag(None, "refused: a model is loaded with its own config")
    model_revision: str | None = flag(None, "refused: pin a stub with @ instead")
    use_auth_token: bool = flag(False, "accepted for old command lines; zoo auth login keeps the token")
    use_fast_tokenizer: bool = flag(True, "accepted for old command lines; tokenizers are always fast ones")


@dataclass
class DataArguments:
    """Which data, and how long its inputs are. Each task adds its own flags, and says what its files hold."""

    command: ClassVar[str]  # of `zoo train`
    metrics: ClassVar[tuple[str, ...]]  # of an evaluation
    set_flags: ClassVar[tuple[str, ...]] = ("--dataset_name",)  # that name a set of the datasets package

    dataset_name: str | None = flag(None, "a set of the datasets package")
    dataset_config_name: str | None = flag(None, "its configuration")
    train_file: str | None = flag(None, "data to train on")
    validation_file: str | None = flag(None, "data to evaluate on")
    test_file: str | None = flag(None, "data for --do_predict")
    overwrite_cache: bool = flag(False, "accepted for old command lines; nothing is cached")
    preprocessing_num_workers: int | None = flag(None, "accepted for old command lines; one process is enough")
    max_seq_length: int = flag(384, "tokens of an input")
    pad_to_max_length: bool = flag(False, "pad every batch to max_seq_length instead of to its longest input")
    max_train_samples: int | None = flag(None, "use only so many training samples")
    max_eval_samples: int | None = flag(None, "use only so many validation samples")
    max_predict_samples: int | None = flag(None, "use only so many test samples")
    group_by_length: bool = flag(True, "batch inputs of like lengths")

    @property
    def named_set(self) -> tuple[str, str | None] | None:
        """The set of the datasets package that the flags name, and its configuration."""
        return None if self.dataset_name is None else (self.dataset_name, self.dataset_config_name)

    def check(self) -> None:
        """Raise FlagsError where flags of the task contradict each other."""


DataT = TypeVar("DataT", bound=DataArguments)


@dataclass
class RunArguments(TrainingArguments):
    """transformers' own flags."""

    overwrite_output_dir: bool = flag(False, "train into a folder that isn't empty")
    best_model_after_epoch: float | None = flag(None, "refused: the last model is the one that meets the recipe")

    def __post_init__(self) -> None:
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()  # or bf16 would be refused
        super().__post_init__()  # type: ignore[no-untyped-call]  # transformers is not annotated there
        self._n_gpu = min(self.n_gpu, 1)  # DataParallel's replicas would lose what ranges learn; torchrun's don't


class FlagsError(TrainingError):
    """Flags are unknown, malformed or contradict each other."""

    exit_code = 2


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise FlagsError(f"{message}; {self.prog} --help lists the flags")


def parse(argv: Sequence[str], data: type[DataT]) -> tuple[ModelArguments, DataT, RunArguments]:
    """Parse flags, underscores and dashes alike, or one path of a JSON file that holds them.

    data: the task's own flags. Raises FlagsError where flags are unknown, malformed or contradict each other.
    """
    kinds: Any = (ModelArguments, data, RunArguments)
    parser = _Parser(kinds, prog=f"zoo train {data.command}")
    try:
        if len(argv) == 1 and argv[0].endswith(".json"):
            parsed: Any = parser.parse_dict(_read_flags(Path(argv[0])))
        else:
            parsed = parser.parse_args_into_dataclasses([_named(a) for a in argv], look_for_args_file=False)
    except (ValueError, OSError, TypeError) as error:
        raise FlagsError(f"the flags can't be used: {error}; {parser.prog} --help lists the flags") from error
    _check(*parsed)
    model_arguments, data_arguments, run_arguments = parsed
    return model_arguments, data_arguments, run_arguments


def _read_flags(path: Path) -> dict[str, Any]:
    try:
        flags = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FlagsError(f"{path} isn't JSON: {error}") from error
    if not isinstance(flags, dict):
        raise FlagsError(f"{path} must hold one object, from the names of flags to their values")
    return flags


def _named(argument: str) -> str:
    """Give a flag its name of today: dashes become underscores."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    name = name.replace("-", "_")
    return f"--{_RENAMED.get(name, name)}{equals}{value}"


def _check(model: ModelArguments, data: DataArguments, run: RunArguments) -> None:
    for name in ("config_name", "model_revision"):
        if getattr(model, name) not in (None, "main"):
            raise FlagsError(f"--{name} is not supported: a model has its own config, a stub is pinned by @v3")
    if run.best_model_after_epoch is not None:
        raise FlagsError("--best_model_after_epoch is not supported: the last model is the one that meets the recipe")
    if not (run.do_train or run.do_eval or run.do_predict or model.one_shot):
        raise FlagsError("nothing to do: give --do_train, --do_eval, --do_predict or --one_shot")
    if run.do_predict:
        raise FlagsError("--do_predict is not supported: use --do_eval, or `zoo run` on the exported model")
    if run.output_dir is None:
        raise FlagsError("--output_dir is missing: the folder that the trained model is written to")
    if model.one_shot and run.do_train:
        raise FlagsError("--one_shot and --do_train exclude each other")
    for name, wanted, file in (
        ("--do_train", run.do_train or model.one_shot, data.train_file),
        ("--do_eval", run.do_eval, data.validation_file),
    ):
        if wanted and data.named_set is None and file is None:
            own = "--train_file" if name == "--do_train" else "--validation_file"
            raise FlagsError(f"{name} needs {' or '.join((own, *data.set_flags))}")
    if run.load_best_model_at_end and str(run.metric_for_best_model).removeprefix("eval_") not in data.metrics:
        raise FlagsError(f"--load_best_model_at_end needs --metric_for_best_model: {' or '.join(data.metrics)}")
    data.check()
    _check_ranges(model, data)


def _check_ranges(model: ModelArguments, data: DataArguments) -> None:
    if model.dropout is not None and not 0 <= model.dropout < 1:
        raise FlagsError(f"--dropout is {model.dropout:g}; it must be at least 0 and less than 1")
    for name in ("max_train_samples", "max_eval_samples"):
        if (count := getattr(data, name)) is not None and count < 1:
            raise FlagsError(f"--{name} is {count}; it must be 1 or more")


def check_output(run: RunArguments, *, resuming: bool) -> None:
    """Raise TrainingError when the output folder is none, or holds something that a new run would mix with."""
    folder = Path(str(run.output_dir))
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"{folder} is a file; --output_dir must be a folder")
    starts = run.do_train and not run.overwrite_output_dir and not resuming
    if starts and folder.exists() and any(folder.iterdir()):
        raise TrainingError(f"{folder} is not empty; choose another folder or give --overwrite_output_dir")
