"""What each step of a program becomes in a plan file; `csrc/steps.h` gives its fields' meaning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine import codegen, cost_model, finish, pack
from engine.program import (
    Activate,
    Activation,
    Add,
    Attention,
    Counted,
    Dequantize,
    Embed,
    LayerNorm,
    LinearF32,
    LinearU8,
    Output,
    Program,
    Quantization,
    Quantize,
    QuantizeTokens,
    Rescale,
    Select,
    Step,
    Table,
)

BIAS_MARGIN: Final = 17
"""`SPW_BIAS_MARGIN` of kernels.h."""
ABSENT: Final = 0xFFFFFFFF
OPS: Final = (
    "embed",
    "layernorm",
    "quantize",
    "linear_f32",
    "linear_u8",
    "sparse_u8",
    "attention_f32",
    "attention_u8",
    "add",
    "activate",
    "select",
    "output",
    "dequantize",
    "sparse_f32",
    "code_u8",
    "quantize_tokens",
    "rescale",
)
ACTIVATIONS: Final[tuple[Activation, ...]] = ("none", "gelu", "relu", "tanh", "gelu_tanh")
SOURCES: Final = ("input", "position", "constant", "counted")
MAX_TABLES: Final = 4

Array = NDArray[Any]


@dataclass
class Record:
    """One step as the file has it; a blob of None is empty."""

    op: str
    name: str
    inputs: Sequence[int] = ()
    outputs: Sequence[int] = ()
    attributes: Sequence[int] = ()
    scalars: Sequence[float] = ()
    blobs: Sequence[Array | None] = ()


def _quantization(quantization: Quantization | None) -> tuple[float, int]:
    return (1.0, 0) if quantization is None else (quantization.scale, quantization.zero_point)


def _optional(index: int | None) -> int:
    return ABSENT if index is None else index


def _f32(values: Array) -> Array:
    return np.asarray(values, np.float32)


def _table(table: Table) -> tuple[int, int, int, int]:
    source = table.source
    if isinstance(source, Counted):
        kind, index = "counted", source.input
    elif isinstance(source, int):
        kind, index = "input", source
    else:
        kind, index = source, 0
    return SOURCES.index(kind), index, table.offset, table.values.shape[0]


def _embed(step: Embed, _: Program) -> Record:
    if not 1 <= len(step.tables) <= MAX_TABLES:
        raise ValueError(f"step {step.name} adds {len(step.tables)} tables, 1 to {MAX_TABLES} are possible")
    of_tables = [value for table in step.tables for value in _table(table)]
    s8 = sum(1 << i for i, table in enumerate(step.tables) if table.values.dtype == np.int8)
    attributes = [len(step.tables), *of_tables, *[0] * (16 - len(of_tables)), s8]
    values = [t.values if t.values.dtype == np.int8 else _f32(t.values) for t in step.tables]
    return Record("embed", step.name, (), (step.out,), attributes, [t.scale for t in step.tables], values)


def _layernorm(step: LayerNorm, _: Program) -> Record:
    scale, zero_point = _quantization(step.quantization)
    return Record(
        "layernorm",
        step.name,
        (step.input, _optional(step.residual)),
        (_optional(step.out), _optional(step.out_quantized)),
        (zero_point,),
        (step.epsilon, scale),
        (_f32(step.gamma), _f32(step.beta)),
    )


def _quantize(step: Quantize, _: Program) -> Record:
    return _conversion("quantize", step)


def _quantize_tokens(step: QuantizeTokens, _: Program) -> Record:
    return Record("quantize_tokens", step.name, (step.input,), (step.out, step.scales))


def _rescale(step: Rescale, _: Program) -> Record:
    attributes, blobs = (ACTIVATIONS.index(step.activation),), (_f32(step.offset), _f32(step.bias))
    return Record("rescale", step.name, (step.input, step.scales), (step.out,), attributes, (), blobs)


def _dequantize(step: Dequantize, _: Program) -> Record:
    return _conversion("dequantize", step)


def _conversion(op: str, step: Quantize | Dequantize) -> Record:
    scale, zero_point = _quantization(step.quantization)
    return Record(op, step.name, (step.input,), (step.out,), (zero_point,), (scale,))


def _linear_f32(step: LinearF32, _: Program) -> Record:
    pack.check_linear(step)
    rows, depth = step.weight.shape
    weight, bias = _f32(step.weight), pack.pad_rows(_f32(step.bias))
    attributes = [depth, rows, ACTIVATIONS.index(step.activation)]
    if (step.layout or cost_model.layout(weight)) == "sparse":
        sparse = pack.sparse_f32(weight)
        attributes += [0, sparse.chunk]
        packed = (sparse.values, bias, None, None, sparse.starts, sparse.indices)
        return Record("sparse_f32", step.name, (step.input,), (step.out,), attributes, (), packed)
    blobs = (pack.dense_f32(weight), bias)
    return Record("linear_f32", step.name, (step.input,), (step.out,), attributes, (), blobs)


GELU_POINTS_PER_UNIT: Final = np.float32(10.49 / 5.6)
"""GELU's argument in units of its points, `spw_gelu` of kernels.h."""


def _unit(step: LinearU8) -> np.float32:
    """What scale and bias are multiplied by, to spare kernels a product (kernels.h, `spw_linear_u8`)."""
    if step.quantization is None or step.activation == "tanh":
        return np.float32(1)
    return GELU_POINTS_PER_UNIT if step.activation in ("gelu", "gelu_tanh") else np.float32(1 / step.quantization.scale)


def _linear_u8(step: LinearU8, _: Program) -> Record:
    pack.check_linear(step)
    weight = np.ascontiguousarray(step.weight)
    rows, depth = weight.shape
    scale, zero_point = _quantization(step.quantization)
    attributes = [depth, rows, ACTIVATIONS.index(step.activation), zero_point]
    unit = _unit(step)
    with np.errstate(over="ignore"):  # beyond float32 in these units is beyond any byte
        per_row = pack.pad_rows(_f32(step.bias) * unit), pack.pad_rows(_f32(step.scale) * unit)
    correction = pack.correction(weight, step.zero_point)
    blobs: tuple[Array | None, ...]
    match step.layout or cost_model.layout(weight):
        case "dense":
            op, blobs = "linear_u8", (pack.dense_s8(weight), *per_row, correction)
        case "code":
            does = finish.of(step)
            attributes.append(finish.FINISHES.index(does))
            coded = codegen.generate(pack.blocks_s8(weight), -correction, does)
            op, blobs = "code_u8", (coded.content, *per_row, None, coded.parts)
        case "sparse":
            sparse = pack.sparse_s8(weight)
            attributes.append(sparse.chunk)
            op, blobs = "sparse_u8", (sparse.blocks, *per_row, correction, sparse.starts, sparse.indices)
    inputs = (step.input, _optional(step.residual))
    return Record(op, step.name, inputs, (step.out,), attributes, (scale,), blobs)


def _attention(step: Attention, program: Program) -> Record:
    given = (
        step.query_quantization,
        step.key_quantization,
        step.value_quantization,
        step.probability_quantization,
    )
    is_u8 = program.buffers[step.query].dtype == "u8"
    if is_u8 and None in given:
        raise ValueError(f"step {step.name}: uint8 attention needs all four quantizations")
    if is_u8 and step.head_dim % 4:
        raise ValueError(f"step {step.name}: head_dim {step.head_dim} must be a multiple of 4 for uint8")
    scales, zero_points = zip(*map(_quantization, (*given, step.quantization)), strict=True)
    length = 0 if step.bias is None else step.bias.shape[1] // 2 + 1
    return Record(
        "attention_u8" if is_u8 else "attention_f32",
        step.name,
        (step.query, step.key, step.value),
        (step.out,),
        (step.heads, step.head_dim, _optional(step.mask), *zero_points, length),
        (step.scale, step.mask_value, *scales),
        () if step.bias is None else (_position_bias(step.bias),),
    )


def _position_bias(bias: Array) -> Array:
    """Queries side by side, as lanes hold them: element L - 1 + q - k, and room behind the last query's tile."""
    return _f32(np.pad(bias[:, ::-1], ((0, 0), (0, BIAS_MARGIN))))


def _add(step: Add, _: Program) -> Record:
    return Record("add", step.name, (step.left, step.right), (step.out,))


def _activate(step: Activate, _: Program) -> Record:
    return Record("activate", step.name, (step.input,), (step.out,), (ACTIVATIONS.index(step.activation),))


def _select(step: Select, _: Program) -> Record:
    return Record("select", step.name, (step.input,), (step.out,))


def _output(step: Output, _: Program) -> Record:
    return Record("output", step.name, (step.input,), (), (_optional(step.column),))


WRITERS: Final[dict[type[Step], Callable[[Any, Program], Record]]] = {
    Embed: _embed,
    LayerNorm: _layernorm,
    Quantize: _quantize,
    QuantizeTokens: _quantize_tokens,
    Rescale: _rescale,
    Dequantize: _dequantize,
    LinearF32: _linear_f32,
    LinearU8: _linear_u8,
    Attention: _attention,
    Add: _add,
    Activate: _activate,
    Select: _select,
    Output: _output,
}


def writer(step: Step) -> Callable[[Any, Program], Record]:
    """The function that makes the step's record; raises ValueError for a type of step that plans don't have."""
    if type(step) not in WRITERS:
        known = ", ".join(kind.__name__ for kind in WRITERS)
        raise ValueError(f"step {getattr(step, 'name', step)!r} is a {type(step).__name__}; a plan can hold {known}")
    return WRITERS[type(step)]
