"""A trained model as it is deployed: plain tensors, stored integers, no training machinery.

Linear weights are stored transposed, [in, out], so that the graph multiplies without transposing. Quantized ones
are stored as int8 with a scale: exactly the numbers that training saw.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from zoo.train.dropout import ByteDropout
from zoo.train.fake_quantize import dequantize
from zoo.train.quantization import ATTENTION, QuantizedEmbedding, WeightQuantizer


class _Linear(nn.Module):
    """x @ weight + bias; weight float32, or int8 with a scale: [in, out]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.input_quantizer = getattr(linear, "input_quantizer", None)
        self.output_quantizer = getattr(linear, "output_quantizer", None)
        quantizer = getattr(linear, "weight_quantizer", None)
        weight = linear.weight.detach() if quantizer is None else integers(linear.weight, quantizer)
        self.register_buffer("weight", weight.t().contiguous())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())
        if quantizer is not None:
            self.register_buffer("scale", quantizer.scale.clone())
            self.register_buffer("zero_point", torch.zeros_like(quantizer.scale, dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        weight = cast("Tensor", self.weight)
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        if weight.dtype == torch.int8:
            weight = dequantize(weight, self.scale, self.zero_point, 1)
        x = torch.matmul(x, weight)
        if self.bias is not None:
            x = x + cast("Tensor", self.bias)
        return x if self.output_quantizer is None else cast("Tensor", self.output_quantizer(x))


class _Embedding(nn.Module):
    """Rows of an int8 table, gathered first and scaled after."""

    def __init__(self, table: QuantizedEmbedding) -> None:
        super().__init__()
        self.register_buffer("weight", integers(table.weight, table.weight_quantizer))
        self.register_buffer("scale", table.weight_quantizer.scale.clone())
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int8))

    def forward(self, ids: Tensor) -> Tensor:
        rows = torch.embedding(cast("Tensor", self.weight), ids)
        return cast("Tensor", dequantize(rows, self.scale, self.zero_point, 0))


def integers(weight: Tensor, quantizer: WeightQuantizer) -> Tensor:
    """Return the weight's place on its grid, int8 in -127..127; zeros stay zero."""
    scale = quantizer.scale[:, None] if quantizer.scale.ndim else quantizer.scale
    return torch.div(weight.detach(), scale).round_().clamp_(-127, 127).to(torch.int8)


def deployable(model: nn.Module) -> nn.Module:
    """Return a copy of the model in evaluation mode with the layers above; the model itself stays as it is."""
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, _Linear(child))
            elif isinstance(child, QuantizedEmbedding):
                setattr(parent, name, _Embedding(child))
            elif isinstance(child, nn.Dropout | ByteDropout):
                setattr(parent, name, nn.Identity())
    if isinstance(copied, PreTrainedModel):
        copied.set_attn_implementation(ATTENTION)
    return copied
