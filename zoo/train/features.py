"""Texts as a model sees them: token rows with their labels, in padded batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.train.distillation import IGNORED, LayerOutputs, float_outputs, has_positions, teacher_inputs

_MULTIPLE = 8


class Tokens(Protocol):
    """One model input of n tokens, unpadded: int64 [n] each."""

    @property
    def input_ids(self) -> NDArray[np.int64]:
        """Ids of tokens."""

    @property
    def attention_mask(self) -> NDArray[np.int64]:
        """1 for each token."""

    @property
    def type_ids(self) -> NDArray[np.int64]:
        """0, or 1 in the second text of a pair."""

    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Feature:
    """One input made of example number `example`, and what the model should say: its arguments, by name.

    An argument is a number, or has one for each of the n tokens, int64 [n], IGNORED where nothing is said.
    """

    example: int
    tokens: Tokens
    labels: Mapping[str, int | NDArray[np.int64]]


class Features(torch.utils.data.Dataset[dict[str, Any]]):
    """A list of features as a data set; each row knows its place in it."""

    def __init__(self, features: Sequence[Feature]) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"feature_index": index, "feature": self.features[index]}

    @property
    def lengths(self) -> list[int]:
        """Tokens of each feature."""
        return [len(feature.tokens) for feature in self.features]


@dataclass(frozen=True)
class Collator:
    """Rows to a padded batch of int64 tensors: the model's inputs, its labels, `feature_index`.

    Padded to the longest row, rounded up to 8, or to `length` if that is given.
    """

    pad_id: int
    with_types: bool
    length: int | None = None

    def __call__(self, rows: Iterable[dict[str, Any]]) -> dict[str, Tensor]:
        """Return input_ids, attention_mask, token_type_ids and labels of tokens [batch, length]; the others [batch]."""
        rows = list(rows)
        features: list[Feature] = [row["feature"] for row in rows]
        batch = self.inputs([feature.tokens for feature in features])
        for name in features[0].labels:
            batch[name] = _labels([feature.labels[name] for feature in features], batch["input_ids"].shape[1])
        batch["feature_index"] = torch.tensor([row["feature_index"] for row in rows])
        return batch

    def inputs(self, rows: Sequence[Tokens]) -> dict[str, Tensor]:
        """Return the model's inputs for some rows of tokens."""
        longest = max(len(row) for row in rows)
        length = max(self.length or 0, longest if self.length else longest + -longest % _MULTIPLE)
        batch = {
            "input_ids": _stack([row.input_ids for row in rows], length, self.pad_id),
            "attention_mask": _stack([row.attention_mask for row in rows], length, 0),
        }
        if self.with_types:
            batch["token_type_ids"] = _stack([row.type_ids for row in rows], length, 0)
        return batch


def _labels(values: Sequence[int | NDArray[np.int64]], length: int) -> Tensor:
    rows = [value for value in values if not isinstance(value, int)]
    return _stack(rows, length, IGNORED) if rows else torch.tensor(values)


def _stack(rows: Sequence[NDArray[np.int64]], length: int, fill: int) -> Tensor:
    batch = torch.full((len(rows), length), fill, dtype=torch.int64)
    for target, row in zip(batch, rows, strict=True):
        target[: len(row)] = torch.from_numpy(row)
    return batch


def batches_by_length(rows: Sequence[Tokens], size: int) -> Iterator[list[int]]:
    """Yield the indices of all rows in batches of like lengths, longest first."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    for first in range(0, len(order), size):
        yield order[first : first + size]


def predict(
    model: nn.Module,
    rows: Sequence[Tokens],
    collator: Collator,
    batch_size: int,
    *,
    autocast: bool = False,
    layers: LayerOutputs | None = None,
    keys: Sequence[str] | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, list[Tensor]]:
    """Return what the model gives for every row, by output: float32 on the CPU, without gradients and padding.

    An output has a value for each of the row's tokens, [its length, ...], or is that of classes, [classes]. With
    `layers`, which watch the model, also what each gave, by its name. With `keys`, the model is given those inputs
    alone. `progress` is called with the rows that are done, and all.
    """
    found: dict[str, list[Tensor]] = {}
    was_training = model.training
    model.eval()
    device, done = next(model.parameters()).device, 0
    for chosen in batches_by_length(rows, batch_size):
        inputs = teacher_inputs(collator.inputs([rows[i] for i in chosen]), keys)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            outputs = model(**{name: value.to(device) for name, value in inputs.items()})
        for name, value, padded in _outputs(outputs, layers):
            target = found.setdefault(name, [torch.empty(0)] * len(rows))
            for row, index in zip(value.cpu(), chosen, strict=True):
                target[index] = (row[: len(rows[index])] if padded else row).clone()
        done += len(chosen)
        progress(done, len(rows))
    model.train(was_training)
    return found


def _outputs(outputs: Any, layers: LayerOutputs | None) -> Iterator[tuple[str, Tensor, bool]]:
    """Yield each output's and each layer's name, its value [batch, ...], and whether that has positions."""
    for name, value in float_outputs(outputs).items():
        yield name, value.float(), has_positions(name, value.ndim)
    if layers is not None:
        yield from ((name, layers[name], layers[name].ndim > 2) for name in layers.names)
