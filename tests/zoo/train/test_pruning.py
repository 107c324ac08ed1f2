from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import TrainingError
from zoo.train.pruning import as_rows, block_scores, magnitude_masks, sparsity_of, zero_block_share

sizes = st.integers(1, 24)


@settings(max_examples=40, deadline=None)
@given(rows=sizes, columns=sizes, sparsity=st.floats(0, 0.9), seed=st.integers(0, 9))
def test_unstructured_count_is_exact(rows: int, columns: int, sparsity: float, seed: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    dropped = round(sparsity * weight.numel())
    if dropped == weight.numel():
        return
    mask = magnitude_masks({"w": weight}, sparsity)["w"]
    assert int((~mask).sum()) == dropped
    if dropped > 0:
        assert weight[~mask].abs().max() <= weight[mask].abs().min()


@settings(max_examples=40, deadline=None)
@given(rows=sizes, blocks=st.integers(2, 8), sparsity=st.floats(0, 0.7), seed=st.integers(0, 9))
def test_block_count_is_exact_and_blocks_are_whole(rows: int, blocks: int, sparsity: float, seed: int) -> None:
    weight = torch.randn(rows, blocks * 4, generator=torch.Generator().manual_seed(seed))
    mask = magnitude_masks({"w": weight}, sparsity, block=(1, 4))["w"]
    per_block = mask.reshape(rows, blocks, 4)
    assert torch.equal(per_block.any(-1), per_block.all(-1))
    assert int((~per_block[..., 0]).sum()) == round(sparsity * rows * blocks)


def test_block_score_is_the_mean_magnitude_also_of_a_short_tail() -> None:
    magnitudes = torch.tensor([[1.0, 2.0, 3.0, 6.0, 4.0, 2.0]])
    assert block_scores(magnitudes, (1, 4)).tolist() == [[3.0, 3.0]]


def test_ties_are_cut_to_the_exact_count() -> None:
    mask = magnitude_masks({"w": torch.ones(10, 10)}, 0.37)["w"]
    assert int((~mask).sum()) == 37


def test_two_of_four_keeps_the_two_largest_of_every_four_inputs() -> None:
    weight = torch.randn(6, 16)
    mask = magnitude_masks({"w": weight}, 0.5, kept_of=(2, 4))["w"]
    assert mask.reshape(-1, 4).sum(1).tolist() == [2] * 24
    halfway = magnitude_masks({"w": weight}, 0.25, kept_of=(2, 4))["w"]
    assert int((~halfway).sum()) == 24
    assert not (~halfway & mask).any()


def test_ranked_together_the_small_tensor_loses_more() -> None:
    weights = {"small": torch.full((4, 4), 0.1), "large": torch.full((4, 4), 9.0)}
    masks = magnitude_masks(weights, 0.25, together=True)
    assert (int(masks["small"].sum()), int(masks["large"].sum())) == (8, 16)


def test_convolutions_are_blocked_along_their_input_channels() -> None:
    weight = torch.randn(3, 8, 2, 2)
    mask = magnitude_masks({"w": weight}, 0.5, block=(1, 4))["w"]
    assert mask.shape == weight.shape
    assert zero_block_share(weight * mask, (1, 4)) == 0.5
    assert as_rows(weight).shape == (12, 8)


@pytest.mark.parametrize(("block", "kept_of"), [((3, 4), None), (None, (2, 4))])
def test_a_pattern_that_does_not_fit_is_refused(block: tuple[int, int] | None, kept_of: tuple[int, int] | None) -> None:
    with pytest.raises(TrainingError, match="divide"):
        magnitude_masks({"w": torch.randn(4, 6)}, 0.5, block=block, kept_of=kept_of)


def test_row_76_a_layer_pruned_to_all_zero_is_refused_by_name() -> None:
    weights = {"tiny": torch.full((2, 2), 1e-6), "large": torch.ones(8, 8)}
    with pytest.raises(TrainingError, match="tiny all zero"):
        magnitude_masks(weights, 0.2, together=True)


def test_row_76_weights_that_are_not_finite_are_refused_by_name() -> None:
    with pytest.raises(TrainingError, match=r"w\.1 holds NaN"):
        magnitude_masks({"w.1": torch.tensor([[1.0, float("nan")]])}, 0.5)


def test_sparsity_counts_exact_zeros() -> None:
    assert sparsity_of(torch.tensor([0.0, -0.0, 1e-30, 1.0])) == 0.5
