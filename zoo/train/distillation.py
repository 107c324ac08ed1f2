"""Learning from a teacher's outputs.

The loss of one output is KL(student || teacher) at temperature T as SparseML defines it: the sum of
p_t * (log p_t - log p_s) over all positions, divided by the rows of the batch, times T squared.
Padded positions take no part: their logits are set so low, in both, that their probability is exactly zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.errors import TrainingError

Outputs = Mapping[str, Tensor]
_NOT_FOR_TEACHERS = ("labels", "_positions", "feature_index")
_NEVER = -1e9  # as a logit; exp of it is 0 in float32 at every temperature below 1e6


class Teacher(Protocol):
    """Gives the outputs that a student should give for the same inputs."""

    def __call__(self, inputs: Mapping[str, Any]) -> Outputs:
        """Return named outputs, batch first."""


def distillation_loss(
    student: Outputs, teacher: Outputs, keys: Sequence[str], temperature: float, mask: Tensor | None
) -> Tensor:
    """Return the mean over `keys` of the loss above, a float32 scalar.

    Outputs are [batch, ...] with classes or positions last. mask: [batch, sequence], 0 at padding; it acts on
    outputs of exactly its shape. Raises TrainingError when outputs lack a key or differ in shape.
    """
    losses = []
    for key in keys:
        if key not in student or key not in teacher:
            raise TrainingError(
                f"distill_output_keys names {key!r}; student and teacher share {_shared(student, teacher)}"
            )
        if student[key].shape != teacher[key].shape:
            shapes = f"{tuple(student[key].shape)} and {tuple(teacher[key].shape)}"
            raise TrainingError(f"student and teacher give {key!r} in different shapes: {shapes}")
        losses.append(_divergence(student[key].float(), teacher[key].float(), temperature, mask))
    return torch.stack(losses).mean()


def _shared(student: Outputs, teacher: Outputs) -> str:
    return ", ".join(sorted(set(student) & set(teacher))) or "nothing"


def _divergence(student: Tensor, teacher: Tensor, temperature: float, mask: Tensor | None) -> Tensor:
    if mask is not None and mask.shape == student.shape:
        padding = mask == 0
        student, teacher = student.masked_fill(padding, _NEVER), teacher.masked_fill(padding, _NEVER)
    rows = student.numel() // student.shape[-1]
    log_student = functional.log_softmax(student / temperature, dim=-1)
    log_teacher = functional.log_softmax(teacher / temperature, dim=-1)
    return functional.kl_div(log_student, log_teacher, reduction="sum", log_target=True) * temperature**2 / rows


def float_outputs(outputs: Any) -> dict[str, Tensor]:
    """Return the named floating-point tensors of a model's outputs, without the loss."""
    if isinstance(outputs, Tensor):
        return {"logits": outputs}
    pairs = outputs.items() if hasattr(outputs, "items") else ()
    return {k: v for k, v in pairs if k != "loss" and isinstance(v, Tensor) and v.is_floating_point()}


class ModelTeacher:
    """A model that teaches: in evaluation mode, without gradients, once for every batch."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()

    def __call__(self, inputs: Mapping[str, Any]) -> Outputs:
        """Run the model on the inputs, labels left out."""
        arguments = {k: v for k, v in inputs.items() if not k.endswith(_NOT_FOR_TEACHERS)}
        with torch.no_grad():
            return float_outputs(self.model(**arguments))


class RememberedTeacher:
    """A teacher's outputs for every feature of a data set, computed once.

    `rows` holds, for each output, one float32 tensor [length] a feature; inputs name their features in
    `feature_index` [batch]. Positions past a feature's length are 0: the loss masks them.
    """

    def __init__(self, rows: Mapping[str, Sequence[Tensor]]) -> None:
        self.rows = rows

    def __call__(self, inputs: Mapping[str, Any]) -> Outputs:
        """Return the stored outputs, padded to the batch's length."""
        chosen: list[int] = inputs["feature_index"].tolist()
        length = inputs["input_ids"].shape[1]
        return {key: _padded([rows[i] for i in chosen], length) for key, rows in self.rows.items()}


def _padded(rows: Sequence[Tensor], length: int) -> Tensor:
    batch = torch.zeros(len(rows), length)
    for target, row in zip(batch, rows, strict=True):
        target[: len(row)] = row
    return batch
