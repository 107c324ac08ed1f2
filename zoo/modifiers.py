"""What a recipe can say: one typed, frozen class for each modifier, named as its YAML tag.

Names, fields and defaults are those of SparseML's recipes. Epochs are fractional: epoch = step / steps_per_epoch.
`start_epoch: -1` means from the beginning, `end_epoch: -1` means never, `update_frequency: -1` means every step.
A value that breaks a rule raises `pydantic.ValidationError`; `zoo.recipe` turns it into a `RecipeError` with its line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from zoo.modifier_fields import (
    EPOCH_TOLERANCE,
    FROM_PARAM,
    MAX_EPOCH,
    Epoch,
    FinalSparsity,
    Frequency,
    InitSparsity,
    LastingModifier,
    MaskType,
    Modifier,
    Names,
    Number,
    ParamGroups,
    Params,
    Rate,
    Switch,
    kept_of,
)
from zoo.parameter_names import match_parameters
from zoo.quantization_modifier import QuantizationArgs, QuantizationModifier, QuantizationScheme

__all__ = [
    "SUPPORTED",
    "UNSUPPORTED",
    "ConstantPruningModifier",
    "DistillationModifier",
    "EpochRangeModifier",
    "GMPruningModifier",
    "GradualPruningModifier",
    "LayerOBSPruningModifier",
    "LearningRateFunctionModifier",
    "MagnitudePruningModifier",
    "Modifier",
    "PerLayerDistillationModifier",
    "QuantizationArgs",
    "QuantizationModifier",
    "QuantizationScheme",
    "SetLearningRateModifier",
    "match_parameters",
]


class EpochRangeModifier(Modifier):
    """How long the run lasts; the latest epoch of all modifiers wins."""

    start_epoch: Epoch
    end_epoch: Epoch


class SetLearningRateModifier(LastingModifier):
    """Sets the learning rate once, at start_epoch."""

    without_effect: ClassVar[dict[str, str]] = {"constant_logging": "the learning rate is logged at every logging step"}

    learning_rate: Rate
    param_groups: ParamGroups = None
    constant_logging: Switch = False


class LearningRateFunctionModifier(Modifier):
    """Moves the learning rate from init_lr to final_lr, step by step."""

    lr_func: Literal["linear", "cosine", "cyclic_linear"]
    init_lr: Rate
    final_lr: Rate
    start_epoch: Epoch
    end_epoch: Epoch
    cycle_epochs: Number = 1.0
    param_groups: ParamGroups = None

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if self.end_epoch == -1:
            raise ValueError("end_epoch must be given: the function needs a length")
        if not 0 < self.cycle_epochs <= MAX_EPOCH:
            raise ValueError(f"cycle_epochs must be more than 0, not {self.cycle_epochs:g}")
        return self


class _PruningModifier(Modifier):
    params: Params


class GradualPruningModifier(_PruningModifier):
    """Prunes weights of small magnitude, from init_sparsity to final_sparsity between the two epochs."""

    init_sparsity: InitSparsity
    final_sparsity: FinalSparsity
    start_epoch: Epoch
    end_epoch: Epoch
    update_frequency: Frequency
    leave_enabled: Switch = True
    inter_func: Literal["linear", "cubic", "inverse_cubic"] = "cubic"
    mask_type: MaskType = "unstructured"

    @model_validator(mode="after")
    def _targets_are_clear(self) -> Self:
        if self.end_epoch == -1:
            raise ValueError("end_epoch must be given: pruning has to reach its final sparsity")
        if isinstance(self.final_sparsity, dict) and self.params:
            raise ValueError("params must be [] when final_sparsity names the params of each sparsity")
        if not all(params for _, params in self.targets):
            raise ValueError("params must name at least one parameter")
        if isinstance(self.init_sparsity, float) and self.init_sparsity > min(final for final, _ in self.targets):
            raise ValueError(f"final_sparsity must be at least init_sparsity {self.init_sparsity:g}")
        return self

    @model_validator(mode="after")
    def _agrees_with_mask(self) -> Self:
        if isinstance(self.mask_type, str) and ":" in self.mask_type:
            kept, of = kept_of(self.mask_type)
            for sparsity, _ in self.targets:
                if abs(sparsity - (1 - kept / of)) > 0.01 + EPOCH_TOLERANCE:
                    raise ValueError(
                        f"final_sparsity {sparsity:g} must be {1 - kept / of:g} with mask_type {self.mask_type}"
                    )
        return self

    @property
    def targets(self) -> tuple[tuple[float, tuple[str, ...]], ...]:
        """(final sparsity, parameter patterns), one pair for each group of parameters."""
        if isinstance(self.final_sparsity, dict):
            return tuple(self.final_sparsity.items())
        return ((self.final_sparsity, self.params),)

    @property
    def block(self) -> tuple[int, int] | None:
        """(rows, columns) of a block mask, -1 for the whole dimension; None for other masks."""
        if self.mask_type == "block4":
            return (1, 4)
        return self.mask_type if isinstance(self.mask_type, tuple) else None

    @property
    def kept_of(self) -> tuple[int, int] | None:
        """(N, M) of an N:M mask, N weights kept of every M along the inputs; None for other masks."""
        return kept_of(self.mask_type) if isinstance(self.mask_type, str) and ":" in self.mask_type else None


class MagnitudePruningModifier(GradualPruningModifier):
    """Each tensor gets its own threshold."""


class GMPruningModifier(GradualPruningModifier):
    """As MagnitudePruningModifier; with global_sparsity, all tensors are ranked together."""

    global_sparsity: Switch = False

    @model_validator(mode="after")
    def _one_global_target(self) -> Self:
        if self.global_sparsity and len(self.targets) > 1:
            raise ValueError("global_sparsity ranks all tensors together, so final_sparsity must be one number")
        if self.global_sparsity and self.kept_of:
            raise ValueError(f"global_sparsity can't be used with mask_type {self.mask_type}")
        return self


class LayerOBSPruningModifier(GradualPruningModifier):
    """Prunes what a layer's outputs miss least, and moves the weights that stay to make up for it.

    The error of a layer is that of its outputs on `num_samples` training samples: see `zoo.train.second_order`. Its
    Hessian is that of the layer's inputs, not the Fisher matrix of gradients that SparseML's OBSPruningModifier has;
    so the name differs. `dampening_frac` and `block_size` (columns chosen together) are those of SparseGPTModifier.
    """

    num_samples: Annotated[int, Field(ge=1, le=1_000_000)] = 128
    dampening_frac: Annotated[Number, Field(gt=0, le=1)] = 0.01
    block_size: Annotated[int, Field(ge=4, le=65536)] = 128

    @model_validator(mode="after")
    def _masks_rows(self) -> Self:
        if self.kept_of or (self.block is not None and (self.block[0] != 1 or self.block[1] < 1)):
            raise ValueError(f"mask_type must be unstructured, block4 or [1, columns], not {self.mask_type}")
        if self.block is not None and self.block_size % self.block[1]:
            raise ValueError(f"block_size must be a multiple of the mask's {self.block[1]} columns")
        return self


class ConstantPruningModifier(_PruningModifier):
    """Keeps zeros zero: the mask is where the weight differs from 0 at start_epoch."""

    @model_validator(mode="after")
    def _has_params(self) -> Self:
        if not self.params:
            raise ValueError("params must name at least one parameter")
        return self


class DistillationModifier(Modifier):
    """Learns from a teacher: loss = (1 - hardness) * task loss + hardness * distillation loss."""

    without_effect: ClassVar[dict[str, str]] = {"update_frequency": "the teacher is asked at every step"}

    hardness: Annotated[Number, Field(ge=0, le=1)] = 0.5
    temperature: Annotated[Number, Field(gt=0, le=1e6)] = 2.0
    distill_output_keys: Names | None = None
    teacher_input_keys: Names | None = None
    update_frequency: Frequency = -1.0


class PerLayerDistillationModifier(Modifier):
    """Learns what a teacher's layers give: loss = loss so far + gain * sum over layers of their squared error.

    A layer's error is its mean square, divided, if `normalize`, by the mean square of the teacher's output + epsilon.
    """

    without_effect: ClassVar[dict[str, str]] = {
        "update_frequency": "the teacher is asked at every step",
        "project_features": "outputs of different shapes are refused",
    }

    gain: Annotated[Number, Field(ge=0, le=1e6)] = 1.5
    normalize: Switch = True
    student_layer_names: Annotated[Names, Field(min_length=1)]
    teacher_layer_names: Annotated[Names, Field(min_length=1)]
    project_features: Switch = True
    epsilon: Annotated[Number, Field(gt=0, le=1)] = 1e-6
    update_frequency: Frequency = -1.0

    @model_validator(mode="after")
    def _in_pairs(self) -> Self:
        students, teachers = len(self.student_layer_names), len(self.teacher_layer_names)
        if students != teachers:
            raise ValueError(f"student_layer_names has {students} layers and teacher_layer_names {teachers}; pair them")
        return self


SUPPORTED: dict[str, type[Modifier]] = {
    cls.__name__: cls
    for cls in (
        EpochRangeModifier,
        SetLearningRateModifier,
        LearningRateFunctionModifier,
        MagnitudePruningModifier,
        GMPruningModifier,
        LayerOBSPruningModifier,
        ConstantPruningModifier,
        QuantizationModifier,
        DistillationModifier,
        PerLayerDistillationModifier,
    )
}

UNSUPPORTED = frozenset(
    [
        "ACDCPruningModifier",
        "ASRegModifier",
        "GPTQModifier",
        "GlobalMagnitudePruningModifier",
        "GradualParamModifier",
        "LayerPruningModifier",
        "LayerThinningModifier",
        "LearningRateModifier",
        "LegacyQuantizationModifier",
        "LogarithmicEqualizationModifier",
        "MFACPruningModifier",
        "MovementPruningModifier",
        "OBSPruningModifier",
        "OutputDistillationModifier",
        "PowerpropagationModifier",
        "RigLPruningModifier",
        "SetParamModifier",
        "SetWeightDecayModifier",
        "SmoothQuantModifier",
        "SparseGPTModifier",
        "SparsificationLoggingModifier",
        "StructuredPruningModifier",
        "TopKASTPruningModifier",
        "TrainableParamsModifier",
        "WandaPruningModifier",
    ]
)


def interpolate(inter_func: str, x: float) -> float:
    """Progress y in [0, 1] of a schedule at x: 0 for x <= 0, 1 for x >= 1."""
    x = min(max(x, 0.0), 1.0)
    if inter_func == "cubic":
        return 1.0 - (1.0 - x) ** 3
    if inter_func == "inverse_cubic":
        return 1.0 - math.cbrt(1.0 - x)
    if inter_func == "linear":
        return x
    raise ValueError(f"inter_func must be linear, cubic or inverse_cubic, not {inter_func!r}")


def sparsity_at(
    modifier: GradualPruningModifier, epoch: float, final: float | None = None, init: float | None = None
) -> float:
    """Sparsity in [0, 1) that the schedule asks for: exactly init up to the start, exactly final from the end on.

    `final` picks one of `modifier.targets` and is needed only where there are several; `init` is the tensor's own
    sparsity and is needed only for `init_sparsity: __FROM_PARAM__`. Raises ValueError where a needed one is missing.
    """
    if final is None:
        if isinstance(modifier.final_sparsity, dict):
            raise ValueError("final_sparsity names several sparsities: say which one")
        final = modifier.final_sparsity
    if isinstance(modifier.init_sparsity, float):
        init = modifier.init_sparsity
    elif init is None:
        raise ValueError(f"init_sparsity is {FROM_PARAM}: give the sparsity of the parameter")
    if modifier.ended(epoch):
        return final
    if epoch <= modifier.start:
        return init
    y = interpolate(modifier.inter_func, (epoch - modifier.start) / (modifier.end - modifier.start))
    return init + y * (final - init)


def update_due(modifier: GradualPruningModifier | DistillationModifier, epoch: float, last: float | None) -> bool:
    """Whether an update is due at `epoch`, the last one having been at epoch `last` (None: there was none).

    Due every update_frequency epochs while the modifier is active, and once when it ends, so that a pruner reaches
    its final sparsity whatever the frequency.
    """
    if not modifier.started(epoch):
        return False
    if last is None:
        return True
    if modifier.ended(epoch):
        return not modifier.ended(last)
    return modifier.update_frequency == -1 or epoch >= last + modifier.update_frequency - EPOCH_TOLERANCE


def learning_rate_at(modifiers: Iterable[Modifier], epoch: float) -> float | None:
    """Learning rate at `epoch`; None while no modifier has set one and the optimizer's own holds.

    Of several active functions the one that started last counts. When none is active, the latest change stays: a
    function's final_lr, or what SetLearningRateModifier set.
    """
    changes = [m for m in modifiers if isinstance(m, SetLearningRateModifier | LearningRateFunctionModifier)]
    functions = [m for m in changes if isinstance(m, LearningRateFunctionModifier) and m.active(epoch)]
    if functions:
        return _function_value(max(reversed(functions), key=lambda m: m.start), epoch)
    settled = [(_settles(m), i, m) for i, m in enumerate(changes) if epoch >= _settles(m) - EPOCH_TOLERANCE]
    if not settled:
        return None
    latest = max(settled, key=lambda item: item[:2])[2]
    return latest.learning_rate if isinstance(latest, SetLearningRateModifier) else latest.final_lr


def _settles(modifier: SetLearningRateModifier | LearningRateFunctionModifier) -> float:
    return modifier.start if isinstance(modifier, SetLearningRateModifier) else modifier.end


def _function_value(modifier: LearningRateFunctionModifier, epoch: float) -> float:
    done, length = max(epoch - modifier.start, 0.0), modifier.end - modifier.start
    if modifier.lr_func == "cyclic_linear":
        cycle_start = math.floor(done / modifier.cycle_epochs + EPOCH_TOLERANCE) * modifier.cycle_epochs
        done, length = max(done - cycle_start, 0.0), min(modifier.cycle_epochs, length - cycle_start)
    x = min(done / length, 1.0)
    if modifier.lr_func == "cosine":
        x = (1.0 - math.cos(math.pi * x)) / 2.0
    return modifier.init_lr + x * (modifier.final_lr - modifier.init_lr)
