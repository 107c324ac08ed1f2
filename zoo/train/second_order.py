"""Pruning by what a layer's outputs lose: optimal brain surgery, a layer at a time.

A linear layer y = x W^T loses |X (W - W')^T|^2 on inputs X when W becomes W', so that its Hessian is H = X^T X for
every row of W. Removing a block q of a row costs w_q^T ([H^-1]_qq)^-1 w_q when the other weights move to make up for
it (Hassibi & Stork 1992; in blocks: Kurtic et al. 2022, arXiv 2203.07259). Blocks are chosen from left to right as
SparseGPT does (Frantar & Alistarh 2023, arXiv 2301.00774): one inverse serves all rows, and what a removal costs moves
into the columns to its right. When all blocks are chosen, all rows are solved anew by least squares on what they
keep, by conjugate gradients from where the sweep left them: every step lowers the very loss above.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import TrainingError

_STEPS = 24  # of conjugate gradients; a step costs one product with the Hessian, and 20 leave 0.1 % of what can be won


@torch.no_grad()
def input_hessians(
    model: nn.Module, layers: Mapping[str, nn.Linear], batches: Iterable[Mapping[str, Any]]
) -> dict[str, Tensor]:
    """Return X^T X / rows of each layer's inputs, float32 [in, in], over some batches, in evaluation mode.

    Padded positions, where `attention_mask` [batch, sequence] is 0, are left out. Layers that share an input are
    counted once. Raises TrainingError when a layer sees no input.
    """
    sums: dict[str, Tensor] = {}
    rows = dict.fromkeys(layers, 0)
    seen: dict[int, str] = {}  # the input of this batch -> the first layer that saw it
    twins: dict[str, str] = {}
    kept: list[Tensor] = []

    def watch(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            first = seen.setdefault(id(x), name)
            kept.append(x)  # alive until the batch ends, so that its id stays its own
            if first != name:
                twins[name] = first
                return
            mask = batch.get("attention_mask")
            flat = x[mask != 0] if mask is not None and mask.shape == x.shape[:-1] else x.reshape(-1, x.shape[-1])
            with torch.autocast(x.device.type, enabled=False):
                square = flat.float().T @ flat.float()
            sums[name] = sums[name] + square if name in sums else square
            rows[name] += len(flat)

        return hook

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            model(**batch)
            seen.clear()
            kept.clear()
    finally:
        model.train(was_training)
        for handle in hooks:
            handle.remove()
    for name in layers:
        if not rows[twins.get(name, name)]:
            raise TrainingError(f"{name} saw no input while the samples ran; it can't be pruned by its outputs")
    means = {name: total / rows[name] for name, total in sums.items()}
    return {name: means[twins.get(name, name)] for name in layers}


def damped(hessian: Tensor, fraction: float) -> Tensor:
    """Return H + fraction * mean(diagonal) * I, which has an inverse."""
    mean = float(hessian.diagonal().mean())
    return hessian + torch.eye(len(hessian), device=hessian.device) * (fraction * mean if mean > 0 else 1.0)


def block_saliency(weight: Tensor, inverses: Tensor) -> Tensor:
    """Return w_q^T ([H^-1]_qq)^-1 w_q of every block [rows, n].

    weight [rows, n * width]; inverses: [H^-1]_qq of the blocks, [n, width, width].
    """
    blocks = weight.reshape(len(weight), len(inverses), -1)
    return torch.einsum("rqi,qij,rqj->rq", blocks, torch.linalg.inv(inverses), blocks)


@torch.no_grad()
def prune_by_outputs(
    weight: Tensor, hessian: Tensor, sparsity: float, *, width: int = 4, columns_at_once: int = 128, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return (mask, weight) with exactly round(sparsity * n) of the n blocks of 1 x width gone.

    weight [out, in] float32; hessian [in, in], positive definite; mask: what was pruned before stays pruned.
    Within each `columns_at_once` columns the same share goes. Raises TrainingError when width doesn't divide in.
    """
    columns = weight.shape[1]
    if columns % width:
        raise TrainingError(f"blocks of {width} don't divide a weight of {columns} inputs")
    moved = weight.detach().clone()
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    kept = torch.ones(len(weight), columns // width, dtype=torch.bool, device=weight.device)
    pruned = None if mask is None else ~mask[:, ::width]
    for first in range(0, columns, columns_at_once):
        last = min(first + columns_at_once, columns)
        here = slice(first // width, last // width)
        scores = _costs(moved, upper, first, last, width)
        if pruned is not None:
            scores[pruned[:, here]] = -1.0
        count = round(sparsity * len(weight) * (last // width)) - int((~kept).sum())
        chosen = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
        if count:
            chosen[torch.topk(scores.flatten(), count, largest=False, sorted=False).indices] = False
        kept[:, here] = chosen.reshape(scores.shape)
        _remove(moved, upper, kept[:, here], first, last, width)
    grown = kept.repeat_interleave(width, 1)
    return grown, least_squares(weight.detach(), hessian, grown, moved * grown)


def _costs(weight: Tensor, upper: Tensor, first: int, last: int, width: int) -> Tensor:
    """The saliency [rows, n] of the blocks in columns first..last when all columns left of each are settled.

    With U the upper factor of H^-1 = U^T U, the inverse of H's part from block q on starts with U_qq^T U_qq.
    """
    corners = torch.stack([upper[s : s + width, s : s + width] for s in range(first, last, width)])
    return block_saliency(weight[:, first:last], corners.mT @ corners)


def _remove(weight: Tensor, upper: Tensor, kept: Tensor, first: int, last: int, width: int) -> None:
    """Zero the blocks of columns first..last that are not kept [rows, n], in place; those to the right make up."""
    errors = weight.new_zeros(len(weight), last - first)
    for block, start in enumerate(range(first, last, width)):
        here = slice(start, start + width)
        gone = weight[:, here] * ~kept[:, block, None]
        error = torch.linalg.solve_triangular(upper[here, here], gone, upper=True, left=False)
        weight[:, start:last] -= error @ upper[here, start:last]
        errors[:, start - first : start - first + width] = error
    weight[:, last:] -= errors @ upper[first:last, last:]


@torch.no_grad()
def least_squares(weight: Tensor, hessian: Tensor, mask: Tensor, start: Tensor, steps: int = _STEPS) -> Tensor:
    """Return a W' that is zero outside of the mask, with tr((W - W') H (W - W')^T) near its least, never above start's.

    Row by row W'_M = H_MM^-1 (H w)_M, by at most `steps` conjugate gradients from `start`, scaled by H's diagonal.
    weight, mask, start [out, in]; hessian [in, in], positive definite.
    """
    scale = hessian.diagonal().reciprocal()
    solution = start.clone()
    residual = (weight - solution) @ hessian * mask
    direction = residual * scale
    energy = (residual * direction).sum(1, keepdim=True)
    least = energy * torch.finfo(weight.dtype).eps ** 2
    for _ in range(steps):
        image = direction @ hessian * mask
        curvature = (direction * image).sum(1, keepdim=True)
        going = (energy > least) & (curvature > 0)  # rows that have arrived stay
        if not going.any():
            break
        length = torch.where(going, energy / curvature.where(going, 1.0), 0.0)
        solution += length * direction
        residual -= length * image
        scaled = residual * scale
        before, energy = energy, (residual * scaled).sum(1, keepdim=True)
        direction = scaled + energy / before.where(going, 1.0) * direction
    return solution
