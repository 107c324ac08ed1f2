"""A base model that is quantized already, and recipes that quantize too."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from tests.zoo.train.conftest import make_tokenizer, tiny_bert, tiny_config
from tests.zoo.train.runs import flags
from zoo.errors import TrainingError
from zoo.recipe import Recipe
from zoo.train.models import Head, inherited_quantization, load_model
from zoo.train.quantization import quantize
from zoo.train.session import scheme_of
from zoo.train.tasks.question_answering import main

OWN = "modifiers:\n  - !QuantizationModifier {start_epoch: 0.5, submodules: [bert.encoder, qa_outputs]}\n"
BY_CHANNEL = """
modifiers:
  - !QuantizationModifier
      {start_epoch: 0.5, scheme: {weights: {symmetric: true, strategy: channel}}, ignore: [bert.embeddings]}
"""


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized")
    model, recipe = tiny_bert(), Recipe.load(OWN)
    quantize(model, scheme_of(recipe.modifiers[0]))
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    return folder


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (OWN.replace("[bert.encoder, qa_outputs]", "[bert.encoder]"), "submodules"),
        (BY_CHANNEL, "submodules, exclude_types, ignore, linear_outputs, per_channel"),
    ],
)
def test_a_recipe_that_quantizes_otherwise_is_refused_before_training(
    changed: str,
    said: str,
    quantized: Path,
    train_file: Path,
    dev_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(flags(quantized, tmp_path / "out", train_file, dev_file, "--recipe", changed)) == 1
    error = capsys.readouterr().err
    assert f"is quantized already, and the recipe's QuantizationModifier differs in {said};" in error
    assert "leave it out to keep" in error
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_quantizes_the_same_may_say_when(quantized: Path) -> None:
    again = Recipe.load(OWN.replace("start_epoch: 0.5", "start_epoch: 1.5"))
    assert inherited_quantization(quantized, load_model(quantized), again) == ()


def test_a_recipe_that_does_not_quantize_inherits(quantized: Path) -> None:
    (inherited,) = inherited_quantization(quantized, load_model(quantized), Recipe(modifiers=()))
    assert (inherited.start, inherited.submodules) == (0.0, ("bert.encoder", "qa_outputs"))


def test_a_new_head_needs_no_ranges_of_the_old_one(tmp_path: Path) -> None:
    """Which has one for each of its labels, two where three are wanted."""
    model, recipe = BertForSequenceClassification(tiny_config()), Recipe.load(BY_CHANNEL)
    quantize(model, scheme_of(recipe.modifiers[0]))
    model.save_pretrained(tmp_path)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    kind = AutoModelForSequenceClassification
    loaded = load_model(tmp_path, architecture=kind, head=Head(("a", "b", "c"), fresh=True))
    assert loaded.state_dict()["classifier.weight_quantizer.scale"].shape == (3,)
    name = "bert.pooler.dense.weight_quantizer.scale"
    assert torch.equal(loaded.state_dict()[name], model.state_dict()[name])


def test_ranges_of_other_shapes_than_the_recipe_gives_are_explained(quantized: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(quantized, folder)
    (folder / "recipe.yaml").write_text(BY_CHANNEL)
    with pytest.raises(TrainingError, match=r"recipe\.yaml doesn't describe how .*model\.safetensors was quantized"):
        load_model(folder)
