"""report.json: what a recipe asked for, and what the trained model has."""

from __future__ import annotations

import platform
from typing import Any

import torch
import transformers
from torch import nn

from zoo.modifiers import ConstantPruningModifier, GradualPruningModifier
from zoo.train.pruners import Pruner
from zoo.train.pruning import as_rows, sparsity_of, zero_block_share
from zoo.train.quantization import ActivationQuantizer, QuantizedEmbedding, QuantizedLinear
from zoo.train.session import RecipeSession

FORMAT = 1
_SLACK = 1.5  # elements or blocks by which a count may be off


def build_report(session: RecipeSession, metrics: dict[str, float], seconds: float) -> dict[str, Any]:
    """Return the report of a finished session, in plain JSON types; no steps means a recipe applied at once.

    `missed` lists in words what the recipe asked for and the model lacks; empty when all was reached.
    """
    layers = pruning_of(session.pruners)
    coverage = quantization_of(session.model)
    return {
        "format": FORMAT,
        "recipe_digest": session.recipe.digest,
        "steps": session.step,
        "steps_per_epoch": session.steps_per_epoch,
        "epochs": session.epoch,
        "seconds": round(seconds, 1),
        "metrics": metrics,
        "sparsity": layers,
        "quantization": coverage,
        "missed": [*_missed_sparsity(layers), *_missed_quantization(session, coverage), *_missed_epochs(session)],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def pruning_of(pruners: list[Pruner]) -> dict[str, dict[str, Any]]:
    """Return for each pruned weight: its target, its sparsity, its elements, and how its zeros are arranged."""
    layers: dict[str, dict[str, Any]] = {}
    for pruner in pruners:
        for name, target in pruner.targets.items():
            weight = pruner.parameters[name].detach()
            facts = layers.setdefault(name, {"target": None, "elements": weight.numel()})
            facts["sparsity"] = sparsity_of(weight)
            if target is not None:
                facts |= {"target": target, **_pattern(pruner, weight)}
            elif isinstance(pruner.modifier, ConstantPruningModifier) and name in pruner.masks:
                facts["target"] = facts["target"] or sparsity_of(pruner.masks[name])
                facts["zero_blocks_1x4"] = zero_block_share(weight, (1, 4))
    return layers


def _pattern(pruner: Pruner, weight: torch.Tensor) -> dict[str, Any]:
    modifier = pruner.modifier
    facts: dict[str, Any] = {"zero_blocks_1x4": zero_block_share(weight, (1, 4))}
    if not isinstance(modifier, GradualPruningModifier):
        return facts
    facts["mask_type"] = modifier.mask_type
    if modifier.block is not None:
        rows = as_rows(weight)
        height, width = (size if part == -1 else part for part, size in zip(modifier.block, rows.shape, strict=True))
        facts |= {"zero_blocks": zero_block_share(weight, modifier.block), "block_elements": height * width}
    facts["ranked_together"] = bool(getattr(modifier, "global_sparsity", False))
    return facts


def _missed_sparsity(layers: dict[str, dict[str, Any]]) -> list[str]:
    missed = []
    together = {name: facts for name, facts in layers.items() if facts.get("ranked_together")}
    for name, facts in layers.items():
        slack = _SLACK * facts.get("block_elements", 1) / facts["elements"]
        reached = facts.get("zero_blocks", facts["sparsity"])
        if name not in together and facts["target"] is not None and reached < facts["target"] - slack:
            missed.append(f"{name} has sparsity {reached:.4f}, its target is {facts['target']:.4f}")
    if together:
        elements = sum(facts["elements"] for facts in together.values())
        reached = sum(facts["sparsity"] * facts["elements"] for facts in together.values()) / elements
        target = max(facts["target"] for facts in together.values())
        if reached < target - 1e-4:
            missed.append(f"the weights ranked together have sparsity {reached:.4f}, their target is {target:.4f}")
    return missed


def _missed_quantization(session: RecipeSession, coverage: dict[str, Any]) -> list[str]:
    if not session.quantization_begun:
        return [f"training ended at epoch {session.epoch:.2f}, before quantization started"]
    if session.quantizations and not coverage["linear"]["quantized"]:
        return ["no linear layer is quantized"]
    return _missed_ranges(session.model)


def _missed_ranges(model: nn.Module) -> list[str]:
    observed = {name: m.observed for name, m in model.named_modules() if isinstance(m, ActivationQuantizer)}
    empty = [name for name, seen in observed.items() if not seen]
    if not empty:
        return []
    what = f"{len(empty)} of {len(observed)} ranges of activations saw no data, such as {empty[0]}"
    remedy = "let quantization start at least a step before ranges freeze and training ends, and ignore layers not run"
    return [f"{what}: {remedy}"]


def _missed_epochs(session: RecipeSession) -> list[str]:
    wanted = session.recipe.max_epochs
    if 0 < session.step < wanted * session.steps_per_epoch - 1.5:
        return [f"training ended at epoch {session.epoch:.2f}, the recipe lasts until {wanted:g}"]
    return []


def quantization_of(model: nn.Module) -> dict[str, Any]:
    """Return how many linears, embeddings and attentions there are, how many are quantized, and which are not."""
    modules = dict(model.named_modules())
    linears = {name: isinstance(m, QuantizedLinear) for name, m in modules.items() if isinstance(m, nn.Linear)}
    tables = {name: isinstance(m, QuantizedEmbedding) for name, m in modules.items() if isinstance(m, nn.Embedding)}
    attentions = sum(hasattr(m, "attention_quantizers") for m in modules.values())
    return {
        "linear": {"quantized": sum(linears.values()), "all": len(linears)},
        "embedding": {"quantized": sum(tables.values()), "all": len(tables)},
        "attention": {"quantized": attentions},
        "left_in_float": sorted(name for name, done in {**linears, **tables}.items() if not done)
        if any(linears.values())
        else [],
    }
