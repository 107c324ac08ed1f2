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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.answers import Window, load_tokenizer, make_windows
from zoo.errors import TrainingError
from zoo.train.deploy import deployable
from zoo.train.fake_quantize import onnx_translations
from zoo.train.models import load_model
from zoo.train.quantization import quantized_modules

OPSET = 20
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("start_logits", "end_logits")
FLOAT_TOLERANCE = 1e-4
LEAST_AGREEMENT = 0.99
NEAR_TIE = 0.1  # of the range of a row's logits
ROUNDING_TOLERANCE = 0.1
_MASKED = -10000.0  # as a score; exp of it is 0 in float32
_COPIED = ("config.json", "tokenizer.json", "tokenizer_config.json", "recipe.yaml", "report.json")
_NEEDED = ("config.json", "tokenizer.json")
_SAMPLES = re.compile(r"sample-inputs/inp-\d{4,}\.npz|sample-outputs/out-\d{4,}\.npz")
_PLANS = ".sparrow"  # compiled beside the model by the engine, and again when they are absent
_SAMPLE_TEXTS = (
    ("What do sparse models skip?", "Sparse models skip the weights that are zero, so they run faster."),
    ("Who wrote it?", "It was written in 1843 by Ada Lovelace, who added notes to a paper on the engine."),
    ("Where does the river end?", "The river rises in the hills, crosses two counties and ends in the North Sea."),
)
Arrays = dict[str, NDArray[Any]]


def export(
    folder: Path | str,
    out: Path | str | None = None,
    task: str = "question_answering",
    *,
    samples: Sequence[tuple[str, str]] = (),
    num_export_samples: int = 0,
    max_length: int = 384,
    name: str = "model.onnx",
    overwrite: bool = False,
) -> Path:
    """Write `folder`'s model as ONNX with its tokenizer to `out` (default: folder/deployment) and return `out`.

    samples: (question, context) pairs on which ONNX Runtime must agree with PyTorch; a few of our own are
    added. num_export_samples of them are written beside the model. An existing `out` is replaced whole if it is
    empty or an earlier deployment; with overwrite, whatever it holds but the trained model.
    Raises TrainingError when the folder isn't complete, `out` may not be replaced, or the two disagree; then nothing
    is left behind.
    """
    folder, target = Path(folder), Path(out) if out is not None else Path(folder) / "deployment"
    if task not in ("question_answering", "question-answering", "qa"):
        raise TrainingError(f"task {task!r} can't be exported; question_answering can")
    for needed in _NEEDED:
        if not (folder / needed).is_file():
            raise TrainingError(f"{folder} has no {needed}; export needs a folder that training wrote")
    _check_target(target, folder, name, overwrite=overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".export-", dir=target.parent))
    try:
        work.chmod(0o755)
        _write(folder, work, samples, num_export_samples, max_length, name)
        _check_target(target, folder, name, overwrite=overwrite)  # again, for the export took minutes
        _put_in_place(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


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
    folder: Path, work: Path, samples: Sequence[tuple[str, str]], count: int, max_length: int, name: str
) -> None:
    model = load_model(folder)
    names = input_names(model)
    path = work / name
    to_onnx(model, names, path)
    for copied in _COPIED:
        if (folder / copied).is_file():
            shutil.copyfile(folder / copied, work / copied)
    limit = min(max_length, int(getattr(model.config, "max_position_embeddings", max_length)))
    windows = _sample_windows(folder, [*samples, *_SAMPLE_TEXTS], limit)
    checked = compare(model, path, [_feed(window, names) for window in windows])
    _write_samples(work, checked["pairs"][:count])
    _add_to_report(work / "report.json", {k: v for k, v in checked.items() if k != "pairs"})


def input_names(model: nn.Module) -> tuple[str, ...]:
    """Return which of the three inputs the model has."""
    with_types = int(getattr(model.config, "type_vocab_size", 0) or 0) > 0
    return INPUTS if with_types else INPUTS[:2]


class _QuestionAnswering(nn.Module):
    """Tensors in, tensors out; the mask is spread once, as a bias on the scores."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Any:
        bias = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * _MASKED
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        outputs = self.model(input_ids=input_ids, attention_mask=bias, **types)
        return outputs["start_logits"], outputs["end_logits"]


def to_onnx(model: nn.Module, names: Sequence[str], path: Path) -> None:
    """Write the model as one ONNX file: batch and sequence are free, quantized weights are int8."""
    wrapper = _QuestionAnswering(deployable(model)).eval()
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
            output_names=list(OUTPUTS),
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


def _sample_windows(folder: Path, texts: Sequence[tuple[str, str]], max_length: int) -> list[Window]:
    try:
        tokenizer = load_tokenizer(folder / "tokenizer.json")
        return [
            w for question, context in texts for w in make_windows(tokenizer, question, context, max_length=max_length)
        ]
    except ValueError as error:
        raise TrainingError(str(error)) from error


def _feed(window: Window, names: Sequence[str]) -> Arrays:
    values = {"input_ids": window.input_ids, "attention_mask": window.attention_mask, "token_type_ids": window.type_ids}
    return {name: values[name][None] for name in names}


def compare(model: nn.Module, path: Path, feeds: Sequence[Arrays]) -> dict[str, Any]:
    """Run every feed through PyTorch and ONNX Runtime.

    Returns the largest and the relative RMS difference of logits, the share of equal argmaxes, and the
    (feed, outputs) pairs. Raises TrainingError when a float model's logits differ by more than 1e-4; or when a
    quantized model, where one rounding that falls differently moves those after it, differs by more than a
    tenth of the logits' spread in RMS, or picks a clearly worse token in more than one row, and one of a hundred.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    pairs, rows = [], []
    for feed in feeds:
        with torch.inference_mode():
            outputs = model(**{name: torch.from_numpy(value) for name, value in feed.items()})
        theirs = session.run(list(OUTPUTS), feed)
        rows += [
            _agreement(outputs[name][0].float().numpy(), row[0]) for name, row in zip(OUTPUTS, theirs, strict=True)
        ]
        pairs.append((feed, dict(zip(OUTPUTS, theirs, strict=True))))
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


def _agreement(mine: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[float, float, bool, bool]:
    """Return the largest difference, RMS difference / standard deviation, same argmax, and argmax as good."""
    difference = mine - other
    spread = float(mine.max() - mine.min())
    relative = float(np.sqrt(np.square(difference).mean()) / max(float(mine.std()), 1e-12))
    worse = float(mine.max() - mine[other.argmax()])
    return float(np.abs(difference).max()), relative, worse == 0, worse <= NEAR_TIE * spread


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
