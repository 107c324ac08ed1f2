"""Checks the parameters of every QuantizeLinear, DequantizeLinear and integer product of a model."""

from __future__ import annotations

import numpy as np

from engine.errors import ModelError
from engine.graph import Array, Graph, Node

_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


def check_quantization(graph: Graph) -> None:
    """Raises ModelError, naming the tensor, for a scale or zero point that the ONNX standard doesn't allow.

    A scale must be finite and a positive normal number; a zero point must have the type of the quantized value.
    Parameters are one number, or one for each index of `axis`.
    """
    for node in graph.each("QuantizeLinear", "DequantizeLinear"):
        if node.domain == "":
            _check_node(graph, node)
    for node in graph.each("QLinearMatMul"):
        for name in (*node.inputs[1:2], *node.inputs[4:5], *node.inputs[6:7]):
            _check_scale(graph, node, name)


def _check_node(graph: Graph, node: Node) -> None:
    if not 2 <= len(node.inputs) <= 3:
        raise ModelError(f"{node.label} needs a value, a scale and at most a zero point")
    if node.integer("block_size", 0):
        raise ModelError(f"{node.label}: the scale {node.inputs[1]!r} is blocked, which the engine can't run")
    _check_scale(graph, node, node.inputs[1])
    scale = graph.constant(node.inputs[1])
    zero_name = node.inputs[2] if len(node.inputs) > 2 else ""
    zero = graph.constant(zero_name) if zero_name else None
    for name, array in ((node.inputs[1], scale), (zero_name, zero)):
        if array is not None:
            _check_length(graph, node, name, array)
    if zero is not None:
        _check_zero_point(graph, node, zero_name, zero)
        if scale is not None and scale.size != zero.size:
            raise ModelError(f"{node.label}: {zero_name!r} has {zero.size} numbers, its scale {scale.size}")


def _check_scale(graph: Graph, node: Node, name: str) -> None:
    scale = graph.constant(name)
    if scale is None:
        return
    if scale.dtype.kind != "f" or scale.size == 0:
        raise ModelError(f"{node.label}: the scale {name!r} of type {scale.dtype.name} must hold float numbers")
    if not np.isfinite(scale).all() or (scale < _SMALLEST_SCALE).any():
        raise ModelError(f"{node.label}: the scale {name!r} holds a number that is not finite, normal and positive")


def _check_zero_point(graph: Graph, node: Node, name: str, zero: Array) -> None:
    if node.op_type == "QuantizeLinear":
        if zero.dtype not in (np.uint8, np.int8):
            raise ModelError(f"{node.label}: the zero point {name!r} is {zero.dtype.name}, not uint8 or int8")
        return
    source = graph.made_by(node.inputs[0], "QuantizeLinear")
    quantized = graph.constant(node.inputs[0])
    if quantized is None and source is not None and len(source.inputs) > 2:
        quantized = graph.constant(source.inputs[2])
    if quantized is not None and quantized.dtype != zero.dtype:
        raise ModelError(
            f"{node.label}: the zero point {name!r} is {zero.dtype.name}, the value {quantized.dtype.name}"
        )
    if zero.dtype == np.int32 and zero.any():
        raise ModelError(f"{node.label}: the zero point {name!r} of an int32 value must be 0")


def _check_length(graph: Graph, node: Node, name: str, array: Array) -> None:
    if array.size == 1 and array.ndim <= 1:
        return
    shape = graph.shapes[0].get(node.inputs[0])
    axis = node.integer("axis", 1)
    if shape is None:
        return
    if not -len(shape) <= axis < len(shape):
        raise ModelError(f"{node.label}: the axis {axis} of {name!r} is out of range for {len(shape)} dimensions")
    if array.ndim != 1 or array.size != shape[axis]:
        raise ModelError(
            f"{node.label}: {name!r} of shape {array.shape} does not fit the {shape[axis]} entries of axis {axis}"
        )
