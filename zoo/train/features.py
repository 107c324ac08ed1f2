"""Questions as a model sees them: windows with the answer's tokens, in padded batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from zoo.answers import Example, Window, label_positions, make_windows, plain_tokenizer
from zoo.errors import TrainingError
from zoo.train.distillation import LayerOutputs, teacher_inputs

_MULTIPLE = 8
_LOGITS = ("start_logits", "end_logits")


@dataclass(frozen=True, slots=True)
class Feature:
    """One window of one question. `start` and `end` are the answer's first and last token, 0 without one."""

    example: int
    window: Window
    start: int = 0
    end: int = 0


def make_features(
    tokenizer: Tokenizer, examples: Sequence[Example], *, max_length: int, doc_stride: int, labels: bool
) -> list[Feature]:
    """Cut every question into windows; with `labels`, mark its first answer in each.

    Raises TrainingError naming the example when it can't be tokenized.
    """
    plain = plain_tokenizer(tokenizer)
    features = []
    for number, example in enumerate(examples):
        try:
            windows = make_windows(
                plain, example.question, example.context, max_length=max_length, doc_stride=doc_stride
            )
        except ValueError as error:
            raise TrainingError(f"example {number} (id {example.id!r}) can't be cut into windows: {error}") from error
        features += [Feature(number, window, *_span(window, example, labels)) for window in windows]
    return features


def _span(window: Window, example: Example, labels: bool) -> tuple[int, int]:
    if not labels or not example.answers:
        return 0, 0
    text, start = example.answers[0]
    return label_positions(window, start, start + len(text))


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
        return [len(feature.window) for feature in self.features]


@dataclass(frozen=True)
class Collator:
    """Rows to a padded batch of int64 tensors: the model's inputs, the answer's positions, `feature_index`.

    Padded to the longest row, rounded up to 8, or to `length` if that is given.
    """

    pad_id: int
    with_types: bool
    length: int | None = None

    def __call__(self, rows: Iterable[dict[str, Any]]) -> dict[str, Tensor]:
        """Return input_ids, attention_mask, token_type_ids [batch, length]; the others [batch]."""
        rows = list(rows)
        features: list[Feature] = [row["feature"] for row in rows]
        batch = self.inputs([feature.window for feature in features])
        batch["start_positions"] = torch.tensor([feature.start for feature in features])
        batch["end_positions"] = torch.tensor([feature.end for feature in features])
        batch["feature_index"] = torch.tensor([row["feature_index"] for row in rows])
        return batch

    def inputs(self, windows: Sequence[Window]) -> dict[str, Tensor]:
        """Return the model's inputs for some windows."""
        longest = max(len(window) for window in windows)
        length = max(self.length or 0, longest if self.length else longest + -longest % _MULTIPLE)
        batch = {
            "input_ids": _stack([w.input_ids for w in windows], length, self.pad_id),
            "attention_mask": _stack([w.attention_mask for w in windows], length, 0),
        }
        if self.with_types:
            batch["token_type_ids"] = _stack([w.type_ids for w in windows], length, 0)
        return batch


def _stack(rows: Sequence[NDArray[np.int64]], length: int, fill: int) -> Tensor:
    batch = torch.full((len(rows), length), fill, dtype=torch.int64)
    for target, row in zip(batch, rows, strict=True):
        target[: len(row)] = torch.from_numpy(row)
    return batch


def batches_by_length(windows: Sequence[Window], size: int) -> Iterator[list[int]]:
    """Yield the indices of all windows in batches of like lengths, longest first."""
    order = sorted(range(len(windows)), key=lambda i: -len(windows[i]))
    for first in range(0, len(order), size):
        yield order[first : first + size]


def predict(
    model: nn.Module,
    windows: Sequence[Window],
    collator: Collator,
    batch_size: int,
    *,
    autocast: bool = False,
    layers: LayerOutputs | None = None,
    keys: Sequence[str] | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, list[Tensor]]:
    """Return start_logits and end_logits of every window, float32 [its length] on the CPU, without gradients.

    With `layers`, which watch the model, also what each gave, by its name, [its length, ...]. With `keys`, the model
    is given those inputs alone. `progress` is called with the windows that are done, and all.
    """
    names = () if layers is None else layers.names
    rows: dict[str, list[Tensor]] = {key: [torch.empty(0)] * len(windows) for key in (*_LOGITS, *names)}
    was_training = model.training
    model.eval()
    device, done = next(model.parameters()).device, 0
    for chosen in batches_by_length(windows, batch_size):
        inputs = teacher_inputs(collator.inputs([windows[i] for i in chosen]), keys)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            outputs = model(**{name: value.to(device) for name, value in inputs.items()})
        for key, target in rows.items():
            found = outputs[key].float() if layers is None or key in _LOGITS else layers[key]
            found = found.cpu()
            for row, index in zip(found, chosen, strict=True):
                target[index] = row[: len(windows[index])].clone()
        done += len(chosen)
        progress(done, len(windows))
    model.train(was_training)
    return rows
