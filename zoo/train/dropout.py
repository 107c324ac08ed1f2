"""Dropout that draws one random byte an element.

torch draws its masks on the CPU with a serial generator, a whole draw an element: a third of a training step
of a small transformer. Eight elements a draw cost an eighth; the rate is kept to a 256th.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """Zero elements with probability round(256 * rate) / 256 and scale the rest, so that the mean stays.

    Any shape and dtype. Outside of training, or at rate 0, x itself.
    """
    dropped = round(rate * 256)
    if not training or dropped == 0:
        return x
    if dropped >= 256:
        return x * 0
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    numbers = words.view(torch.uint8)[: x.numel()].reshape(x.shape)
    kept = torch.ge(numbers, dropped, out=torch.empty_like(x))  # in x's dtype: bool is slower
    return x * kept.mul_(256 / (256 - dropped))


class ByteDropout(nn.Dropout):
    """nn.Dropout on the masks above."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.Dropout gives it
        """Return input with elements dropped, while training."""
        return dropout(input, self.p, self.training)


def use_byte_dropout(model: nn.Module) -> None:
    """Replace the model's dropouts, in place, by ones that draw bytes."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, ByteDropout(child.p).train(child.training))


def set_dropout(model: nn.Module, rate: float) -> None:
    """Give all dropouts of the model the rate 0 <= rate < 1, in place; its config stays as it is."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
