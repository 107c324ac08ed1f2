"""Pruning by a layer's outputs, against formulas and direct solutions of the least squares."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from zoo.errors import TrainingError
from zoo.train.second_order import block_saliency, damped, input_hessians, least_squares, prune_by_outputs


def correlated(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Inputs whose columns depend on each other, so that some can make up for others, and differ in size."""
    torch.manual_seed(seed)
    sizes = torch.linspace(0.2, 2.0, columns)[torch.randperm(columns)]
    return torch.randn(rows, columns) @ torch.randn(columns, columns) / columns**0.5 * sizes


def loss(weight: Tensor, other: Tensor, hessian: Tensor) -> float:
    return float((((weight - other) @ hessian) * (weight - other)).sum())


def direct(weight: Tensor, x: Tensor, mask: Tensor) -> Tensor:
    """Each row solved by torch.linalg.lstsq on the inputs that it keeps."""
    solved = torch.zeros_like(weight)
    for row, kept in enumerate(mask):
        solved[row, kept] = torch.linalg.lstsq(x[:, kept], x @ weight[row]).solution
    return solved


def test_least_squares_equals_a_direct_solution_row_by_row() -> None:
    x, weight = correlated(200, 24).double(), torch.randn(70, 24).double()
    mask = torch.rand(70, 24) < 0.4
    mask[0], mask[1] = True, False
    mask[1, 3] = True
    solved = least_squares(weight, x.T @ x / 200, mask, weight * mask, steps=200)
    torch.testing.assert_close(solved, direct(weight, x, mask))
    assert not solved[~mask].any()


def test_every_step_towards_the_least_squares_lowers_the_loss() -> None:
    x, weight = correlated(200, 24).double(), torch.randn(10, 24).double()
    hessian, mask = x.T @ x / 200, torch.rand(10, 24) < 0.6
    losses = [loss(weight, least_squares(weight, hessian, mask, weight * mask, steps), hessian) for steps in range(8)]
    assert all(later < earlier for earlier, later in pairwise(losses))


def test_saliency_is_what_the_best_removal_of_a_block_costs() -> None:
    x, weight = correlated(300, 16), torch.randn(3, 16)
    hessian = x.T @ x / 300
    inverse = torch.linalg.inv(hessian)
    corners = torch.stack([inverse[s : s + 4, s : s + 4] for s in range(0, 16, 4)])
    saliency = block_saliency(weight, corners)
    for row in range(3):
        for block in range(4):
            mask = torch.ones(1, 16, dtype=torch.bool)
            mask[0, 4 * block : 4 * block + 4] = False
            one = weight[row : row + 1]
            assert float(saliency[row, block]) == pytest.approx(loss(one, direct(one, x, mask), hessian), rel=1e-3)


def test_a_single_weight_goes_where_brute_force_says() -> None:
    x, weight = correlated(300, 8, seed=3), torch.randn(1, 8)
    hessian = x.T @ x / 300
    masks = [torch.ones(1, 8, dtype=torch.bool).index_fill(1, torch.tensor([column]), False) for column in range(8)]
    costs = [loss(weight, direct(weight, x, mask), hessian) for mask in masks]
    saliency = block_saliency(weight, torch.linalg.inv(hessian).diagonal()[:, None, None])
    torch.testing.assert_close(saliency[0], torch.tensor(costs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("width", "sparsity", "at_once"), [(4, 0.8, 128), (4, 0.5, 16), (1, 0.7, 32), (8, 0.75, 24)])
def test_counts_are_exact_and_blocks_whole(width: int, sparsity: float, at_once: int) -> None:
    x, weight = correlated(400, 48), torch.randn(20, 48)
    hessian = damped(x.T @ x / 400, 0.01)
    mask, moved = prune_by_outputs(weight, hessian, sparsity, width=width, columns_at_once=at_once, mask=None)
    blocks = mask.reshape(20, -1, width)
    assert torch.equal(blocks.all(-1), blocks.any(-1))
    assert int((~blocks[..., 0]).sum()) == round(sparsity * 20 * 48 / width)
    assert not moved[~mask].any()


def test_outputs_lose_less_than_by_magnitude() -> None:
    x, weight = correlated(600, 64), torch.randn(32, 64)
    hessian = damped(x.T @ x / 600, 0.01)
    mask, moved = prune_by_outputs(weight, hessian, 0.75, width=4, columns_at_once=32, mask=None)
    scores = weight.abs().reshape(32, 16, 4).mean(-1)
    kept = torch.ones(32 * 16, dtype=torch.bool)
    kept[scores.flatten().topk(384, largest=False).indices] = False
    by_magnitude = kept.reshape(32, 16).repeat_interleave(4, 1)
    ours = loss(weight, moved, hessian)
    assert ours < loss(weight, least_squares(weight, hessian, by_magnitude, weight * by_magnitude), hessian)
    assert ours < 0.7 * loss(weight, weight * by_magnitude, hessian)
    assert ours < loss(weight, weight * mask, hessian)


def test_what_was_pruned_stays_pruned() -> None:
    x, weight = correlated(300, 32), torch.randn(16, 32)
    hessian = damped(x.T @ x / 300, 0.01)
    first, moved = prune_by_outputs(weight, hessian, 0.4, width=4, columns_at_once=16, mask=None)
    second, _ = prune_by_outputs(moved, hessian, 0.7, width=4, columns_at_once=16, mask=first)
    assert not (second & ~first).any()
    assert int((~second[:, ::4]).sum()) == round(0.7 * 16 * 8)


class TwoReaders(nn.Module):
    """Two layers on one input, one on another; padding holds large numbers that must not count."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(6, 3), nn.Linear(5, 2)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        return self.c(self.a(x)) + self.b(x)[..., :2]


def test_hessians_are_those_of_the_inputs_without_padding() -> None:
    torch.manual_seed(0)
    model = TwoReaders().train()
    layers = {"a": model.a, "b": model.b, "c": model.c}
    batches = []
    for _ in range(3):
        x, mask = torch.randn(2, 7, 6), torch.ones(2, 7, dtype=torch.int64)
        mask[1, 4:] = 0
        x[1, 4:] = 1e6
        batches.append({"x": x, "attention_mask": mask})
    hessians = input_hessians(model, layers, batches)
    rows = torch.cat([b["x"][b["attention_mask"] != 0] for b in batches])
    torch.testing.assert_close(hessians["a"], rows.T @ rows / len(rows))
    assert torch.equal(hessians["a"], hessians["b"])
    with torch.no_grad():
        inner = model.a(rows)
    torch.testing.assert_close(hessians["c"], inner.T @ inner / len(rows))
    assert model.training


def test_a_layer_that_never_runs_is_named() -> None:
    model = TwoReaders()
    batch = {"x": torch.randn(1, 2, 6), "attention_mask": torch.ones(1, 2)}
    with pytest.raises(TrainingError, match="unused"):
        input_hessians(model, {"unused": model.unused}, [batch])
