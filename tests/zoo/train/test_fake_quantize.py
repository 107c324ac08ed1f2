from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.train.fake_quantize import dequantize, fake_quantize


def onnx_definition(x: np.ndarray, scale: float, zero: int, low: int, high: int) -> np.ndarray:
    """QuantizeLinear then DequantizeLinear as the ONNX specification words them."""
    integers = np.clip(np.rint(x / np.float32(scale)) + zero, low, high)
    return ((integers - zero) * np.float32(scale)).astype(np.float32)


@pytest.mark.parametrize(("zero", "low", "high"), [(0, 0, 255), (117, 0, 255), (255, 0, 255), (0, -127, 127)])
def test_equals_the_onnx_definition(zero: int, low: int, high: int) -> None:
    x = torch.cat([torch.randn(1000) * 3, torch.tensor([0.0, 0.05, -0.05, 0.15, 1e9, -1e9])])
    got = fake_quantize(x, torch.tensor(0.1), torch.tensor(zero, dtype=torch.int32), low, high)
    assert np.array_equal(got.numpy(), onnx_definition(x.numpy(), 0.1, zero, low, high))


def test_per_channel_equals_row_by_row() -> None:
    x, scales = torch.randn(3, 8), torch.tensor([0.1, 0.02, 0.5])
    zeros = torch.zeros(3, dtype=torch.int32)
    got = fake_quantize(x, scales[:, None], zeros[:, None], -127, 127)
    for row in range(3):
        assert torch.equal(got[row], fake_quantize(x[row], scales[row], zeros[row], -127, 127))


def test_gradient_is_one_inside_the_range_and_zero_outside() -> None:
    x = torch.tensor([-20.0, -12.8, 0.0, 0.34, 12.6, 12.8, 50.0], requires_grad=True)
    fake_quantize(x, torch.tensor(0.1), torch.tensor(128, dtype=torch.int32), 0, 255).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("shape", [(), (4, 1)])
def test_operator_obeys_torch_library_rules(shape: tuple[int, ...]) -> None:
    x = torch.randn(4, 6, requires_grad=True)
    scale, zero = torch.full(shape, 0.1), torch.zeros(shape, dtype=torch.int32)
    torch.library.opcheck(fake_quantize, (x, scale, zero, -127, 127))


def test_zero_stays_exactly_zero_on_every_grid() -> None:
    for zero in range(0, 256, 15):
        grid = torch.tensor(zero, dtype=torch.int32)
        assert fake_quantize(torch.zeros(3), torch.tensor(0.037), grid, 0, 255).abs().max() == 0


def test_bfloat16_passes_through() -> None:
    x = torch.randn(5, 5, dtype=torch.bfloat16)
    got = fake_quantize(x, torch.tensor(0.05), torch.tensor(128, dtype=torch.int32), 0, 255)
    assert got.dtype == torch.bfloat16
    assert (got - x).abs().max() < 0.06


def test_dequantize_takes_scalars_and_channels() -> None:
    integers = torch.tensor([[-127, 0], [5, 127]], dtype=torch.int8)
    zero = torch.zeros((), dtype=torch.int8)
    assert torch.equal(dequantize(integers, torch.tensor(0.5), zero, 1), integers.float() * 0.5)
    scales = torch.tensor([0.5, 2.0])
    by_column = dequantize(integers, scales, torch.zeros(2, dtype=torch.int8), 1)
    assert torch.equal(by_column, integers.float() * scales)
