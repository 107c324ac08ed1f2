"""Magnitude masks with exact counts, and the pruners that a recipe schedules.

A mask is a bool tensor of the weight's shape, true where the weight stays. Patterns: single elements; blocks
of rows x columns, scored by the mean magnitude of their elements; N kept of every M along the inputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.errors import TrainingError

Weights = Mapping[str, Tensor]


def as_rows(weight: Tensor) -> Tensor:
    """View a weight [out, in] or [out, in, *kernel] as rows along the input channels."""
    if weight.ndim < 2:
        return weight.reshape(1, -1)
    return weight.movedim(1, -1).reshape(-1, weight.shape[1])


def _from_rows(rows: Tensor, shape: torch.Size) -> Tensor:
    if len(shape) < 2:
        return rows.reshape(shape)
    return rows.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()


def block_scores(magnitudes: Tensor, block: tuple[int, int]) -> Tensor:
    """[rows, columns] -> mean magnitude of each block [rows / r, ceil(columns / c)].

    -1 stands for the whole dimension. The last block of a row may be shorter; its mean is over what it has.
    Raises TrainingError when r doesn't divide the rows.
    """
    rows, columns = magnitudes.shape
    height, width = _block_size(magnitudes, block)
    if rows % height:
        raise TrainingError(f"blocks of {height} rows don't divide a weight of {rows} rows")
    padding = -columns % width
    padded = torch.nn.functional.pad(magnitudes, (0, padding))
    sums = padded.reshape(rows // height, height, -1, width).sum(dim=(1, 3))
    counts = sums.new_full((sums.shape[1],), float(height * width))
    counts[-1] -= height * padding
    return sums / counts


def _block_size(rows: Tensor, block: tuple[int, int]) -> tuple[int, int]:
    height, width = (size if part == -1 else part for part, size in zip(block, rows.shape, strict=True))
    return height, width


def expand_blocks(kept: Tensor, block: tuple[int, int], rows: Tensor) -> Tensor:
    """Turn one bool a block into one an element, of the shape of `rows`."""
    height, width = _block_size(rows, block)
    return kept.repeat_interleave(height, 0).repeat_interleave(width, 1)[:, : rows.shape[1]]


def smallest(scores: Tensor, sparsity: float) -> Tensor:
    """Return a mask that drops exactly round(sparsity * n) of the n scores: the smallest."""
    kept = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    count = round(sparsity * scores.numel())
    if count:
        kept[torch.topk(scores.flatten(), count, largest=False, sorted=False).indices] = False
    return kept.reshape(scores.shape)


def _n_of_m_scores(magnitudes: Tensor, kept_of: tuple[int, int]) -> Tensor:
    """Give infinity to the N largest of every M: they never go."""
    kept, of = kept_of
    if magnitudes.shape[1] % of:
        raise TrainingError(f"mask {kept}:{of} doesn't divide a weight of {magnitudes.shape[1]} inputs")
    groups = magnitudes.reshape(-1, of).clone()
    groups.scatter_(1, groups.topk(kept, dim=1).indices, torch.inf)
    return groups.reshape(magnitudes.shape)


def magnitude_masks(
    weights: Weights,
    sparsity: float,
    *,
    block: tuple[int, int] | None = None,
    kept_of: tuple[int, int] | None = None,
    together: bool = False,
) -> dict[str, Tensor]:
    """Return a mask for each weight that drops exactly round(sparsity * n) of its n elements or blocks.

    `together` ranks all weights as one, so that single weights may get more or less.
    Raises TrainingError when a weight holds NaN, a block doesn't fit, or a weight would be all zero.
    """
    scores = {name: _scores(name, weight.detach(), block, kept_of) for name, weight in weights.items()}
    if together:
        kept = smallest(torch.cat([s.flatten() for s in scores.values()]), sparsity)
        parts = torch.split(kept, [s.numel() for s in scores.values()])
        masks = {name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)}
    else:
        masks = {name: smallest(score, sparsity) for name, score in scores.items()}
    for name, mask in masks.items():
        if not mask.any():
            raise TrainingError(f"pruning to {sparsity:.4f} would leave {name} all zero; exclude it or prune less")
    return {name: _mask_of(masks[name], weight, block) for name, weight in weights.items()}


def _scores(name: str, weight: Tensor, block: tuple[int, int] | None, kept_of: tuple[int, int] | None) -> Tensor:
    magnitudes = as_rows(weight).float().abs()
    if not torch.isfinite(magnitudes).all():
        raise TrainingError(f"{name} holds NaN or infinity and can't be pruned; lower the learning rate")
    if kept_of is not None:
        return _n_of_m_scores(magnitudes, kept_of)
    return magnitudes if block is None else block_scores(magnitudes, block)


def _mask_of(kept: Tensor, weight: Tensor, block: tuple[int, int] | None) -> Tensor:
    rows = as_rows(weight)
    return _from_rows(kept if block is None else expand_blocks(kept, block, rows), weight.shape)


def sparsity_of(weight: Tensor) -> float:
    """Return the share of exact zeros, 0 to 1."""
    return 1.0 - int(torch.count_nonzero(weight)) / weight.numel()


def zero_block_share(weight: Tensor, block: tuple[int, int]) -> float:
    """Return the share of blocks that are all zero, 0 to 1."""
    return sparsity_of(block_scores(as_rows(weight.detach()).float().abs(), block))
