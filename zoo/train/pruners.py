"""The pruners of a recipe: which weights each one masks, when, and how much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import TrainingError
from zoo.modifiers import (
    ConstantPruningModifier,
    GMPruningModifier,
    GradualPruningModifier,
    LayerOBSPruningModifier,
    match_parameters,
    sparsity_at,
    update_due,
)
from zoo.train.pruning import magnitude_masks, sparsity_of
from zoo.train.second_order import damped, input_hessians, prune_by_outputs

Samples = Callable[[int], Iterable[Mapping[str, Any]]]
"""Gives batches of model inputs that hold a number of training samples, the same ones every time."""


@dataclass
class Pruner:
    """One pruning modifier on the weights that it names. `masks` is empty until the first update."""

    modifier: GradualPruningModifier | ConstantPruningModifier
    groups: list[tuple[float, dict[str, nn.Parameter]]]
    layers: dict[str, nn.Module] = field(default_factory=dict)  # by the name of their weight
    masks: dict[str, Tensor] = field(default_factory=dict)
    initial: dict[str, float] = field(default_factory=dict)
    last_update: float | None = None

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All weights of all groups, by name."""
        return {name: weight for _, group in self.groups for name, weight in group.items()}

    @property
    def targets(self) -> dict[str, float | None]:
        """Final sparsity by weight; None where the weight's own zeros are kept."""
        if isinstance(self.modifier, ConstantPruningModifier):
            return dict.fromkeys(self.parameters)
        return {name: target for target, group in self.groups for name in group}

    def update(self, epoch: float, model: nn.Module, samples: Samples | None = None) -> bool:
        """Renew the masks if that is due at `epoch`; return whether they changed.

        Second-order pruners run `model` on some samples for it, and move weights too.
        """
        modifier = self.modifier
        if isinstance(modifier, ConstantPruningModifier):
            if self.masks or not modifier.started(epoch):
                return False
            self.masks = {name: weight.detach() != 0 for name, weight in self.parameters.items()}
            return True
        if not update_due(modifier, epoch, self.last_update):
            return False
        if not self.initial:
            self.initial = {name: sparsity_of(weight) for name, weight in self.parameters.items()}
        if isinstance(modifier, LayerOBSPruningModifier):
            self._update_by_outputs(modifier, epoch, model, samples)
        else:
            for target, group in self.groups:
                self.masks.update(self._masks(modifier, group, target, epoch))
        self.last_update = epoch
        return True

    def _update_by_outputs(
        self, modifier: LayerOBSPruningModifier, epoch: float, model: nn.Module, samples: Samples | None
    ) -> None:
        if samples is None:
            raise TrainingError("LayerOBSPruningModifier needs training samples to run the model on; there are none")
        linears = {name: layer for name, layer in self.layers.items() if isinstance(layer, nn.Linear)}
        if other := sorted(self.parameters.keys() - linears.keys()):
            raise TrainingError(f"LayerOBSPruningModifier prunes linear layers; {other[0]} is the weight of none")
        hessians = input_hessians(model, linears, samples(modifier.num_samples))
        width = 1 if modifier.block is None else modifier.block[1]
        for target, group in self.groups:
            for name, weight in group.items():
                sparsity = sparsity_at(modifier, epoch, target, self.initial[name])
                mask, moved = prune_by_outputs(
                    weight,
                    damped(hessians[name], modifier.dampening_frac),
                    sparsity,
                    width=width,
                    columns_at_once=modifier.block_size,
                    mask=self.masks.get(name),
                )
                self.masks[name] = mask
                weight.data.copy_(moved)

    def _masks(
        self, modifier: GradualPruningModifier, group: dict[str, nn.Parameter], target: float, epoch: float
    ) -> dict[str, Tensor]:
        together = isinstance(modifier, GMPruningModifier) and modifier.global_sparsity
        if together:
            elements = sum(weight.numel() for weight in group.values())
            initial = sum(self.initial[name] * weight.numel() for name, weight in group.items()) / elements
            parts = [(group, initial)]
        else:
            parts = [({name: weight}, self.initial[name]) for name, weight in group.items()]
        masks: dict[str, Tensor] = {}
        for weights, initial in parts:
            sparsity = sparsity_at(modifier, epoch, target, initial)
            masks |= magnitude_masks(
                weights, sparsity, block=modifier.block, kept_of=modifier.kept_of, together=together
            )
        return masks

    def holds(self, epoch: float) -> bool:
        """Return whether the masks bind at `epoch`."""
        if isinstance(self.modifier, ConstantPruningModifier):
            return self.modifier.active(epoch)
        return self.modifier.started(epoch) and (self.modifier.leave_enabled or not self.modifier.ended(epoch))

    @torch.no_grad()
    def apply(self) -> None:
        """Zero what the masks drop."""
        parameters = self.parameters
        for name, mask in self.masks.items():
            parameters[name].mul_(mask)


def pruners_of(model: nn.Module, modifiers: Iterable[object]) -> list[Pruner]:
    """Return the recipe's pruners on the model's weights; those that keep zeros come after those that make them.

    Raises RecipeError where a pattern matches nothing.
    """
    named = dict(model.named_parameters())
    layers = {f"{name}.weight": module for name, module in model.named_modules()}
    prunable = [
        f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)
    ]
    pruners = []
    for modifier in modifiers:
        if isinstance(modifier, GradualPruningModifier):
            targets = modifier.targets
        elif isinstance(modifier, ConstantPruningModifier):
            targets = ((0.0, modifier.params),)
        else:
            continue
        groups = []
        for target, patterns in targets:
            names = match_parameters(patterns, list(named), prunable)
            groups.append((target, {name: named[name] for name in names}))
        _check_disjoint(modifier, groups)
        chosen = {name: layers[name] for _, group in groups for name in group if name in layers}
        pruners.append(Pruner(modifier, groups, chosen))
    return sorted(pruners, key=lambda pruner: isinstance(pruner.modifier, ConstantPruningModifier))


def _check_disjoint(modifier: object, groups: list[tuple[float, dict[str, nn.Parameter]]]) -> None:
    seen: set[str] = set()
    for _, group in groups:
        twice = seen & set(group)
        if twice:
            raise TrainingError(f"{type(modifier).__name__} gives {sorted(twice)[0]} two sparsities; name it once")
        seen |= set(group)
