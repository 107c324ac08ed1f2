"""How sparse an ONNX graph's weights are: for models that come without a checkpoint that may be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from zoo.errors import ManifestError
from zoo.importing.weights import LayerSparsity, Measured, measure_array

_THROUGH = {"DequantizeLinear", "QuantizeLinear", "Transpose", "Identity"}


class _Operand(NamedTuple):
    """Where an operator takes its weight and, if it is an integer one, the weight's zero point."""

    weight: int
    zero_point: int | None = None


_OPERANDS = {
    "MatMul": _Operand(1),
    "Gemm": _Operand(1),
    "Conv": _Operand(1),
    "MatMulInteger": _Operand(1, 3),
    "ConvInteger": _Operand(1, 3),
    "QLinearMatMul": _Operand(3, 5),
    "QLinearConv": _Operand(3, 5),
}


def measure_graph(path: Path) -> Measured:
    """Measures the weights of products and convolutions; zero is what the zero point says. Raises `ManifestError`."""
    try:
        graph = onnx.load(path).graph
        found = dict(_layers(graph))
        parameters = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    except Exception as error:  # onnx raises errors of protobuf, of its own and of Python for a malformed file
        raise ManifestError(f"{path} is no ONNX file that can be measured: {str(error)[:200]}") from error
    layers = {name: layer for name, (layer, _) in found.items()}
    return Measured(layers, any(is_integer for _, is_integer in found.values()), parameters)


def _layers(graph: onnx.GraphProto) -> Iterator[tuple[str, tuple[LayerSparsity, bool]]]:
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        operand = _OPERANDS.get(node.op_type)
        if operand is None or len(node.input) <= operand.weight:
            continue
        name, zero_name, transposed = _follow(node.input[operand.weight], makers)
        if operand.zero_point is not None and len(node.input) > operand.zero_point:
            zero_name = node.input[operand.zero_point]
        if name not in arrays or len(arrays[name].dims) not in (2, 4):
            continue
        weight = numpy_helper.to_array(arrays[name])
        zero = _zero(zero_name, arrays)
        if zero is None:
            continue
        if weight.ndim == 2 and _is_inputs_first(node) != transposed:
            weight = weight.T
        yield name, (measure_array(weight, zero), weight.dtype.kind in "iu")


def _follow(name: str, makers: Mapping[str, onnx.NodeProto]) -> tuple[str, str, bool]:
    """The initializer behind a weight, the name of its zero point, and whether it is transposed on the way."""
    zero_name, transposed = "", False
    for _ in range(8):
        node = makers.get(name)
        if node is None or node.op_type not in _THROUGH:
            break
        transposed ^= node.op_type == "Transpose"
        if node.op_type == "DequantizeLinear":
            zero_name = node.input[2] if len(node.input) > 2 else ""
        elif node.op_type == "QuantizeLinear":
            zero_name = ""  # what is quantized here is a float weight, whose zero is 0
        name = node.input[0]
    return name, zero_name, transposed


def _zero(name: str, arrays: Mapping[str, onnx.TensorProto]) -> Any:
    """The value that stands for zero; None where it differs from row to row."""
    if not name:
        return 0
    values: NDArray[Any] = numpy_helper.to_array(arrays[name]).reshape(-1) if name in arrays else np.array([])
    return values[0] if len(values) and (values == values[0]).all() else None


def _is_inputs_first(node: onnx.NodeProto) -> bool:
    """Whether the weight is [in, out], as products have it, and not [out, in]."""
    transposes = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return not transposes
