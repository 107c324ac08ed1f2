"""A trained folder into a deployment folder: model.onnx with all that serving needs, checked before it appears.

deployment/  model.onnx  config.json  tokenizer.json  tokenizer_config.json  recipe.yaml  report.json
             sample-inputs/inp-0000.npz  sample-outputs/out-0000.npz
"""

from __future__ import annotations

import gc
import json
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from zoo import answers, texts
from zoo.agreement import CLASS_LOGITS, Spread, measures
from zoo.answers import make_windows
from zoo.errors import TrainingError
from zoo.texts import text_rows
from zoo.train.deploy import deployable
from zoo.train.fake_quantize import onnx_translations
from zoo.train.features import Tokens
from zoo.train.models import load_model, tells_types_apart
from zoo.train.quantization import quantized_modules

OPSET = 20
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
FLOAT_TOLERANCE = 1e-4
LEAST_AGREEMENT = 0.99
NEAR_TIE = 0.1  # of the range of the logits
ROUNDING_TOLERANCE = 0.1
_MASKED = -10000.0  # as a score; exp of it is 0 in float32
_COPIED = ("config.json", "tokenizer.json", "tokenizer_config.json", "recipe.yaml", "report.json")
_NEEDED = ("config.json", "tokenizer.json")
_SAMPLES = re.compile(r"sample-inputs/inp-\d{4,}\.npz|sample-outputs/out-\d{4,}\.npz")
_PLANS = ".sparrow"  # compiled beside the model by the engine, and again when they are absent
Arrays = dict[str, NDArray[Any]]


class Task(NamedTuple):
    """A kind of model: how configs call it, its class in transformers, its outputs, how texts become its inputs."""

    name: str
    aliases: tuple[str, ...]
    ending: str  # of its architecture
    loader: Any
    outputs: tuple[str, ...]
    rows: Callable[[Tokenizer, Sequence[tuple[str, ...]], int], Sequence[Tokens]]
    length: int  # tokens of a row, where nobody says
    texts: tuple[tuple[str, ...], ...]  # of our own, to compare with


def _windows(tokenizer: Tokenizer, texts: Sequence[tuple[str, ...]], length: int) -> Sequence[Tokens]:
    return [w for question, context in texts for w in make_windows(tokenizer, question, context, max_length=length)]


def _rows(tokenizer: Tokenizer, texts: Sequence[tuple[str, ...]], length: int) -> Sequence[Tokens]:
    return text_rows(tokenizer, texts, max_length=length)


TASKS = (
    Task(
        name="question_answering",
        aliases=("qa",),
        ending="ForQuestionAnswering",
        loader=AutoModelForQuestionAnswering,
        outputs=("start_logits", "end_logits"),
        rows=_windows,
        length=answers.MAX_LENGTH,
        texts=(
            ("What do sparse models skip?", "Sparse models skip the weights that are zero, so they run faster."),
            ("Who wrote it?", "It was written in 1843 by Ada Lovelace, who added notes to a paper on the engine."),
            ("Where does it end?", "The river rises in the hills, crosses two counties and ends in the North Sea."),
        ),
    ),
    Task(
        name="text_classification",
        aliases=("glue", "sentiment_analysis", "sequence_classification"),
        ending="ForSequenceClassification",
        loader=AutoModelForSequenceClassification,
        outputs=(CLASS_LOGITS,),
        rows=_rows,
        length=texts.MAX_LENGTH,
        texts=(
            ("A warm and funny film that I would gladly see again.",),
            ("The plot is thin, the jokes are old, and it lasts far too long.",),
            ("It was written in 1843 by Ada Lovelace, who added notes to a paper on the engine.",),
        ),
    ),
    Task(
        name="token_classification",
        aliases=("ner",),
        ending="ForTokenClassification",
        loader=AutoModelForTokenClassification,
        outputs=(CLASS_LOGITS,),
        rows=_rows,
        length=texts.MAX_WORDS_LENGTH,
        texts=(
            ("Ada Lovelace was born in London and worked with Charles Babbage .",),
            ("The river rises in the hills , crosses two counties and ends in the North Sea .",),
            ("On Monday the company opened an office in Geneva .",),
        ),
    ),
)


def export(
    folder: Path | str,
    out: Path | str | None = None,
    task: str | None = None,
    *,
    samples: Sequence[tuple[str, ...]] = (),
    num_export_samples: int = 0,
    max_length: int | None = None,
    name: str = "model.onnx",
    overwrite: bool = False,
) -> Path:
    """Write `folder`'s model as ONNX with its tokenizer to `out` (default: folder/deployment) and return `out`.

    task: one of TASKS or an alias of it; what the model's config says by default. samples: texts on which ONNX Runtime
    must agree with PyTorch, (question, context), or one text or two to classify, or one whose words are; a few of our
    own are added. num_export_samples of them are written beside the model. max_length: tokens of a sample, default
    384, or 128 to classify texts, 256 for words. An existing `out` is replaced whole if it is empty or an earlier
    deployment; with overwrite, whatever it holds but the trained model.
    Raises TrainingError when the folder isn't complete or its model is none of these tasks', `out` may not be replaced,
    or the two disagree; then nothing is left behind.
    """
    folder, target = Path(folder), Path(out) if out is not None else Path(folder) / "deployment"
    for needed in _NEEDED:
        if not (folder / needed).is_file():
            raise TrainingError(f"{folder} has no {needed}; export needs a folder that training wrote")
    kind = task_of(folder, task)
    _check_target(target, folder, name, overwrite=overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".export-", dir=target.parent))
    try:
        work.chmod(0o755)
        _write(kind, folder, work, samples, num_export_samples, max_length or kind.length, name)
        _check_target(target, folder, name, overwrite=overwrite)  # again, for the export took minutes
        _put_in_place(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def task_of(folder: Path, asked: str | None) -> Task:
    """Return the task that the folder's model was trained for, by its config's architectures.

    Raises TrainingError where it is none of TASKS, or another one than asked for.
    """
    known = ", ".join(task.name for task in TASKS)
    wanted = None if asked is None else re.sub(r"[-_\s]+", "_", asked.strip()).lower()
    named = next((task for task in TASKS if wanted in (task.name, *task.aliases)), None)
    if asked is not None and named is None:
        raise TrainingError(f"task {asked!r} can't be exported; known are {known}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architectures = [str(one) for one in config.get("architectures") or ()]
    except (ValueError, AttributeError, TypeError) as error:
        raise TrainingError(f"{folder / 'config.json'} is no config of a model: {error}") from error
    found = next((task for task in TASKS if any(one.endswith(task.ending) for one in architectures)), None)
    if found is None and (named is None or architectures):
        held = f"a {', '.join(architectures)}" if architectures else "a model that its config.json doesn't name"
        raise TrainingError(f"{folder} holds {held}; models for one of {known} can be exported")
    if named is not None and found is not None and named is not found:
        raise TrainingError(f"{folder} holds a model for {found.name}, not for {named.name}")
    return named or found or TASKS[0]


def _check_target(target: Path, folder: Path, name: str, *, overwrite: bool) -> None:
    """Raise TrainingError unless `target` is absent or a folder whose files may be lost."""
    if not target.exists():
        return
    if not target.is_dir():
        raise TrainingError(f"{target} is a file; the deployment folder can't replace it")
    source = [folder, *(path for path in folder.iterdir() if path.is_file())]
    if any(path.resolve().is_relative_to(target.resolve()) for path in source):
        raise TrainingError(f"{target} holds the trained model of {folder}; give another folder to --out")
    lost = None if overwrite else _lost_with(target, name)
    if lost:
        raise TrainingError(
            f"{target} {lost}, so it isn't an earlier deployment, and all in it would be lost; "
            "give another folder to --out, or --overwrite"
        )


def _lost_with(target: Path, name: str) -> str | None:
    """Return what tells a folder from an empty one and from one that `export` wrote."""
    found = {
        path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    written = {name, *_COPIED}
    for path in sorted(found - written):
        if not (_SAMPLES.fullmatch(path) or path.startswith(f"{_PLANS}/")):
            return f"holds {path}"
    return f"has no {name} with its report.json" if found and not {name, "report.json"} <= found else None


def _put_in_place(work: Path, target: Path) -> None:
    """Replace `target` by `work`; the old folder is moved aside first, and removed last."""
    if not target.exists():
        work.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=".replaced-", dir=target.parent))
    target.rename(aside / "old")
    work.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


def _write(
    task: Task,
    folder: Path,
    work: Path,
    samples: Sequence[tuple[str, ...]],
    count: int,
    max_length: int,
    name: str,
) -> None:
    model = load_model(folder, architecture=task.loader)
    names = input_names(model)
    path = work / name
    to_onnx(model, names, path, task.outputs)
    for copied in _COPIED:
        if (folder / copied).is_file():
            shutil.copyfile(folder / copied, work / copied)
    limit = min(max_length, int(getattr(model.config, "max_position_embeddings", max_length)))
    try:
        rows = task.rows(answers.load_tokenizer(folder / "tokenizer.json"), [*samples, *task.texts], limit)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    checked = compare(model, path, [_feed(row, names) for row in rows], task.outputs)
    _write_samples(work, checked["pairs"][:count])
    _add_to_report(work / "report.json", {k: v for k, v in checked.items() if k != "pairs"})


def input_names(model: nn.Module) -> tuple[str, ...]:
    """Return which of the three inputs the model has."""
    return INPUTS if tells_types_apart(model) else INPUTS[:2]


class _Plain(nn.Module):
    """Tensors in, tensors out; the mask is spread once, as a bias on the scores."""

    def __init__(self, model: nn.Module, outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.outputs = model, tuple(outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Any:
        bias = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * _MASKED
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        outputs = self.model(input_ids=input_ids, attention_mask=bias, **types)
        return tuple(outputs[name] for name in self.outputs)


def to_onnx(model: nn.Module, names: Sequence[str], path: Path, outputs: Sequence[str]) -> None:
    """Write the model as one ONNX file: batch and sequence are free, quantized weights are int8."""
    wrapper = _Plain(deployable(model), outputs).eval()
    example = {name: torch.ones(2, 16, dtype=torch.int64) for name in names}
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of packages that no text model needs
    with torch.no_grad(), warnings.catch_warnings(), _no_garbage_collection():
        warnings.simplefilter("ignore")  # of the exporter's internals; its result is checked
        program = torch.onnx.export(
            wrapper,
            (),
            kwargs=example,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(names),
            output_names=list(outputs),
            dynamic_shapes=dict.fromkeys(names, free),
            custom_translation_table=onnx_translations(),
            verbose=False,
        )
    if program is None:
        raise TrainingError("torch.onnx.export gave no model")
    program.save(str(path), external_data=False)
    onnx.checker.check_model(str(path), full_check=True)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """The exporter makes millions of objects that live to its end: looking for garbage among them is in vain."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _feed(row: Tokens, names: Sequence[str]) -> Arrays:
    values = {"input_ids": row.input_ids, "attention_mask": row.attention_mask, "token_type_ids": row.type_ids}
    return {name: values[name][None] for name in names}


def compare(model: nn.Module, path: Path, feeds: Sequence[Arrays], names: Sequence[str]) -> dict[str, Any]:
    """Run every feed through PyTorch and ONNX Runtime, and compare the outputs of these names.

    Returns the largest and the relative RMS difference of logits, the share of equal argmaxes, and the
    (feed, outputs) pairs. Raises TrainingError when a float model's logits differ by more than 1e-4; or when a
    quantized model, where one rounding that falls differently moves those after it, differs by more than a
    tenth of the logits' spread in RMS, or picks a clearly worse token or class in more than one row, and one of a
    hundred. A row is what one pick is made of: a sample's tokens, or the classes of it or of each of its tokens. See
    `zoo.agreement` for the spread.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    pairs, ours = [], []
    for feed in feeds:
        with torch.inference_mode():
            outputs = model(**{name: torch.from_numpy(value) for name, value in feed.items()})
        ours.append([outputs[name][0].float().numpy() for name in names])
        pairs.append((feed, dict(zip(names, session.run(list(names), feed), strict=True))))
    by_name = [measures(name, [Spread.of(found[i]) for found in ours]) for i, name in enumerate(names)]
    rows = [
        agreement
        for number, (found, (_, theirs)) in enumerate(zip(ours, pairs, strict=True))
        for mine, name, spreads in zip(found, names, by_name, strict=True)
        for agreement in _agreements(mine, theirs[name][0], spreads[number])
    ]
    largest, relative, equal, close = np.array(rows, np.float64).T
    facts = {
        "largest_difference": float(largest.max()),
        "relative_rms_difference": float(np.sqrt(np.square(relative).mean())),
        "argmax_agreement": float(equal.mean()),
        "samples": len(feeds),
    }
    quantized = any(True for _ in quantized_modules(model))
    fits = facts["relative_rms_difference"] <= ROUNDING_TOLERANCE if quantized else largest.max() <= FLOAT_TOLERANCE
    worse = int((~close.astype(bool)).sum())
    agrees = worse <= 1 + (1 - LEAST_AGREEMENT) * len(close)  # one row of a few dozen is within what chance does
    if not (np.isfinite(largest).all() and fits and agrees):
        raise TrainingError(f"the exported model differs from the trained one, so nothing was written: {facts}")
    return {**facts, "pairs": pairs}


def _agreements(
    mine: NDArray[np.float32], other: NDArray[np.float32], spread: Spread
) -> Iterator[tuple[float, float, bool, bool]]:
    """Yield, for each row, the largest difference, the relative RMS, same argmax, and argmax as good."""
    for row, theirs in zip(np.atleast_2d(mine), np.atleast_2d(other), strict=True):
        worse = float(row.max() - row[theirs.argmax()])
        largest = float(np.abs(row - theirs).max())
        yield largest, spread.relative_rms(theirs, row), worse == 0, worse <= NEAR_TIE * spread.range


def _write_samples(work: Path, pairs: Sequence[tuple[Arrays, Arrays]]) -> None:
    for number, (feed, outputs) in enumerate(pairs):
        for kind, prefix, arrays in (("sample-inputs", "inp", feed), ("sample-outputs", "out", outputs)):
            (work / kind).mkdir(exist_ok=True)
            np.savez(work / kind / f"{prefix}-{number:04d}.npz", **arrays)  # type: ignore[arg-type]  # keywords are arrays


def _add_to_report(path: Path, export_facts: Mapping[str, Any]) -> None:
    try:
        report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        report = {}
    report["export"] = dict(export_facts)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
