"""Learning from a teacher's outputs.

The loss of one output is KL(student || teacher) at temperature T as SparseML defines it: the sum of
p_t * (log p_t - log p_s) over all positions, divided by the rows of the batch, times T squared.
Padded positions take no part: their logits are set so low, in both, that their probability is exactly zero. Where
each token has logits of classes, tokens are the rows, and only those that the task's own loss judges count.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.agreement import CLASS_LOGITS
from zoo.errors import TrainingError

Outputs = Mapping[str, Tensor]
_FEATURES = "feature_index"
_NOT_FOR_TEACHERS = ("labels", "_positions", _FEATURES)
IGNORED = -100  # the label of a token that has none, as PyTorch's losses know it
_NEVER = -1e9  # as a logit; exp of it is 0 in float32 at every temperature below 1e6


def judged_tokens(inputs: Mapping[str, Any]) -> Tensor | None:
    """Return which tokens of a batch have a label, bool [batch, sequence]; None where its labels aren't of tokens."""
    ids, labels = inputs.get("input_ids"), inputs.get("labels")
    if not isinstance(ids, Tensor) or not isinstance(labels, Tensor) or labels.shape != ids.shape:
        return None
    return labels.ne(IGNORED)


def has_positions(name: str, dimensions: int) -> bool:
    """Return whether an output of so many dimensions, batch and positions first, has a value for each token."""
    return dimensions > 2 or (dimensions == 2 and name != CLASS_LOGITS)


class Teacher(Protocol):
    """Gives the outputs that a student should give for the same inputs."""

    def __call__(self, inputs: Mapping[str, Any]) -> Outputs:
        """Return named outputs, batch first."""


class Layers(Protocol):
    """What layers gave in the last forward pass, by name."""

    def __getitem__(self, name: str) -> Tensor:
        """Return a layer's output, batch first."""

    def stop(self) -> None:
        """Let go of all outputs."""


@runtime_checkable
class LayerTeacher(Teacher, Protocol):
    """A teacher that shows what its layers give too."""

    def watch(self, names: Sequence[str]) -> Layers:
        """Return the outputs of these layers, as of each call of the teacher. Raises TrainingError for others."""


def distillation_loss(
    student: Outputs,
    teacher: Outputs,
    keys: Sequence[str],
    temperature: float,
    mask: Tensor | None,
    judged: Tensor | None = None,
) -> Tensor:
    """Return the mean over `keys` of the loss above, a float32 scalar.

    Outputs are [batch, ...] with classes or positions last. mask: [batch, sequence], 0 at padding; it acts on
    outputs of exactly its shape, but not on `logits`, whose columns are classes. judged: [batch, sequence], not 0 at
    tokens whose classes count in outputs [batch, sequence, classes]; those of `mask` without it. Raises TrainingError
    when there are no keys, outputs lack one or differ in shape.
    """
    if not keys:
        raise TrainingError(
            f"student and teacher share no output to distil: the student gives {_names(student)}, the teacher "
            f"{_names(teacher)}; a model to distil must return a tensor, or a mapping of named tensors"
        )
    losses = []
    for key in keys:
        if key not in student or key not in teacher:
            raise TrainingError(
                f"distill_output_keys names {key!r}; student and teacher share {_names(set(student) & set(teacher))}"
            )
        if student[key].shape != teacher[key].shape:
            shapes = f"{tuple(student[key].shape)} and {tuple(teacher[key].shape)}"
            raise TrainingError(f"student and teacher give {key!r} in different shapes: {shapes}")
        mine, theirs = student[key].float(), teacher[key].float()
        seen = mask if has_positions(key, mine.ndim) else None
        rows = seen if judged is None else judged
        if mine.ndim > 2 and rows is not None and rows.shape == mine.shape[:2]:
            mine, theirs, seen = mine[rows != 0], theirs[rows != 0], None
        losses.append(_divergence(mine, theirs, temperature, seen))
    return torch.stack(losses).mean()


def _names(outputs: Iterable[str]) -> str:
    return ", ".join(sorted(outputs)) or "nothing"


def _divergence(student: Tensor, teacher: Tensor, temperature: float, mask: Tensor | None) -> Tensor:
    if mask is not None and mask.shape == student.shape:
        padding = mask == 0
        student, teacher = student.masked_fill(padding, _NEVER), teacher.masked_fill(padding, _NEVER)
    rows = max(student.numel() // student.shape[-1], 1)
    log_student = functional.log_softmax(student / temperature, dim=-1)
    log_teacher = functional.log_softmax(teacher / temperature, dim=-1)
    return functional.kl_div(log_student, log_teacher, reduction="sum", log_target=True) * temperature**2 / rows


def layer_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    mask: Tensor | None,
    *,
    normalize: bool = True,
    epsilon: float = 1e-6,
) -> Tensor:
    """Return the sum over layers of mean((s - t)^2), each divided by mean(t^2) + epsilon if `normalize`; a scalar.

    One tensor a layer, [batch, sequence, ...], or [batch, size] behind a pooler; mask [batch, sequence], 0 at
    padding, which takes no part.
    As SparseML's PerLayerDistillationModifier. Raises TrainingError where shapes differ.
    """
    losses = []
    for mine, theirs in zip(student, teacher, strict=True):
        if mine.shape != theirs.shape:
            shapes = f"{tuple(mine.shape)} and {tuple(theirs.shape)}"
            raise TrainingError(f"a layer of the student and its teacher give different shapes: {shapes}")
        ours, goal = mine.float(), theirs.detach().float()
        if mask is not None and mine.ndim > 2 and mask.shape == mine.shape[:2]:
            ours, goal = ours[mask != 0], goal[mask != 0]
        error = (ours - goal).square().mean()
        losses.append(error / (goal.square().mean() + epsilon) if normalize else error)
    return torch.stack(losses).sum()


class LayerOutputs:
    """Keeps what some layers of a model gave in its last forward pass. Raises TrainingError for an unknown name."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.model, self.names = model, tuple(dict.fromkeys(names))
        self.kept: dict[str, Tensor] = {}
        self._hooks: list[Any] = []
        self.watch()

    def watch(self) -> None:
        """Watch the layers that bear the names now: quantization may have replaced some."""
        self.stop()
        modules = dict(self.model.named_modules())
        for name in self.names:
            if name not in modules:
                near = difflib.get_close_matches(name, modules, n=3)
                raise TrainingError(f"there is no layer {name!r} to distil; near to it are {', '.join(near)}")
            self._hooks.append(modules[name].register_forward_hook(partial(self._keep, name)))

    def _keep(self, name: str, _: nn.Module, __: Any, output: Any) -> None:
        self.kept[name] = output[0] if isinstance(output, tuple) else output

    def stop(self) -> None:
        """Watch no more, and let go of what was kept."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.kept.clear()

    def __getitem__(self, name: str) -> Tensor:
        """Return what the layer gave last. Raises TrainingError where it gave nothing, or no tensor."""
        output = self.kept.get(name)
        if not isinstance(output, Tensor):
            raise TrainingError(f"the layer {name!r} gave no tensor to distil")
        return output


def float_outputs(outputs: Any) -> dict[str, Tensor]:
    """Return the named floating-point tensors of a model's outputs, without the loss."""
    if isinstance(outputs, Tensor):
        return {"logits": outputs}
    pairs = outputs.items() if hasattr(outputs, "items") else ()
    return {k: v for k, v in pairs if k != "loss" and isinstance(v, Tensor) and v.is_floating_point()}


def teacher_inputs(inputs: Mapping[str, Any], keys: Sequence[str] | None) -> Mapping[str, Any]:
    """Return the inputs that a teacher is asked with: those of `keys`, or all, and which features they are.

    Raises TrainingError where a batch lacks a key.
    """
    if keys is None:
        return inputs
    if missing := [key for key in keys if key not in inputs]:
        known = _names(key for key in inputs if not key.endswith(_NOT_FOR_TEACHERS))
        raise TrainingError(f"teacher_input_keys names {missing[0]!r}; a batch has {known}")
    return {key: value for key, value in inputs.items() if key in keys or key == _FEATURES}


class ModelTeacher:
    """A model that teaches: in evaluation mode, without gradients, once for every batch."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()

    def watch(self, names: Sequence[str]) -> LayerOutputs:
        """Return what these layers of the model give. Raises TrainingError for an unknown name."""
        return LayerOutputs(self.model, names)

    def __call__(self, inputs: Mapping[str, Any]) -> Outputs:
        """Run the model on the inputs, labels left out."""
        arguments = {k: v for k, v in inputs.items() if not k.endswith(_NOT_FOR_TEACHERS)}
        with torch.no_grad():
            return float_outputs(self.model(**arguments))


class RememberedTeacher:
    """A teacher's outputs for every feature of a data set, computed once.

    `rows` holds, for each output, one float32 tensor [length] a feature, or [classes] for `logits`; `layers`, for each
    layer, one [length, ...], or [size] behind a pooler. Inputs name their features in `feature_index` [batch].
    Positions past a feature's length are 0: the losses mask them.
    """

    def __init__(
        self, rows: Mapping[str, Sequence[Tensor]], layers: Mapping[str, Sequence[Tensor]] | None = None
    ) -> None:
        self.rows, self.layers = rows, layers or {}
        self._asked: tuple[list[int], int] = ([], 0)
        self._device = torch.device("cpu")

    def watch(self, names: Sequence[str]) -> RememberedTeacher:
        """Return itself, which gives the layers of the batch that it was asked for last."""
        if missing := [name for name in names if name not in self.layers]:
            raise TrainingError(f"the teacher's layer {missing[0]!r} was not remembered")
        return self

    def __call__(self, inputs: Mapping[str, Any]) -> Outputs:
        """Return the stored outputs, padded to the batch's length, on its device."""
        ids = inputs["input_ids"]
        self._asked, self._device = (inputs[_FEATURES].tolist(), ids.shape[1]), ids.device
        return {
            key: self._batch(rows) if has_positions(key, rows[0].ndim + 1) else self._stack(rows)
            for key, rows in self.rows.items()
        }

    def __getitem__(self, name: str) -> Tensor:
        """Return a layer's stored output, padded to the batch's length where it has one."""
        rows = self.layers[name]
        return self._batch(rows) if rows[0].ndim > 1 else self._stack(rows)

    def stop(self) -> None:
        """Forget the batch."""
        self._asked = ([], 0)

    def _batch(self, rows: Sequence[Tensor]) -> Tensor:
        chosen, length = self._asked
        batch = rows[0].new_zeros(len(chosen), length, *rows[0].shape[1:])
        for target, index in zip(batch, chosen, strict=True):
            target[: len(rows[index])] = rows[index]
        return batch.to(self._device)

    def _stack(self, rows: Sequence[Tensor]) -> Tensor:
        return torch.stack([rows[index] for index in self._asked[0]]).to(self._device)
