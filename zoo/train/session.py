"""A recipe at work on a model, in any PyTorch loop.

    session = RecipeSession(model, recipe, steps_per_epoch=len(loader))
    for batch, labels in loader:
        session.before_step(optimizer)
        outputs = model(batch)
        session.loss(task_loss(outputs, labels), outputs, {"x": batch}).backward()
        optimizer.step()
        session.after_step()
        optimizer.zero_grad()

and `session.finish()` when training is over. With gradient accumulation, `before_step` and `after_step` stand
around each optimizer step and `loss` is called for every batch. A step's epoch is step / steps_per_epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import TrainingError
from zoo.modifiers import (
    DistillationModifier,
    PerLayerDistillationModifier,
    QuantizationModifier,
    learning_rate_at,
)
from zoo.recipe import Recipe
from zoo.train.distillation import (
    LayerOutputs,
    Layers,
    LayerTeacher,
    Outputs,
    Teacher,
    distillation_loss,
    float_outputs,
    judged_tokens,
    layer_loss,
    teacher_inputs,
)
from zoo.train.pruners import Samples, pruners_of
from zoo.train.quantization import Scheme, quantize, set_observing


class RecipeSession:
    """Holds the schedule, the masks and the step count of one training run.

    model: its parameters are masked in place, its layers replaced by quantized ones when the recipe says so.
    steps_per_epoch: optimizer steps of one pass over the data, >= 1. teacher: called for a batch's inputs where
    the recipe distils; see `zoo.train.distillation.ModelTeacher`. samples: called with a number of training samples
    where the recipe prunes by what layers lose on them; gives batches of the model's inputs.
    Raises RecipeError where the recipe names parameters that the model lacks, TrainingError where it needs a
    teacher and there is none.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        steps_per_epoch: int,
        teacher: Teacher | None = None,
        samples: Samples | None = None,
    ) -> None:
        if steps_per_epoch < 1:
            raise TrainingError(f"steps_per_epoch is {steps_per_epoch}; there must be at least one step")
        self.model, self.recipe, self.steps_per_epoch, self.teacher = model, recipe, steps_per_epoch, teacher
        self.samples = samples
        self.step = 0
        self.pruners = pruners_of(model, recipe.modifiers)
        self.quantizations = [m for m in recipe.modifiers if isinstance(m, QuantizationModifier)]
        self.distillations = [m for m in recipe.modifiers if isinstance(m, DistillationModifier)]
        self.layer_distillations = [m for m in recipe.modifiers if isinstance(m, PerLayerDistillationModifier)]
        self.losses: dict[str, float] = {}
        self._layers = self._watch_layers()
        self._quantized: set[int] = set()

    def _watch_layers(self) -> tuple[LayerOutputs, Layers] | None:
        """Watch the layers that the recipe pairs, the student's and the teacher's."""
        if not self.layer_distillations or self.teacher is None:
            return None
        if not isinstance(self.teacher, LayerTeacher):
            raise TrainingError("PerLayerDistillationModifier needs a ModelTeacher, whose layers it can watch")
        students = [name for m in self.layer_distillations for name in m.student_layer_names]
        teachers = [name for m in self.layer_distillations for name in m.teacher_layer_names]
        return LayerOutputs(self.model, students), self.teacher.watch(teachers)

    @property
    def epoch(self) -> float:
        """Epochs done, fractional."""
        return self.step / self.steps_per_epoch

    def before_step(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Do what the recipe has due now: learning rate, masks, quantization, frozen ranges."""
        rate = learning_rate_at(self.recipe.modifiers, self.epoch)
        if rate is not None and optimizer is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate
        self._act(self.epoch)

    def _act(self, epoch: float) -> None:
        for pruner in self.pruners:
            if pruner.update(epoch, self.model, self.samples):
                pruner.apply()
        for index, modifier in enumerate(self.quantizations):
            if modifier.started(epoch) and index not in self._quantized:
                self._quantize(index)
            if index in self._quantized:
                set_observing(self.model, epoch < modifier.freeze_epoch)

    def _quantize(self, index: int) -> None:
        """Quantize as one of the modifiers says; layers that are watched may be other ones then."""
        quantize(self.model, scheme_of(self.quantizations[index]))
        self._quantized.add(index)
        if self._layers is not None:
            self._layers[0].watch()

    def loss(self, task_loss: Tensor, outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
        """Return the loss to minimise: the task's, mixed with the teacher's where the recipe distils now.

        inputs: what the teacher is called with; `attention_mask` [batch, sequence], if there, marks padding, and
        `labels` of the shape of `input_ids` mark by -100 tokens that aren't judged.
        Raises TrainingError when the loss is NaN or infinite.
        """
        total = task_loss
        taught: Outputs | None = None
        for modifier in self.distillations:
            if modifier.active(self.epoch) and self.teacher is not None and modifier.hardness > 0:
                taught = self.teacher(teacher_inputs(inputs, modifier.teacher_input_keys))
                distilled = self._distil(modifier, taught, outputs, inputs)
                self.losses["distillation_loss"] = float(distilled.detach())
                total = (1 - modifier.hardness) * total + modifier.hardness * distilled
        for paired in self.layer_distillations:
            if paired.active(self.epoch) and self.teacher is not None and self._layers is not None:
                if taught is None:
                    taught = self.teacher(inputs)
                distilled = self._distil_layers(paired, *self._layers, inputs)
                self.losses["layer_loss"] = float(distilled.detach())
                total = total + paired.gain * distilled
        self.losses["task_loss"] = float(task_loss.detach())
        if not torch.isfinite(total.detach()):
            raise TrainingError(
                f"the loss is {float(total.detach())} at step {self.step} (epoch {self.epoch:.3f}); "
                "lower the learning rate or resume from an earlier checkpoint"
            )
        return total

    @staticmethod
    def _distil(modifier: DistillationModifier, taught: Outputs, outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
        student = float_outputs(outputs)
        chosen = modifier.distill_output_keys or [key for key in student if key in taught]
        mask, judged = inputs.get("attention_mask"), judged_tokens(inputs)
        return distillation_loss(student, taught, chosen, modifier.temperature, mask, judged)

    @staticmethod
    def _distil_layers(
        modifier: PerLayerDistillationModifier, student: LayerOutputs, teacher: Layers, inputs: Mapping[str, Any]
    ) -> Tensor:
        return layer_loss(
            [student[name] for name in modifier.student_layer_names],
            [teacher[name] for name in modifier.teacher_layer_names],
            inputs.get("attention_mask"),
            normalize=modifier.normalize,
            epsilon=modifier.epsilon,
        )

    def after_step(self) -> None:
        """Count the step, and zero again what the optimizer moved away from zero."""
        for pruner in self.pruners:
            if pruner.holds(self.epoch):
                pruner.apply()
        self.step += 1

    def finish(self) -> None:
        """Apply what is due at the very end, such as the last mask of a pruner that ends with the run."""
        self._act(self.epoch)
        for layers in self._layers or ():
            layers.stop()

    def apply_at_once(self) -> None:
        """Do to the model, without training, all that the recipe has done by its end."""
        self._act(max(self.recipe.max_epochs, *(m.start for m in self.recipe.modifiers), 0.0))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the step, the schedule's position and all masks, as tensors.

        The ranges of quantized layers are buffers of the model and travel in its own state.
        """
        state = {
            "step": torch.tensor(self.step),
            "steps_per_epoch": torch.tensor(self.steps_per_epoch),
            "quantized": torch.tensor([i in self._quantized for i in range(len(self.quantizations))], dtype=torch.bool),
        }
        for index, pruner in enumerate(self.pruners):
            if pruner.last_update is not None:
                state[f"pruner.{index}.last_update"] = torch.tensor(pruner.last_update, dtype=torch.float64)
            state |= {f"pruner.{index}.mask.{name}": mask for name, mask in pruner.masks.items()}
            state |= {
                f"pruner.{index}.initial.{name}": torch.tensor(value, dtype=torch.float64)
                for name, value in pruner.initial.items()
            }
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up a saved state; quantizes the model if it was quantized then, so load its weights after this.

        Raises TrainingError when the state belongs to another schedule.
        """
        if int(state["steps_per_epoch"]) != self.steps_per_epoch or len(state["quantized"]) != len(self.quantizations):
            raise TrainingError(
                f"the checkpoint was made with {int(state['steps_per_epoch'])} steps an epoch, now there are "
                f"{self.steps_per_epoch}: resume with the same data, batch size and recipe"
            )
        self.step = int(state["step"])
        for index, pruner in enumerate(self.pruners):
            prefix = f"pruner.{index}."
            mine = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            pruner.last_update = float(mine["last_update"]) if "last_update" in mine else None
            masks = {k.removeprefix("mask."): v for k, v in mine.items() if k.startswith("mask.")}
            pruner.initial = {k.removeprefix("initial."): float(v) for k, v in mine.items() if k.startswith("initial.")}
            parameters = pruner.parameters
            if not masks.keys() <= parameters.keys():
                raise TrainingError(
                    "the checkpoint masks other parameters than the recipe; resume with the same recipe"
                )
            pruner.masks = {name: mask.to(parameters[name].device) for name, mask in masks.items()}
        self._quantized = set()
        for index, was in enumerate(state["quantized"].tolist()):
            if was:
                self._quantize(index)
                set_observing(self.model, self.epoch < self.quantizations[index].freeze_epoch)

    @property
    def quantization_begun(self) -> bool:
        """Whether all quantizations of the recipe have begun."""
        return len(self._quantized) == len(self.quantizations)


def scheme_of(modifier: QuantizationModifier) -> Scheme:
    """Translate a recipe's quantization into what is done. Raises TrainingError for what can't be done."""
    layer = modifier.layer_scheme
    if layer.weights is None:
        raise TrainingError(
            "QuantizationModifier without quantized weights is not supported; leave weights as they are"
        )
    if modifier.scheme_overrides:
        raise TrainingError("QuantizationModifier: scheme_overrides is not supported; use ignore or submodules")
    return Scheme(
        submodules=modifier.submodules,
        exclude_types=frozenset(modifier.excluded_types),
        ignore=tuple(modifier.ignore or ()),
        embeddings=modifier.quantize_embeddings,
        linear_outputs=layer.output_activations is not None,
        activations=layer.input_activations is not None,
        symmetric_activations=layer.input_activations is not None and layer.input_activations.symmetric,
        per_channel=layer.weights.strategy == "channel",
    )
