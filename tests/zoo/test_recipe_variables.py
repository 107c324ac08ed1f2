"""Variables, expressions in their place, stages and overrides."""

from __future__ import annotations

import pytest

from zoo.errors import RecipeError
from zoo.modifiers import EpochRangeModifier, QuantizationModifier
from zoo.recipe import Recipe


def refusal(text: str, **variables: object) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(text, variables or None)
    return caught.value


# Row 65 and 66, in a recipe: the place of the expression is named


def test_row_65_a_refused_expression_names_its_line() -> None:
    error = refusal("modifiers:\n  - !EpochRangeModifier\n    start_epoch: 0\n    end_epoch: eval(__import__('os'))\n")
    assert error.line == 4
    assert "has no meaning in arithmetic" in error.reason


def test_row_65_other_calls_are_text_and_no_number() -> None:
    error = refusal("modifiers:\n  - !EpochRangeModifier {start_epoch: 0, end_epoch: calc(3)}\n")
    assert "must be a number, not 'calc(3)'" in error.reason


def test_row_66_a_result_without_value_names_its_line() -> None:
    error = refusal("n: 0\nepochs: eval(1 / n)\nmodifiers: []\n")
    assert error.line == 2
    assert "has no value" in error.reason


# Row 67: variables


def test_row_67_a_cycle_is_named_with_its_chain() -> None:
    error = refusal("a: eval(b)\nb: eval(c + 1)\nc: eval(max(a, 1))\nmodifiers: []\n")
    assert "a -> b -> c -> a" in error.reason
    assert "a -> a" in refusal("a: eval(a)\nmodifiers: []\n").reason


def test_row_67_an_unknown_variable_is_named_with_its_chain() -> None:
    error = refusal("lr: 0.1\nb: eval(lrr * 2)\na: eval(b)\nmodifiers: []\n")
    assert error.line == 2
    assert "no variable lrr (needed by b); did you mean lr?" in error.reason


def test_row_67_a_long_chain_is_refused_or_evaluated_and_never_overflows_the_stack() -> None:
    chain = "".join(f"v{i}: eval(v{i + 1} + 1)\n" for i in range(2000))
    assert "deep" in refusal(f"{chain}v2000: 1\nmodifiers: []\n").reason
    backwards = "".join(f"v{i}: eval(v{i + 1} + 1)\n" for i in reversed(range(2000)))
    assert Recipe.load(f"v2000: 1\n{backwards}modifiers: []\n").variables["v0"] == 2001


STAGED = """
lr: 0.1
num_epochs: 9
dense_stage:
  num_epochs: 4
  half: eval(num_epochs / 2)
  training_modifiers:
    - !EpochRangeModifier {start_epoch: 0, end_epoch: eval(num_epochs)}
    - !SetLearningRateModifier {start_epoch: 0, learning_rate: eval(lr)}
quant_stage:
  run_type: train
  quantization_modifiers:
    - !QuantizationModifier {start_epoch: eval(num_epochs - 4)}
  training_modifiers:
    - !EpochRangeModifier {start_epoch: 4, end_epoch: eval(num_epochs)}
"""


def test_row_67_staged_variables_shadow_those_of_the_recipe() -> None:
    loaded = Recipe.load(STAGED)
    assert [m.end_epoch for m in loaded.of_type(EpochRangeModifier)] == [4, 9]
    assert loaded.of_type(QuantizationModifier)[0].start_epoch == 5
    assert loaded.variables["dense_stage.half"] == 2
    assert Recipe.load(loaded.to_yaml()) == loaded


def test_row_67_an_override_reaches_every_stage() -> None:
    loaded = Recipe.load(STAGED, {"num_epochs": 8})
    assert [m.end_epoch for m in loaded.of_type(EpochRangeModifier)] == [8, 8]
    assert loaded.variables["dense_stage.num_epochs"] == loaded.variables["num_epochs"] == 8


@pytest.mark.parametrize(
    ("overrides", "value"),
    [
        ({"n": 4}, 4),
        ('{"n": 4}', 4),
        ("n=4", 4),
        ("n:4", 4),
        (" n = 4 , ", 4),
        ("n=4.0", 4.0),
        ("n=2e-5", 2e-5),
        ('{"n": [1, 2]}', [1, 2]),
        ("n=zoo:a/b", "zoo:a/b"),
        ("n=", None),
        ({"n": "eval(m + 1)"}, 3),
    ],
)
def test_overrides_keep_their_type(overrides: dict[str, object] | str, value: object) -> None:
    loaded = Recipe.load("n: 1\nm: 2\nmodifiers: []\n", overrides)
    assert loaded.variables["n"] == value
    assert type(loaded.variables["n"]) is type(value)


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        ({"num_epoch": 1}, "did you mean num_epochs"),
        ("x=1", "no variable 'x'; it has num_epochs, lr"),
        ("num_epochs", "not name=value"),
        ("num_epochs=[1,2]", "JSON"),
        ("=3", "not name=value"),
        ("lr=1,lr=2", "twice"),
        ('{"lr": 1, "lr": 2}', "twice"),
        ('{"lr": NaN}', "not a finite number"),
        ('{"lr": 1e999}', "not a finite number"),
        ('{"lr": ', "no JSON"),
        ("{" * 100_000, "no JSON"),
        ('{"lr":' + "[" * 100_000, "no JSON"),
        ({"lr": float("inf")}, "not a finite number"),
        ({"lr": object()}, "no number, text, list or mapping"),
        ({"lr": 2**70}, "larger than 2"),
        ("lr=1e999", "not a finite number"),
        ({"lr": "\ud800"}, "surrogate"),
        ({"lr": {"": 1}}, "1 to 200 characters"),
        ({"lr": {"modifiers": 1}}, "stage"),
        ({"lr": [{"EpochRangeModifier": 1}]}, "stands in the list"),
    ],
)
def test_row_67_bad_overrides_are_refused(overrides: dict[str, object] | str, word: str) -> None:
    with pytest.raises(RecipeError, match=word):
        Recipe.load("num_epochs: 3\nlr: 0.1\nmodifiers: []\n", overrides)


def test_row_67_an_override_that_changes_nothing_is_reported() -> None:
    text = "used: 1\nidle: 2\nmodifiers:\n  - !EpochRangeModifier {start_epoch: 0, end_epoch: eval(used)}\n"
    assert [f.message for f in Recipe.load(text, {"used": 2}).lint()] == []
    findings = Recipe.load(text, {"idle": 3}).lint()
    assert [(f.level, f.message) for f in findings] == [
        ("warning", "the override of idle changes nothing: no eval(...) uses it")
    ]
