"""Schedules have the values that the formulas say, at the epochs that the recipe says."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from zoo.commands.recipes import app
from zoo.errors import RecipeError
from zoo.modifiers import (
    DistillationModifier,
    EpochRangeModifier,
    GMPruningModifier,
    LearningRateFunctionModifier,
    Modifier,
    SetLearningRateModifier,
    interpolate,
    learning_rate_at,
    match_parameters,
    sparsity_at,
    update_due,
)
from zoo.recipe import Recipe
from zoo.schedule import plan, render, step_at

BERT = [
    f"bert.encoder.layer.{layer}.{part}.{kind}"
    for layer in range(12)
    for part in (
        "attention.self.query",
        "attention.self.key",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    )
    for kind in ("weight", "bias")
]


def pruner(**fields: object) -> GMPruningModifier:
    defaults: dict[str, object] = {
        "init_sparsity": 0.2,
        "final_sparsity": 0.8,
        "start_epoch": 2.0,
        "end_epoch": 6.0,
        "update_frequency": 0.5,
        "params": ["a"],
    }
    return GMPruningModifier.model_validate(defaults | fields)


def rate(lr_func: str, init: float, final: float, start: float, end: float, cycle: float = 1.0) -> Modifier:
    return LearningRateFunctionModifier.model_validate(
        {
            "lr_func": lr_func,
            "init_lr": init,
            "final_lr": final,
            "start_epoch": start,
            "end_epoch": end,
            "cycle_epochs": cycle,
        }
    )


# Sparsity


@pytest.mark.parametrize(
    ("inter_func", "values"),
    [
        ("linear", [0, 0.25, 0.5, 0.75, 1]),
        ("cubic", [0, 37 / 64, 7 / 8, 63 / 64, 1]),
        ("inverse_cubic", [0, 1 - 0.75 ** (1 / 3), 1 - 0.5 ** (1 / 3), 1 - 0.25 ** (1 / 3), 1]),
    ],
)
def test_interpolation_at_the_quarters(inter_func: str, values: list[float]) -> None:
    assert [interpolate(inter_func, x / 4) for x in range(5)] == pytest.approx(values, abs=1e-15)
    assert (interpolate(inter_func, -1), interpolate(inter_func, 2)) == (0, 1)


def test_cubic_sparsity_at_the_quarters_of_its_epochs() -> None:
    expected = [0.2, 0.2 + 0.6 * 37 / 64, 0.2 + 0.6 * 7 / 8, 0.2 + 0.6 * 63 / 64, 0.8]
    assert [sparsity_at(pruner(), 2.0 + x) for x in range(5)] == pytest.approx(expected)


def test_sparsity_is_exact_before_its_start_and_from_its_end_on() -> None:
    assert [sparsity_at(pruner(), epoch) for epoch in (0, 2, 6, 6.5, 1e6)] == [0.2, 0.2, 0.8, 0.8, 0.8]
    assert sparsity_at(pruner(end_epoch=0.1 * 3 + 2), 2.3) == 0.8


def test_an_immediate_start_counts_from_epoch_zero() -> None:
    assert sparsity_at(pruner(start_epoch=-1, inter_func="linear"), 3.0) == pytest.approx(0.5)


def test_own_sparsity_and_several_targets_must_be_given() -> None:
    own = pruner(init_sparsity="__FROM_PARAM__", inter_func="linear")
    assert sparsity_at(own, 4.0, init=0.4) == pytest.approx(0.6)
    several = pruner(final_sparsity={"0.8": ["a"], "0.6": ["b"]}, params=[])
    assert sparsity_at(several, 6.0, final=0.6) == 0.6
    for modifier in (own, several):
        with pytest.raises(ValueError, match="sparsity"):
            sparsity_at(modifier, 3.0)


@given(st.sampled_from(["linear", "cubic", "inverse_cubic"]), st.lists(st.floats(0, 10), min_size=2, max_size=8))
def test_sparsity_never_falls_and_stays_within_its_bounds(inter_func: str, epochs: list[float]) -> None:
    values = [sparsity_at(pruner(inter_func=inter_func), epoch) for epoch in sorted(epochs)]
    assert values == sorted(values)
    assert all(0.2 <= value <= 0.8 for value in values)


def test_masks_are_block4_its_equal_and_n_of_m() -> None:
    assert pruner(mask_type="block4").block == pruner(mask_type=[1, 4]).block == (1, 4)
    assert pruner().block is None
    assert pruner(mask_type="2:4", final_sparsity=0.5).kept_of == (2, 4)
    assert pruner(mask_type="3:4", final_sparsity=0.25).kept_of == (3, 4)
    assert pruner(mask_type="tensorrt", final_sparsity=0.5).kept_of == (2, 4)
    with pytest.raises(ValidationError, match="block4"):
        pruner(mask_type="4block")


# When


def test_a_modifier_is_active_from_its_start_until_before_its_end() -> None:
    modifier = EpochRangeModifier(start_epoch=1, end_epoch=3)
    assert [modifier.active(epoch) for epoch in (0.99, 1, 2.99, 3, 4)] == [False, True, True, False, False]
    forever = DistillationModifier()
    assert forever.active(0)
    assert forever.active(1e9)


def test_updates_are_due_by_frequency_and_once_at_the_end() -> None:
    due, last = [], None
    for step in range(80):
        if update_due(pruner(), step / 10, last):
            last = step / 10
            due.append(last)
    assert due == [2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0]
    rare = pruner(update_frequency=100)
    assert [update_due(rare, epoch, 2.0) for epoch in (2.1, 5.9, 6.0)] == [False, False, True]
    assert not update_due(rare, 7.0, 6.0)
    assert update_due(pruner(update_frequency=-1), 2.1, 2.05)


@pytest.mark.parametrize(("epoch", "step"), [(0.0, 0), (1.0, 10), (0.05, 1), (0.3, 3), (0.1 * 3, 3), (1.01, 11)])
def test_a_step_is_the_first_at_or_after_its_epoch(epoch: float, step: int) -> None:
    assert step_at(epoch, 10) == step


# Learning rate


def test_linear_and_cosine_rates() -> None:
    linear, cosine = [rate("linear", 0.4, 0.0, 1, 5)], [rate("cosine", 0.4, 0.0, 1, 5)]
    assert learning_rate_at(linear, 0.9) is None
    assert [learning_rate_at(linear, epoch) for epoch in (1, 2, 3, 5, 9)] == pytest.approx([0.4, 0.3, 0.2, 0.0, 0.0])
    assert [learning_rate_at(cosine, epoch) for epoch in (1, 3, 5)] == pytest.approx([0.4, 0.2, 0.0])
    assert learning_rate_at(cosine, 2) == pytest.approx(0.2 * (1 + 2**-0.5))


def test_cyclic_rates_restart_and_the_last_cycle_is_shorter() -> None:
    cyclic = [rate("cyclic_linear", 0.4, 0.0, 0, 5, cycle=2)]
    epochs = (0, 1, 1.5, 2, 3, 4, 4.5, 5)
    expected = [0.4, 0.2, 0.1, 0.4, 0.2, 0.4, 0.2, 0.0]
    assert [learning_rate_at(cyclic, epoch) for epoch in epochs] == pytest.approx(expected)


def test_the_latest_change_of_the_rate_stays() -> None:
    modifiers = [
        SetLearningRateModifier(start_epoch=0, learning_rate=0.5),
        rate("linear", 0.4, 0.2, 2, 4),
        rate("linear", 0.1, 0.0, 6, 8),
    ]
    values = [learning_rate_at(modifiers, epoch) for epoch in (0, 1.9, 2, 4, 5.9, 6, 8, 9)]
    assert values == pytest.approx([0.5, 0.5, 0.4, 0.2, 0.2, 0.1, 0.0, 0.0])


# Row 69: which parameters


def test_row_69_patterns_match_from_the_start_and_keep_the_order_of_names() -> None:
    pattern = "re:bert.encoder.layer.*.attention.self.query.weight"
    assert match_parameters([pattern], BERT) == [
        f"bert.encoder.layer.{i}.attention.self.query.weight" for i in range(12)
    ]
    assert match_parameters([BERT[7], BERT[0], "re:.*layer\\.0\\..*query.weight"], BERT) == [BERT[0], BERT[7]]
    assert match_parameters(["re:(?:x|bert).*(query|key).weight$"], BERT) != []
    assert match_parameters(["__ALL__"], BERT) == BERT
    assert match_parameters(["__ALL_PRUNABLE__"], BERT, prunable=[BERT[2]]) == [BERT[2]]


@pytest.mark.parametrize(
    ("pattern", "word"),
    [
        (
            "bert.encoder.layer.0.attention.self.query.wieght",
            "near to it are bert.encoder.layer.0.attention.self.query.weight",
        ),
        ("re:encoder.*", "matches no parameter"),
        ("re:bert.encoder.layers.*.output.dense.weight", "near to it are"),
    ],
)
def test_row_69_a_pattern_that_matches_nothing_is_an_error_with_near_names(pattern: str, word: str) -> None:
    with pytest.raises(RecipeError, match=word):
        match_parameters(["__ALL__", pattern], BERT)


def test_row_69_all_prunable_of_nothing_is_an_error() -> None:
    with pytest.raises(RecipeError, match="matches no parameter"):
        match_parameters(["__ALL_PRUNABLE__"], BERT, prunable=[])


HOSTILE = [
    "re:(a+)+$",
    "re:(a*)*b",
    "re:(a|a)*b",
    "re:((a?){9}){9}",
    "re:(?:a|aa)+$",
    "re:(.*a){20}",
    "re:(a)\\1",
    "re:(?=a)",
    "re:(?P<n>a)",
    "re:(?i)a",
    "re:(?#c)a",
    "re:(",
    "re:[a",
    "re:*",
    "re:a{2}{3}{4}",
    "re:a{99999999999}",
    "re:" + "a" * 300,
    "re:(a" + "(" * 90 + "b*" + ")" * 90 + ")+",
    "",
]


@pytest.mark.parametrize("pattern", HOSTILE)
def test_row_69_an_unbounded_or_bad_regex_is_refused_when_the_recipe_loads(pattern: str) -> None:
    with pytest.raises(ValidationError, match="params"):
        pruner(params=[pattern])


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "pattern",
    ["re:" + "a?" * 60 + "a" * 60, "re:" + ".*" * 20 + "x$", "re:" + "(a|a)" * 30 + "b", "re:" + "a*" * 40 + "b"],
)
def test_row_69_a_costly_regex_is_refused_before_it_runs(pattern: str) -> None:
    start = time.monotonic()
    with pytest.raises(RecipeError, match="too many wildcards"):
        match_parameters([pattern], ["a" * 100])
    assert time.monotonic() - start < 1


@pytest.mark.timeout(60)
@given(st.text(alphabet="ab.*+?|()[]{}\\1-,2^$:=!<P", max_size=24))
def test_row_69_any_regex_ends_soon(text: str) -> None:
    with suppress(RecipeError):
        match_parameters([f"re:{text}"], ["a" * 60, "ab" * 30])


# Plan

PLANNED = """
modifiers:
  - !EpochRangeModifier {start_epoch: 0, end_epoch: 4}
  - !LearningRateFunctionModifier {lr_func: linear, init_lr: 0.4, final_lr: 0.0, start_epoch: 0, end_epoch: 4}
  - !GMPruningModifier
      {init_sparsity: 0.2, final_sparsity: 0.8, start_epoch: 1, end_epoch: 2, update_frequency: -1, params: [a, b]}
  - !DistillationModifier {hardness: 1.0, temperature: 2.0, end_epoch: 3}
  - !QuantizationModifier {start_epoch: 2.5, disable_quantization_observer_epoch: 3.5}
"""


def test_a_plan_has_a_row_for_every_epoch_and_event() -> None:
    rows = plan(Recipe.load(PLANNED), steps_per_epoch=10)
    assert [row.epoch for row in rows] == [0, 1, 2, 2.5, 3, 3.5, 4]
    assert [row.step for row in rows] == [0, 10, 20, 25, 30, 35, 40]
    assert [row.learning_rate for row in rows] == pytest.approx([0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.0])
    assert [row.sparsity["a and 1 more"] for row in rows] == [None, 0.2, 0.8, 0.8, 0.8, 0.8, 0.8]
    assert [row.quantization for row in rows] == ["off"] * 3 + ["observing"] * 2 + ["frozen"] * 2
    assert [row.distillation for row in rows] == [(1.0, 2.0)] * 4 + [None] * 3
    assert "GMPruningModifier starts" in rows[1].events
    assert rows[5].events == ("observers freeze",)


def test_a_plan_is_a_table_of_text() -> None:
    text = render(plan(Recipe.load(PLANNED), 10))
    assert text.startswith("epoch  step  learning rate  sparsity  quantization  distillation")
    assert "2.5    25    0.15           0.8000    observing     hardness 1, T 2" in text
    assert text.endswith("sparsity: a and 1 more\n")


def test_a_plan_needs_a_length_and_stays_short() -> None:
    endless = Recipe.load("modifiers:\n  - !QuantizationModifier {}\n")
    with pytest.raises(RecipeError, match="give num_epochs"):
        plan(endless, 10)
    with pytest.raises(RecipeError, match="steps_per_epoch"):
        plan(endless, 0)
    runner, text = CliRunner(), "modifiers:\n  - !QuantizationModifier {start_epoch: 0}\n"
    assert "--num_epochs" in str(runner.invoke(app, ["plan", text]).exception)
    planned = runner.invoke(app, ["plan", text, "--num_epochs", "0.5"])
    assert planned.exit_code == 0
    assert "observing" in planned.stdout
    assert [row.quantization for row in plan(endless, 10, num_epochs=0.5)] == ["observing"] * 2
    assert len(plan(endless, 10, num_epochs=1_000_000)) < 300
    assert [row.epoch for row in plan(Recipe.load(PLANNED), 10, num_epochs=1.5)] == [0, 1, 1.5]
