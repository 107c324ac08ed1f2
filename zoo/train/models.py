"""Models from folders: pretrained ones, and trained ones with their quantization."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from zoo.errors import TrainingError
from zoo.modifiers import QuantizationModifier
from zoo.recipe import Recipe
from zoo.train.quantization import Scheme, quantize, quantized_modules, set_observing
from zoo.train.session import scheme_of

log = logging.getLogger("zoo.train")
WEIGHTS = "model.safetensors"
_QUANTIZERS = (".weight_quantizer.", ".input_quantizer.", ".output_quantizer.", ".attention_quantizers.")


@dataclass(frozen=True)
class Head:
    """What a classifier is to tell apart: labels by id, and whether the layer that gives them starts at random."""

    labels: tuple[str, ...]
    fresh: bool


def load_model(
    folder: Path, *, architecture: Any = AutoModelForQuestionAnswering, head: Head | None = None
) -> PreTrainedModel:
    """Load the model of a folder: config.json and model.safetensors, quantized again if it was saved so.

    Layers that the folder lacks, such as a new head, start at random, which the log says. `head` gives a classifier
    its labels. Raises TrainingError when the folder has no such files, or its weights don't fit.
    """
    if not (folder / WEIGHTS).is_file():
        raise TrainingError(f"{folder} has no {WEIGHTS}; it must be a folder with config.json and {WEIGHTS}")
    config = _config(folder)
    quantized = _quantizer_state(folder)
    if head is not None:
        config.id2label = dict(enumerate(head.labels))
        config.label2id = {label: index for index, label in enumerate(head.labels)}
        if architecture is AutoModelForSequenceClassification:  # which else guesses it from the labels' type
            config.problem_type = "single_label_classification"
    try:
        model: PreTrainedModel
        model, found = architecture.from_pretrained(
            folder,
            config=config,
            attn_implementation="eager",
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=head is not None and head.fresh,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise TrainingError(f"the model in {folder} can't be loaded: {error}") from error
    random = {name.rpartition(".")[0] for name in found["missing_keys"]}
    if head is not None and head.fresh:
        random |= _renew_head(model, {key for key, *_ in found["mismatched_keys"]}, folder)
    if random:
        log.info("starting at random: %s", ", ".join(sorted(random)))
    if quantized:
        _requantize(model, folder, quantized, random)
    model.train(False)
    return model


def tells_types_apart(model: nn.Module) -> bool:
    """Whether the model reads token_type_ids: one of a single type, as RoBERTa, has nothing to tell by them."""
    return int(getattr(model.config, "type_vocab_size", 0) or 0) > 1


def _config(folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise TrainingError(f"{folder} has no config.json; it must be a folder with config.json and {WEIGHTS}")
    quiet: Any = transformers_logging
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise TrainingError(f"the model in {folder} can't be loaded: {error}") from error


def labels_of(folder: Path, ending: str) -> tuple[str, ...] | None:
    """Return what the folder's model tells apart, by id; None where its kind has another ending.

    ending: such as ForSequenceClassification, of the name of its class. Raises as load_model.
    """
    config = _config(folder)
    if not any(name.endswith(ending) for name in config.architectures or ()):
        return None
    return tuple(str(config.id2label.get(index, f"LABEL_{index}")) for index in range(config.num_labels))


def _renew_head(model: PreTrainedModel, misfits: Collection[str], folder: Path) -> set[str]:
    """Draw anew the layer that gives the labels; return its name. Raises TrainingError if others don't fit."""
    inside = f"{model.base_model_prefix}."
    names: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module.out_features == model.num_labels and not name.startswith(inside):
            nn.init.normal_(module.weight, std=float(getattr(model.config, "initializer_range", 0.02)))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            names.add(name)
    if wrong := sorted(key for key in misfits if key.rpartition(".")[0] not in names):
        raise TrainingError(
            f"the model in {folder} can't be loaded: its config gives other shapes to {', '.join(wrong)}"
        )
    return names


def _quantizer_state(folder: Path) -> dict[str, Tensor]:
    try:
        with safetensors.safe_open(folder / WEIGHTS, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys() if any(part in f".{k}" for part in _QUANTIZERS)}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise TrainingError(f"{folder / WEIGHTS} can't be read: {error}") from error


def _requantize(model: PreTrainedModel, folder: Path, state: dict[str, Tensor], random: Collection[str]) -> None:
    """Repeat the quantization of the folder's recipe, and restore its ranges, but of layers that start at random."""
    path = folder / "recipe.yaml"
    if not path.is_file():
        raise TrainingError(f"{folder} holds a quantized model but no recipe.yaml that says how it was quantized")
    for modifier in Recipe.load(path).modifiers:
        if isinstance(modifier, QuantizationModifier):
            quantize(model, scheme_of(modifier))
    new = tuple(f"{name}." for name in random)
    state = {k: v for k, v in state.items() if not k.startswith(new)}
    mine = {k: v for k, v in model.state_dict().items() if any(part in f".{k}" for part in _QUANTIZERS)}
    shapes = {k: v.shape for k, v in mine.items() if not k.startswith(new)}
    stored = {k: v.shape for k, v in state.items()}
    if shapes != stored:
        wrong = ", ".join(sorted(k for k in shapes.keys() | stored.keys() if shapes.get(k) != stored.get(k))[:5])
        raise TrainingError(f"{path} doesn't describe how {folder / WEIGHTS} was quantized; they differ in {wrong}")
    model.load_state_dict(state, strict=False)
    set_observing(model, False)


def inherited_quantization(base: Path, model: nn.Module, recipe: Recipe) -> tuple[QuantizationModifier, ...]:
    """Return the quantization that the model loaded from `base` has already, if the recipe doesn't bring its own.

    Raises TrainingError where the recipe's own would quantize otherwise: grids that are there stay.
    """
    if not any(True for _ in quantized_modules(model)):
        return ()
    earlier, own = (r.of_type(QuantizationModifier) for r in (Recipe.load(base / "recipe.yaml"), recipe))
    if own:
        _check_same([scheme_of(m) for m in earlier], [scheme_of(m) for m in own], base)
        return ()
    now = {"start_epoch": -1.0, "disable_quantization_observer_epoch": None, "freeze_bn_stats_epoch": None}
    return tuple(modifier.model_copy(update=now) for modifier in earlier)


def _check_same(earlier: list[Scheme], own: list[Scheme], base: Path) -> None:
    if earlier == own:
        return
    pairs = [(asdict(a), asdict(b)) for a, b in zip(earlier, own, strict=False)]
    differing = ", ".join(dict.fromkeys(key for a, b in pairs for key in a if a[key] != b[key])) or "their number"
    raise TrainingError(
        f"the model in {base} is quantized already, and the recipe's QuantizationModifier differs in {differing}; "
        "leave it out to keep the model's own, or start from a model that isn't quantized"
    )


def load_tokenizer(folder: Path) -> Any:
    """Load the fast tokenizer of a folder. Raises TrainingError where there is none."""
    if not (folder / "tokenizer.json").is_file():
        raise TrainingError(f"{folder} has no tokenizer.json; only fast tokenizers are supported")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise TrainingError(f"the tokenizer in {folder} can't be loaded: {error}") from error
