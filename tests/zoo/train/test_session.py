from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from zoo.errors import RecipeError, TrainingError
from zoo.recipe import Recipe
from zoo.train.distillation import ModelTeacher
from zoo.train.pruning import sparsity_of, zero_block_share
from zoo.train.quantization import QuantizedLinear
from zoo.train.report import build_report
from zoo.train.session import RecipeSession

STEPS = 5
FULL = """
modifiers:
  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 6.0}
  - !LearningRateFunctionModifier {lr_func: linear, init_lr: 0.05, final_lr: 0.0, start_epoch: 0.0, end_epoch: 6.0}
  - !MagnitudePruningModifier
      init_sparsity: 0.0
      final_sparsity: 0.75
      start_epoch: 1.0
      end_epoch: 3.0
      update_frequency: 0.2
      mask_type: block4
      params: ["re:[02].weight"]
  - !QuantizationModifier {start_epoch: 4.0, disable_quantization_observer_epoch: 5.0}
"""


def plain_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 8, generator=generator)
    return x, x[:, :4].argmax(1)


def train(
    model: nn.Module, session: RecipeSession, optimizer: torch.optim.Optimizer, first: int, last: int
) -> list[float]:
    """The plain loop of the session's docstring; returns the learning rates."""
    model.train()
    rates = []
    for step in range(first, last):
        x, y = batch(step)
        session.before_step(optimizer)
        outputs = model(x)
        session.loss(nn.functional.cross_entropy(outputs, y), outputs, {"input": x}).backward()
        optimizer.step()
        session.after_step()
        optimizer.zero_grad()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_a_plain_loop_prunes_and_quantizes_to_the_target() -> None:
    model = plain_model()
    session = RecipeSession(model, Recipe.load(FULL), STEPS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    rates = train(model, session, optimizer, 0, 30)
    session.finish()
    assert rates[0] == 0.05
    assert rates[15] == pytest.approx(0.025)
    for index in (0, 2):
        assert isinstance(model[index], QuantizedLinear)
        assert sparsity_of(model[index].weight) == 0.75
        assert zero_block_share(model[index].weight, (1, 4)) == 0.75


def test_row_76_zeros_stay_zero_after_every_step_with_momentum_and_weight_decay() -> None:
    model = plain_model()
    session = RecipeSession(model, Recipe.load(FULL), STEPS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    zeros: Tensor | None = None
    for step in range(30):
        train(model, session, optimizer, step, step + 1)
        now = model[0].weight == 0
        if zeros is not None:
            assert not (zeros & ~now).any(), f"a pruned weight came back at step {step}"
        zeros = now if step >= STEPS else None
        if session.pruners[0].masks:
            assert torch.equal(now, ~session.pruners[0].masks["0.weight"])
    assert sparsity_of(model[0].weight) == 0.75


def test_constant_pruning_keeps_the_pattern() -> None:
    model = plain_model()
    with torch.no_grad():
        model[0].weight[:, :4] = 0
    text = "modifiers:\n  - !ConstantPruningModifier {start_epoch: 0.0, params: __ALL_PRUNABLE__}\n"
    session = RecipeSession(model, Recipe.load(text), STEPS)
    train(model, session, torch.optim.Adam(model.parameters(), lr=0.1), 0, 8)
    assert model[0].weight[:, :4].abs().max() == 0
    assert model[0].weight[:, 4:].abs().min() > 0


@pytest.mark.parametrize("stop", [3, 9, 17, 23, 28], ids=["before", "pruning", "between", "observing", "frozen"])
def test_rows_73_and_74_resuming_anywhere_gives_the_same_bits(stop: int) -> None:
    recipe = Recipe.load(FULL)
    model = plain_model()
    session = RecipeSession(model, recipe, STEPS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    train(model, session, optimizer, 0, stop)
    saved = copy.deepcopy((session.state_dict(), model.state_dict(), optimizer.state_dict()))
    train(model, session, optimizer, stop, 30)

    resumed = plain_model(seed=9)
    again = RecipeSession(resumed, recipe, STEPS)
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    second = torch.optim.AdamW(resumed.parameters(), lr=1.0)
    second.load_state_dict(saved[2])
    train(resumed, again, second, stop, 30)
    ours, theirs = model.state_dict(), resumed.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_resuming_while_quantized_watches_the_layers_that_took_the_place_of_others() -> None:
    layers = "{gain: 1.0, student_layer_names: ['0'], teacher_layer_names: ['0']}"
    recipe = Recipe.load(FULL + f"  - !PerLayerDistillationModifier {layers}\n")
    model, teacher = plain_model(), ModelTeacher(plain_model(1))
    session = RecipeSession(model, recipe, STEPS, teacher)
    train(model, session, torch.optim.SGD(model.parameters(), lr=0.1), 0, 23)
    resumed = plain_model()
    again = RecipeSession(resumed, recipe, STEPS, teacher)
    again.load_state_dict(session.state_dict())
    resumed.load_state_dict(model.state_dict())
    train(resumed, again, torch.optim.SGD(resumed.parameters(), lr=0.1), 23, 24)
    assert again.losses["layer_loss"] > 0


def test_row_75_another_length_of_epoch_is_refused() -> None:
    recipe = Recipe.load(FULL)
    state = RecipeSession(plain_model(), recipe, STEPS).state_dict()
    with pytest.raises(TrainingError, match="5 steps an epoch, now there are 6"):
        RecipeSession(plain_model(), recipe, 6).load_state_dict(state)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_row_76_a_loss_that_is_not_finite_stops_with_its_step(value: float) -> None:
    session = RecipeSession(plain_model(), Recipe.load(FULL), STEPS)
    session.step = 7
    with pytest.raises(TrainingError, match=r"step 7 \(epoch 1\.400\)"):
        session.loss(torch.tensor(value), torch.zeros(1, 4), {})


def test_a_teacher_is_followed() -> None:
    text = "modifiers:\n  - !DistillationModifier {hardness: 1.0, temperature: 2.0}\n"
    teacher, student = plain_model(1), plain_model(2)
    session = RecipeSession(student, Recipe.load(text), STEPS, ModelTeacher(teacher))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    x, _ = batch(0)
    before = (student(x) - teacher(x)).abs().mean()
    train(student, session, optimizer, 0, 60)
    assert (student(x).softmax(-1) - teacher(x).softmax(-1)).abs().mean() < 0.1
    assert (student(x) - teacher(x)).abs().mean() < before


def test_a_model_that_gives_tuples_is_told_apart_from_one_that_can_be_distilled() -> None:
    text = "modifiers:\n  - !DistillationModifier {hardness: 1.0}\n"
    session = RecipeSession(plain_model(), Recipe.load(text), STEPS, ModelTeacher(plain_model(1)))
    with pytest.raises(TrainingError, match="return a tensor, or a mapping of named tensors"):
        session.loss(torch.tensor(1.0), (torch.zeros(1, 4),), {"input": torch.zeros(1, 8)})


def test_a_pruner_that_ends_with_the_run_reaches_its_target_in_finish() -> None:
    text = """
modifiers:
  - !GMPruningModifier
      {init_sparsity: 0.0, final_sparsity: 0.5, start_epoch: 0.0, end_epoch: 2.0, update_frequency: 0.5,
       params: __ALL_PRUNABLE__, global_sparsity: true}
"""
    model = plain_model()
    session = RecipeSession(model, Recipe.load(text), STEPS)
    train(model, session, torch.optim.SGD(model.parameters(), lr=0.01), 0, 2 * STEPS)
    session.finish()
    zeros = sum(int((m.weight == 0).sum()) for m in (model[0], model[2]))
    assert zeros == (8 * 16 + 16 * 4) // 2


HANDED_OVER = """
modifiers:
  - !ConstantPruningModifier {start_epoch: 2.0, params: __ALL_PRUNABLE__}
  - !GMPruningModifier
      {init_sparsity: 0.1, final_sparsity: 0.8, start_epoch: 0.0, end_epoch: 2.0, update_frequency: 0.5,
       params: __ALL_PRUNABLE__, leave_enabled: 0}
"""


@pytest.mark.parametrize("last", [2 * STEPS, 2 * STEPS + 1, 4 * STEPS])
def test_a_pruner_that_lets_go_at_its_end_hands_its_last_mask_to_one_that_keeps_zeros(last: int) -> None:
    model = plain_model()
    session = RecipeSession(model, Recipe.load(HANDED_OVER), STEPS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    train(model, session, optimizer, 0, 2 * STEPS)
    assert sparsity_of(model[0].weight) > 0.6, "the step that ends at end_epoch was taken before it"
    train(model, session, optimizer, 2 * STEPS, last)
    session.finish()
    assert [round(sparsity_of(model[i].weight), 2) for i in (0, 2)] == [0.8, 0.8]


QUANTIZED = "modifiers:\n  - !QuantizationModifier {start_epoch: %s, disable_quantization_observer_epoch: %s}\n"


@pytest.mark.parametrize("freeze", [0.5, 1.0])
def test_ranges_that_freeze_before_they_are_seen_are_refused(freeze: float) -> None:
    with pytest.raises(RecipeError, match=r"must come after start_epoch 1"):
        Recipe.load(QUANTIZED % (1.0, freeze))


@pytest.mark.parametrize(("start", "freeze"), [(1.25, 1.35), (1.9, -1)], ids=["frozen within a step", "only in finish"])
def test_quantizers_that_saw_no_data_are_reported_as_missed(start: float, freeze: float) -> None:
    model = plain_model()
    session = RecipeSession(model, Recipe.load(QUANTIZED % (start, freeze)), STEPS)
    train(model, session, torch.optim.SGD(model.parameters(), lr=0.1), 0, 2 * STEPS)
    session.finish()
    (missed,) = build_report(session, {}, 0.0)["missed"]
    assert "2 of 2 ranges of activations saw no data, such as 0.input_quantizer" in missed


def test_quantizers_that_saw_data_are_not_missed_even_if_it_was_zero() -> None:
    model = plain_model()
    session = RecipeSession(model, Recipe.load(QUANTIZED % (1.9, -1)), STEPS)
    session.step = 2 * STEPS
    session.before_step()
    model.train()(torch.zeros(1, 8))
    assert build_report(session, {}, 0.0)["missed"] == []


def test_patterns_that_match_nothing_are_refused() -> None:
    with pytest.raises(RecipeError, match="matches no parameter"):
        RecipeSession(plain_model(), Recipe.load(FULL.replace("re:[02]", "re:encoder")), STEPS)


def test_a_weight_with_two_targets_is_refused() -> None:
    text = """
modifiers:
  - !MagnitudePruningModifier
      {init_sparsity: 0.0, final_sparsity: {0.5: ["0.weight"], 0.7: ["re:.*weight"]}, start_epoch: 0.0,
       end_epoch: 2.0, update_frequency: 0.5, params: []}
"""
    with pytest.raises(TrainingError, match=r"gives 0\.weight two sparsities"):
        RecipeSession(plain_model(), Recipe.load(text), STEPS)


def test_gradient_accumulation_counts_optimizer_steps() -> None:
    model = plain_model()
    session = RecipeSession(model, Recipe.load(FULL), STEPS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(4):
        session.before_step(optimizer)
        for x, y in (batch(step), batch(step + 50)):
            session.loss(nn.functional.cross_entropy(model(x), y), model(x), {}).backward()
        optimizer.step()
        session.after_step()
    assert session.epoch == 4 / STEPS
