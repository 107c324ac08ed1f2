"""Quantization-aware training: modules that see their weights and inputs through an 8-bit grid.

Activations are u8, asymmetric, per tensor, with the range of a moving average of minimum and maximum; zero
is always on the grid. Weights are s8, symmetric, -127..127, per tensor or per output channel; their range is
that of the weight of the moment until observers freeze. Zero weights stay exactly zero.
Parameters keep their objects and names, so an optimizer made before quantization keeps working.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from zoo.errors import TrainingError
from zoo.train.dropout import dropout as byte_dropout
from zoo.train.fake_quantize import fake_quantize

ATTENTION = "sparrow"
_AVERAGING = 0.01  # weight of the newest batch in the moving average
_LEAST_SCALE = 1e-12
_PROJECTIONS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"))


@dataclass(frozen=True)
class Scheme:
    """What is quantized, and where. `submodules` are name prefixes, None for the whole model."""

    submodules: tuple[str, ...] | None = None
    exclude_types: frozenset[str] = frozenset()
    ignore: tuple[str, ...] = ()
    embeddings: bool = True
    linear_outputs: bool = False
    activations: bool = True
    symmetric_activations: bool = False
    per_channel: bool = False

    def covers(self, name: str, module: nn.Module) -> bool:
        """Return whether the module called `name` is to be quantized."""
        if type(module).__name__ in self.exclude_types or any(_within(name, top) for top in self.ignore):
            return False
        return self.submodules is None or any(_within(name, top) for top in self.submodules)


def _within(name: str, top: str) -> bool:
    return name == top or name.startswith(top + ".")


def _bounds(x: Tensor) -> Iterable[Tensor]:
    """Return the least and the greatest element, over the batches of all processes."""
    low, high = torch.aminmax(x)
    if not distributed.is_initialized():
        return low, high
    both = torch.stack([-low, high]).float()
    distributed.all_reduce(both, distributed.ReduceOp.MAX)
    return -both[0], both[1]


class ActivationQuantizer(nn.Module):
    """u8 per-tensor fake quantization with a moving-average range. Shape and dtype pass through."""

    scale: Tensor
    zero_point: Tensor
    minimum: Tensor
    maximum: Tensor

    def __init__(self, symmetric: bool = False) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.register_buffer("scale", torch.tensor(1.0))
        self.register_buffer("zero_point", torch.tensor(0, dtype=torch.int32))
        self.register_buffer("minimum", torch.tensor(0.0))
        self.register_buffer("maximum", torch.tensor(0.0))
        self.observing = True

    @property
    def observed(self) -> bool:
        """Whether the range is that of data; a new one is empty, with scale 1, which even zeros would change."""
        return float(self.maximum) > float(self.minimum) or float(self.scale) != 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Return x on the grid; while training, let x move the grid first."""
        if self.observing and self.training and not torch.compiler.is_exporting():
            self._observe(x.detach())
        return cast("Tensor", fake_quantize(x, self.scale, self.zero_point, 0, 255))

    def _observe(self, x: Tensor) -> None:
        low, high = (float(bound) for bound in _bounds(x))
        if not (low > -float("inf") and high < float("inf")):
            raise TrainingError(f"an activation to be quantized is not finite (range {low} to {high})")
        low, high = min(low, 0.0), max(high, 0.0)
        if self.symmetric:  # zero point 128, as SparseML has it
            low, high = -max(-low, high * 128 / 127), max(-low * 127 / 128, high)
        if float(self.maximum) > float(self.minimum):
            low = float(self.minimum) + _AVERAGING * (low - float(self.minimum))
            high = float(self.maximum) + _AVERAGING * (high - float(self.maximum))
        self.minimum.fill_(low)
        self.maximum.fill_(high)
        scale = max((high - low) / 255, _LEAST_SCALE)
        self.scale.fill_(scale)
        self.zero_point.fill_(round(min(max(-low / float(self.scale), 0), 255)))


class WeightQuantizer(nn.Module):
    """s8 symmetric fake quantization, per tensor or per row (dimension 0)."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, rows: int | None = None) -> None:
        super().__init__()
        shape = () if rows is None else (rows,)
        self.register_buffer("scale", torch.ones(shape))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32), persistent=False)
        self.observing = True

    def observe(self, weight: Tensor) -> None:
        """While training, fit the grid to the weight."""
        if self.observing and self.training and not torch.compiler.is_exporting():
            self.fit(weight)

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """Fit the grid to the weight's largest magnitude."""
        low, high = torch.aminmax(weight, dim=1) if self.scale.ndim else torch.aminmax(weight)
        self.scale.copy_((torch.maximum(-low, high) / 127).clamp_(min=_LEAST_SCALE))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight [rows, columns] on the grid."""
        scale, zero = self.scale, self.zero_point
        if scale.ndim:
            scale, zero = scale[:, None], zero[:, None]
        return cast("Tensor", fake_quantize(weight, scale, zero, -127, 127))


class QuantizedLinear(nn.Linear):
    """A linear layer whose weight, and input if `input_quantizer` is there, lie on 8-bit grids."""

    input_quantizer: ActivationQuantizer | None
    output_quantizer: ActivationQuantizer | None
    weight_quantizer: WeightQuantizer

    @classmethod
    def of(cls, linear: nn.Linear, scheme: Scheme, quantize_input: bool) -> QuantizedLinear:
        """Return a layer on the same parameters."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.in_features, layer.out_features = linear.in_features, linear.out_features
        layer.weight, layer.bias = linear.weight, linear.bias
        layer.weight_quantizer = WeightQuantizer(linear.out_features if scheme.per_channel else None)
        symmetric = scheme.symmetric_activations
        layer.input_quantizer = ActivationQuantizer(symmetric) if quantize_input and scheme.activations else None
        layer.output_quantizer = ActivationQuantizer(symmetric) if scheme.linear_outputs else None
        layer.to(linear.weight.device).weight_quantizer.fit(linear.weight)
        return layer.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.Linear gives it
        """[..., in_features] -> [..., out_features]."""
        self.weight_quantizer.observe(self.weight)
        if self.input_quantizer is not None:
            input = self.input_quantizer(input)  # noqa: A001
        output = nn.functional.linear(input, self.weight_quantizer(self.weight), self.bias)
        return output if self.output_quantizer is None else self.output_quantizer(output)


class QuantizedEmbedding(nn.Embedding):
    """An embedding whose table lies on an 8-bit grid.

    Rows are gathered first and rounded after: the same numbers, without touching the whole table.
    """

    weight_quantizer: WeightQuantizer

    @classmethod
    def of(cls, table: nn.Embedding) -> QuantizedEmbedding:
        """Return an embedding on the same parameter."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        for name in ("num_embeddings", "embedding_dim", "padding_idx", "max_norm"):
            setattr(layer, name, getattr(table, name))
        for name in ("norm_type", "scale_grad_by_freq", "sparse", "weight"):
            setattr(layer, name, getattr(table, name))
        layer.weight_quantizer = WeightQuantizer()
        layer.to(table.weight.device).weight_quantizer.fit(table.weight)
        return layer.train(table.training)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.Embedding gives it
        """Indices [...] -> vectors [..., embedding_dim]."""
        self.weight_quantizer.observe(self.weight)
        return cast("Tensor", self.weight_quantizer(super().forward(input)))


class AttentionQuantizers(nn.Module):
    """The grids of an attention's two products: query, key, probabilities and value."""

    def __init__(self, symmetric: bool = False) -> None:
        super().__init__()
        self.query, self.key = ActivationQuantizer(symmetric), ActivationQuantizer(symmetric)
        self.value, self.probabilities = ActivationQuantizer(symmetric), ActivationQuantizer(symmetric)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Eager attention on [batch, heads, sequence, size], through the grids of `module` where it has them."""
    grids = getattr(module, "attention_quantizers", None)
    key = key.transpose(2, 3)  # before its grid, so that an exported graph transposes once
    if grids is not None:
        query, key, value = grids.query(query), grids.key(key), grids.value(value)
    scaling = query.size(-1) ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query, key)
    if attention_mask is None:
        scores = scores * scaling
    else:
        scores = torch.add(_in_dtype_of(scores, attention_mask), scores, alpha=scaling)
    wide = torch.float32 if grids is not None else None  # a grid rounds once, from float32
    probabilities = nn.functional.softmax(scores, dim=-1, dtype=wide)
    seen = probabilities if grids is None else grids.probabilities(probabilities)
    seen = byte_dropout(seen, dropout, module.training)
    return torch.matmul(seen, value).transpose(1, 2).contiguous(), probabilities


def _in_dtype_of(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the mask in the scores' dtype: a sum of two dtypes would be float32, and so all that follows."""
    if mask.dtype == scores.dtype:
        return mask
    return mask.clamp(min=torch.finfo(scores.dtype).min).to(scores.dtype)


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)


def quantize(model: nn.Module, scheme: Scheme) -> list[str]:
    """Put the covered linears, embeddings and attentions of `model` on 8-bit grids, in place.

    Modules that are quantized already keep their grids. Returns the names of all quantized modules.
    Raises TrainingError when a name in the scheme matches nothing, or nothing can be quantized.
    """
    _check_names(model, scheme)
    attentions = {name: module for name, module in model.named_modules() if _projections(module)}
    for name, module in attentions.items():
        if scheme.activations and scheme.covers(name, module):
            _quantize_attention(model, module, scheme.symmetric_activations)
    for name, module in list(model.named_modules()):
        if scheme.covers(name, module):
            _quantize_layer(model, name, module, scheme)
    names = [name for name, _ in quantized_modules(model)]
    if not names:
        raise TrainingError("the recipe quantizes nothing: no Linear or Embedding is left under its submodules")
    return names


def _check_names(model: nn.Module, scheme: Scheme) -> None:
    known = {name for name, _ in model.named_modules()}
    wrong = [name for name in scheme.submodules or () if name not in known]
    if wrong:
        tops = ", ".join(sorted(name for name, _ in model.named_children()))
        raise TrainingError(f"the recipe quantizes submodules that the model lacks: {', '.join(wrong)}; it has {tops}")


def _projections(module: nn.Module) -> tuple[str, ...] | None:
    children = dict(module.named_children())
    for names in _PROJECTIONS:
        if all(isinstance(children.get(name), nn.Linear) for name in names):
            return names
    return None


def _quantize_attention(model: nn.Module, module: nn.Module, symmetric: bool) -> None:
    """Give the attention its own grids, and one for the input that its three projections share."""
    if hasattr(module, "attention_quantizers"):
        return
    device = next(module.parameters()).device
    module.attention_quantizers = AttentionQuantizers(symmetric).to(device).train(module.training)
    module.input_quantizer = ActivationQuantizer(symmetric).to(device).train(module.training)
    module.register_forward_pre_hook(_quantize_first_input, with_kwargs=True)
    if isinstance(model, PreTrainedModel):
        model.set_attn_implementation(ATTENTION)


def _quantize_first_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    quantizer = cast("ActivationQuantizer", module.input_quantizer)
    if args:
        return (quantizer(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": quantizer(kwargs["hidden_states"])}


def _quantize_layer(model: nn.Module, name: str, module: nn.Module, scheme: Scheme) -> None:
    parent_name, _, leaf = name.rpartition(".")
    parent = model.get_submodule(parent_name)
    if type(module) is nn.Linear:
        shared = hasattr(parent, "attention_quantizers") and leaf in (_projections(parent) or ())
        setattr(parent, leaf, QuantizedLinear.of(module, scheme, quantize_input=not shared))
    elif type(module) is nn.Embedding and scheme.embeddings:
        setattr(parent, leaf, QuantizedEmbedding.of(module))


def quantized_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield names and modules of the quantized linears, embeddings and attentions."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear | QuantizedEmbedding) or hasattr(module, "attention_quantizers"):
            yield name, module


def set_observing(model: nn.Module, observing: bool) -> None:
    """Let the grids follow the data, or freeze them."""
    for module in _quantizers(model):
        module.observing = observing


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> None:
    """Let the grids, and nothing else, learn their ranges from some batches of inputs; then freeze them."""
    model.eval()
    for grid in _quantizers(model):
        grid.observing = True
        grid.train()
    for batch in batches:
        model(**batch)
    model.eval()
    set_observing(model, False)


def _quantizers(model: nn.Module) -> Iterable[ActivationQuantizer | WeightQuantizer]:
    return (m for m in model.modules() if isinstance(m, ActivationQuantizer | WeightQuantizer))
