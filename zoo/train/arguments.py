"""The flags of `zoo train`: those of the Hugging Face example scripts and of SparseML, plus transformers' own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments

from zoo.errors import TrainingError

_RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
}
_HELP = "zoo train question-answering --help lists the flags"


def _flag(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """Which model, teacher and recipe."""

    model_name_or_path: str = field(metadata={"help": "folder or zoo: stub of the model to start from"})
    distill_teacher: str | None = _flag(None, "folder or zoo: stub of the teacher, or self, or disable")
    recipe: str | None = _flag(None, "recipe: a file, a zoo: stub, or the text itself")
    recipe_args: str | None = _flag(None, "variables of the recipe to replace: JSON, or k=v,k2=v2")
    tokenizer_name: str | None = _flag(None, "folder or zoo: stub of the tokenizer, if not the model's own")
    cache_dir: str | None = _flag(None, "where pulled models are kept; overrides ZOO_CACHE")
    one_shot: bool = _flag(False, "apply the recipe without training")
    remember_teacher: bool = _flag(True, "run the teacher once over the data, instead of once an epoch")
    byte_dropout: bool = _flag(True, "draw dropout masks one byte an element: faster on CPUs")
    dropout: float | None = _flag(None, "dropout rate instead of the model's own; 0 suits students of few weights")
    num_export_samples: int = _flag(0, "sample inputs and outputs to write beside the exported model")
    export: bool = _flag(True, "export to <output_dir>/deployment when training is done")
    config_name: str | None = _flag(None, "refused: a model is loaded with its own config")
    model_revision: str | None = _flag(None, "refused: pin a stub with @ instead")
    use_auth_token: bool = _flag(False, "accepted for old command lines; zoo auth login keeps the token")


@dataclass
class DataArguments:
    """Which questions, and how they are cut into windows."""

    dataset_name: str | None = _flag(None, "squad or another question-answering set of the datasets package")
    dataset_config_name: str | None = _flag(None, "its configuration")
    train_file: str | None = _flag(None, "SQuAD JSON, nested or flat")
    validation_file: str | None = _flag(None, "SQuAD JSON, nested or flat")
    test_file: str | None = _flag(None, "SQuAD JSON for --do_predict")
    overwrite_cache: bool = _flag(False, "accepted for old command lines; nothing is cached")
    preprocessing_num_workers: int | None = _flag(None, "accepted for old command lines; one process is enough")
    max_seq_length: int = _flag(384, "tokens of a window, question and context together")
    pad_to_max_length: bool = _flag(False, "pad every batch to max_seq_length instead of to its longest window")
    doc_stride: int = _flag(128, "tokens that neighbouring windows share")
    max_train_samples: int | None = _flag(None, "use only so many training questions")
    max_eval_samples: int | None = _flag(None, "use only so many validation questions")
    max_predict_samples: int | None = _flag(None, "use only so many test questions")
    version_2_with_negative: bool = _flag(False, "questions may have no answer, as in SQuAD 2")
    null_score_diff_threshold: float = _flag(0.0, "how much no answer must win by")
    n_best_size: int = _flag(20, "answers kept for each question in eval_nbest_predictions.json")
    max_answer_length: int = _flag(30, "longest answer, in tokens")
    group_by_length: bool = _flag(True, "batch windows of like lengths")


@dataclass
class RunArguments(TrainingArguments):
    """transformers' own flags."""

    overwrite_output_dir: bool = _flag(False, "train into a folder that isn't empty")
    best_model_after_epoch: float | None = _flag(None, "refused: the last model is the one that meets the recipe")

    def __post_init__(self) -> None:
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()  # or bf16 would be refused
        super().__post_init__()  # type: ignore[no-untyped-call]  # transformers is not annotated there
        self._n_gpu = min(self.n_gpu, 1)  # DataParallel's replicas would lose what ranges learn; torchrun's don't


Arguments = tuple[ModelArguments, DataArguments, RunArguments]


class FlagsError(TrainingError):
    """Flags are unknown, malformed or contradict each other."""

    exit_code = 2


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise FlagsError(f"{message}; {_HELP}")


def parse(argv: Sequence[str]) -> Arguments:
    """Parse flags, underscores and dashes alike, or one path of a JSON file that holds them.

    Raises FlagsError where flags are unknown, malformed or contradict each other.
    """
    kinds: Any = (ModelArguments, DataArguments, RunArguments)
    parser = _Parser(kinds, prog="zoo train question-answering")
    try:
        if len(argv) == 1 and argv[0].endswith(".json"):
            parsed: Any = parser.parse_dict(_read_flags(Path(argv[0])))
        else:
            parsed = parser.parse_args_into_dataclasses([_named(a) for a in argv], look_for_args_file=False)
    except (ValueError, OSError, TypeError) as error:
        raise FlagsError(f"the flags can't be used: {error}; {_HELP}") from error
    model, data, run = parsed
    _check(model, data, run)
    return model, data, run


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
    for flag, wanted, file in (
        ("--do_train", run.do_train or model.one_shot, data.train_file),
        ("--do_eval", run.do_eval, data.validation_file),
    ):
        if wanted and data.dataset_name is None and file is None:
            name = "--train_file" if flag == "--do_train" else "--validation_file"
            raise FlagsError(f"{flag} needs {name} or --dataset_name")
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
