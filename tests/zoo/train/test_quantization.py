from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForQuestionAnswering, DistilBertConfig, DistilBertForQuestionAnswering

from zoo.errors import TrainingError
from zoo.train.quantization import (
    ActivationQuantizer,
    QuantizedEmbedding,
    QuantizedLinear,
    Scheme,
    attention,
    quantize,
    quantized_modules,
    set_observing,
)

LEGACY = Scheme(submodules=("bert.embeddings", "bert.encoder", "qa_outputs"), exclude_types=frozenset({"LayerNorm"}))


def bert(seed: int = 0) -> BertForQuestionAnswering:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertForQuestionAnswering(BertConfig(vocab_size=60, max_position_embeddings=32, **sizes)).eval()


def observe(model: nn.Module, batches: int = 3) -> None:
    model.train()
    for seed in range(batches):
        ids = torch.randint(5, 60, (4, 12), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    model.eval()


def test_parameters_stay_the_same_objects_under_the_same_names() -> None:
    model = bert()
    before = dict(model.named_parameters())
    quantize(model, LEGACY)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)


def test_all_linears_embeddings_and_attention_products_are_covered() -> None:
    model = bert()
    names = quantize(model, LEGACY)
    assert sum(isinstance(m, QuantizedLinear) for m in model.modules()) == 13
    assert sum(isinstance(m, QuantizedEmbedding) for m in model.modules()) == 3
    assert "bert.encoder.layer.0.attention.self" in names


def test_one_grid_serves_query_key_and_value() -> None:
    model = bert()
    quantize(model, LEGACY)
    attention = model.bert.encoder.layer[0].attention.self
    assert isinstance(attention.input_quantizer, ActivationQuantizer)
    assert all(getattr(attention, name).input_quantizer is None for name in ("query", "key", "value"))


def test_distilbert_is_quantized_too() -> None:
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=60, dim=32, n_layers=1, n_heads=2, hidden_dim=64, max_position_embeddings=32)
    model = DistilBertForQuestionAnswering(config)
    quantize(model, Scheme())
    observe(model)
    attention = model.distilbert.transformer.layer[0].attention
    assert attention.attention_quantizers.probabilities.maximum > 0
    assert attention.out_lin.input_quantizer is not None


def test_outputs_stay_near_and_grids_hold_zero() -> None:
    model = bert()
    plain = copy.deepcopy(model)
    quantize(model, LEGACY)
    observe(model)
    ids = torch.randint(5, 60, (2, 12))
    difference = (model(input_ids=ids).start_logits - plain(input_ids=ids).start_logits).abs().max()
    assert 0 < difference < 0.1
    for module in model.modules():
        if isinstance(module, ActivationQuantizer):
            assert 0 <= int(module.zero_point) <= 255
            assert module.minimum <= 0 <= module.maximum


def test_zeros_of_a_weight_stay_exactly_zero() -> None:
    linear = nn.Linear(8, 8)
    with torch.no_grad():
        linear.weight[::2] = 0
    model = nn.Sequential(linear)
    quantize(model, Scheme())
    model.train()
    model(torch.randn(4, 8))
    assert model[0].weight_quantizer(linear.weight)[::2].abs().max() == 0


def test_a_weight_has_its_grid_before_any_data_came() -> None:
    model = nn.Sequential(nn.Linear(8, 4))
    quantize(model, Scheme(activations=False))
    assert model[0].weight_quantizer.scale == model[0].weight.abs().max() / 127


def test_embedding_equals_looking_up_in_the_rounded_table() -> None:
    model = nn.Sequential(nn.Embedding(20, 8))
    quantize(model, Scheme())
    model.train()
    ids = torch.tensor([[3, 3, 19, 0]])
    table = model[0]
    got = model(ids)
    assert torch.equal(got, table.weight_quantizer(table.weight)[ids])


def test_frozen_grids_no_longer_move() -> None:
    model = bert()
    quantize(model, LEGACY)
    observe(model)
    set_observing(model, False)
    before = {name: value.clone() for name, value in model.named_buffers()}
    observe(model, batches=5)
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())


def test_quantizing_again_keeps_the_grids() -> None:
    model = bert()
    quantize(model, LEGACY)
    observe(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    quantize(model, LEGACY)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_per_channel_and_output_grids() -> None:
    model = nn.Sequential(nn.Linear(8, 4))
    quantize(model, Scheme(per_channel=True, linear_outputs=True))
    model.train()
    output = model(torch.randn(16, 8))
    layer = model[0]
    assert torch.allclose(layer.weight_quantizer.scale, layer.weight.abs().amax(1) / 127)
    assert len(torch.unique(output / layer.output_quantizer.scale).round().unique()) <= 256


def test_symmetric_activations_have_zero_point_128() -> None:
    grid = ActivationQuantizer(symmetric=True).train()
    x = torch.tensor([-1.0, 2.54])
    assert (grid(x) - x).abs().max() <= grid.scale / 2 + 1e-6
    assert int(grid.zero_point) == 128


def test_excluded_and_ignored_modules_stay_in_float() -> None:
    model = bert()
    quantize(model, Scheme(exclude_types=frozenset({"Embedding"}), ignore=("qa_outputs",)))
    assert not any(isinstance(m, QuantizedEmbedding) for m in model.modules())
    assert type(model.qa_outputs) is nn.Linear


def test_unknown_submodules_are_named() -> None:
    with pytest.raises(TrainingError, match=r"bert\.encodr"):
        quantize(bert(), Scheme(submodules=("bert.encodr",)))


def test_nothing_to_quantize_is_an_error() -> None:
    with pytest.raises(TrainingError, match="quantizes nothing"):
        quantize(nn.Sequential(nn.ReLU()), Scheme())


def test_row_76_an_exploding_activation_stops_training() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    quantize(model, Scheme())
    model.train()
    with pytest.raises(TrainingError, match="not finite"):
        model(torch.tensor([[1.0, float("inf"), 0.0, 0.0]]))


def test_names_of_quantized_modules_are_found_again() -> None:
    model = bert()
    assert quantize(model, LEGACY) == [name for name, _ in quantized_modules(model)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_attention_stays_in_the_dtype_of_its_scores_and_hides_padding(dtype: torch.dtype, tolerance: float) -> None:
    query, key, value = torch.randn(3, 2, 4, 9, 8).unbind()
    mask = torch.zeros(2, 1, 9, 9)
    mask[0, ..., 6:] = mask[1] = torch.finfo(torch.float32).min  # the second row sees padding alone
    got, probabilities = attention(nn.Module(), query.to(dtype), key.to(dtype), value.to(dtype), mask, scaling=0.5)
    assert probabilities.dtype == dtype
    assert probabilities[0, ..., 6:].abs().max() == 0
    assert torch.isfinite(got).all()
    exact = nn.functional.scaled_dot_product_attention(query[:1], key[:1, :, :6], value[:1, :, :6], scale=0.5)
    assert torch.allclose(got[:1].float(), exact.transpose(1, 2), atol=tolerance)
