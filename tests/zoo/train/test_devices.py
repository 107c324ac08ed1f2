"""Training on another device than the CPU: the same numbers, and nothing is left behind on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import BertForQuestionAnswering, TrainingArguments

from tests.zoo.train.conftest import make_questions, make_tokenizer, tiny_bert
from tests.zoo.train.second_device import DEVICE, SecondDevice
from zoo.answers import Window, make_windows
from zoo.recipe import Recipe
from zoo.train.arguments import RunArguments
from zoo.train.distillation import LayerOutputs, ModelTeacher, RememberedTeacher
from zoo.train.dropout import dropout
from zoo.train.features import Collator, predict
from zoo.train.quantization import ATTENTION
from zoo.train.report import build_report
from zoo.train.session import RecipeSession

RECIPE = """
modifiers:
  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 4.0}
  - !{PRUNER}
      init_sparsity: 0.25
      final_sparsity: 0.5
      start_epoch: 0.0
      end_epoch: 2.0
      update_frequency: 0.5
      mask_type: block4
      params: ["re:bert.encoder.*dense.weight"]
  - !QuantizationModifier {start_epoch: 2.5, submodules: [bert.embeddings, bert.encoder, qa_outputs]}
  - !DistillationModifier {hardness: 0.5, temperature: 2.0}
  - !PerLayerDistillationModifier
      {student_layer_names: [bert.encoder.layer.0], teacher_layer_names: [bert.encoder.layer.0]}
"""
STEPS = 2


@pytest.fixture(autouse=True)
def _what_the_second_device_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)


def bert(seed: int = 0) -> BertForQuestionAnswering:
    model = tiny_bert(seed)
    model.set_attn_implementation(ATTENTION)
    return model


def some_windows() -> list[Window]:
    tokenizer = make_tokenizer().backend_tokenizer
    paragraphs = make_questions(6)["data"][0]["paragraphs"]  # type: ignore[index]
    texts = [(p["qas"][0]["question"], p["context"]) for p in paragraphs]
    return [w for question, context in texts for w in make_windows(tokenizer, question, context, max_length=48)]


WINDOWS = some_windows()
COLLATOR = Collator(pad_id=0, with_types=True)


def remembered() -> RememberedTeacher:
    model = bert(1)
    layers = LayerOutputs(model, ["bert.encoder.layer.0"])
    rows = predict(model, WINDOWS, COLLATOR, 2, layers=layers)
    return RememberedTeacher(rows, {"bert.encoder.layer.0": rows.pop("bert.encoder.layer.0")})


def trained(device: str, pruner: str, *, resumed_at: int, remember: bool) -> tuple[dict[str, Tensor], list[str]]:
    """Train, saving and taking up again the state at one step; return the weights and what was missed."""

    def batches(_: int) -> Iterator[dict[str, Tensor]]:
        for first in range(0, len(WINDOWS), 3):
            yield {k: v.to(device) for k, v in COLLATOR.inputs(WINDOWS[first : first + 3]).items()}

    recipe = Recipe.load(RECIPE.replace("{PRUNER}", pruner))
    model = bert().to(device).train()
    teacher = remembered() if remember else ModelTeacher(bert(1).to(device))
    session = RecipeSession(model, recipe, STEPS, teacher, batches)
    for step in range(4 * STEPS):
        if step == resumed_at:
            state = {k: v.cpu() for k, v in session.state_dict().items()}
            session = RecipeSession(model, recipe, STEPS, teacher, batches)
            session.load_state_dict(state)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        session.before_step(optimizer)
        batch = COLLATOR.inputs(WINDOWS[:3]) | {"feature_index": torch.arange(3)}
        inputs = {k: v.to(device) for k, v in batch.items()}
        torch.manual_seed(step)
        outputs = model(**{k: v for k, v in inputs.items() if k != "feature_index"})
        session.loss(outputs.start_logits.square().mean(), outputs, inputs).backward()
        optimizer.step()
        session.after_step()
        optimizer.zero_grad()
    session.finish()
    return {k: v.detach().cpu() for k, v in model.state_dict().items()}, build_report(session, {}, 0.0)["missed"]


@pytest.mark.parametrize("remember", [False, True], ids=["asked", "remembered"])
@pytest.mark.parametrize("resumed_at", [2, 6], ids=["pruning", "quantized"])
@pytest.mark.parametrize("pruner", ["MagnitudePruningModifier", "LayerOBSPruningModifier"])
def test_a_whole_recipe_gives_the_same_numbers_on_another_device(pruner: str, resumed_at: int, remember: bool) -> None:
    ours, missed = trained("cpu", pruner, resumed_at=resumed_at, remember=remember)
    assert missed == []
    with SecondDevice():
        theirs, missed = trained(DEVICE, pruner, resumed_at=resumed_at, remember=remember)
    assert missed == []
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_a_model_predicts_comes_back_to_the_cpu() -> None:
    expected = predict(bert(), WINDOWS, COLLATOR, 2)
    with SecondDevice():
        got = predict(bert().to(DEVICE), WINDOWS, COLLATOR, 2)
    for key, rows in expected.items():
        assert all(row.device.type == "cpu" and torch.equal(row, r) for row, r in zip(got[key], rows, strict=True))


def test_dropout_draws_where_its_input_is() -> None:
    with SecondDevice():
        dropped = dropout(torch.ones(1000, device=DEVICE), 0.5, training=True)
        assert dropped.device.type == DEVICE
        assert 400 < int((dropped == 0).sum()) < 600


def test_a_process_drives_one_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: setattr(self, "_n_gpu", 4))
    assert RunArguments(output_dir=str(tmp_path)).n_gpu == 1


def test_the_second_device_refuses_tensors_of_the_cpu() -> None:
    with SecondDevice(), pytest.raises(RuntimeError, match="two devices"):
        nn.Linear(4, 4).to(DEVICE)(torch.ones(1, 4))
