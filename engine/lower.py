"""Turns an optimised graph into a `Program`: one step a node, and a buffer for each value that steps exchange."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import numpy as np

from engine.errors import ModelError, UnsupportedModelError, UnsupportedNode
from engine.graph import FUSED, Array, Graph, Node
from engine.ops import operator
from engine.program import (
    Activate,
    Activation,
    Add,
    Attention,
    Buffer,
    BufferId,
    Counted,
    Dequantize,
    Embed,
    Input,
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
from engine.shapes import channels, complaint, describe, has_same_rows, rows

_FUSED_OPERATORS = (
    "Activate",
    "Attention",
    "Column",
    "Embed",
    "FakeQuantize",
    "FakeQuantizeTokens",
    "LayerNorm",
    "Linear",
    "LinearInteger",
    "Select",
)


def lower(graph: Graph) -> Program:
    """The program of an optimised graph.

    Raises UnsupportedModelError that lists every node for which there is no step, and ModelError where an
    output has a form that no step writes.
    """
    unsupported = [_complaint(graph, node) for node in graph.nodes if not _is_step(graph, node)]
    if unsupported:
        raise UnsupportedModelError(unsupported)
    return _Lowering(graph).program()


def _is_step(graph: Graph, node: Node) -> bool:
    if rows(graph, node.key) is None and node.op_type != "Column":
        return False
    if node.domain == FUSED:
        return node.op_type in _FUSED_OPERATORS and _reads_rows(graph, node)
    if node.op_type != "Add" or node.domain:
        return False
    return all(_is_computed(graph, name) for name in node.inputs) and has_same_rows(graph, node.key, *node.inputs)


def _reads_rows(graph: Graph, node: Node) -> bool:
    """True where all activations that `node` reads are computed row by row."""
    names = {"Attention": node.inputs[:3], "Embed": ()}.get(node.op_type, node.inputs[:1])
    if "residual" in node.attributes:
        names = (names[0], node.inputs[-1])
    return all(_is_computed(graph, name) for name in names)


def _is_computed(graph: Graph, value: str) -> bool:
    node = graph.producer(value)
    return node is not None and node.op_type != "Column" and rows(graph, value) is not None


def _complaint(graph: Graph, node: Node) -> UnsupportedNode:
    if operator(node) is None and node.domain != FUSED:
        return complaint(node, "unknown operator")
    reason = graph.notes.get(node.key, "not part of a pattern that the engine knows")
    return complaint(node, f"{reason}; its result is {describe(graph, node.key)}")


class _Lowering:
    """Walks the nodes in order; knows where each value lies as float32 or as uint8."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._inputs = [i for i in graph.inputs if i.dtype.kind == "i" and len(i.shape) == 2]
        self._buffers: list[Buffer] = []
        self._steps: list[Step] = []
        self._floats: dict[str, BufferId] = {}
        self._bytes: dict[tuple[str, Quantization], BufferId] = {}
        self._of_tokens: dict[str, tuple[BufferId, BufferId]] = {}

    def program(self) -> Program:
        lowerings: dict[str, Callable[[Node], None]] = {
            "Activate": self._activate,
            "Add": self._add,
            "Attention": self._attention,
            "Column": lambda _: None,
            "Embed": self._embed,
            "FakeQuantize": self._fake_quantize,
            "FakeQuantizeTokens": self._fake_quantize_tokens,
            "LayerNorm": self._layer_norm,
            "Linear": self._linear,
            "LinearInteger": self._linear_integer,
            "Select": self._select,
        }
        for node in self._graph.nodes:
            lowerings[node.op_type](node)
        for name, value in self._graph.outputs.items():
            self._output(name, value)
        inputs = tuple(Input(entry.name) for entry in self._inputs)
        return Program(inputs, tuple(self._buffers), tuple(self._steps))

    def _output(self, name: str, value: str) -> None:
        column = self._graph.made_by(value, "Column")
        source = column.inputs[0] if column is not None else value
        rank = len(self._graph.shapes[0].get(source, ()))
        if source not in self._floats or rank != (3 if rows(self._graph, source) == "tokens" else 2):
            shape = describe(self._graph, value)
            raise ModelError(
                f"the output {name!r} of shape {shape} is not computed token by token or sequence by sequence"
            )
        number = None if column is None else column.integer("column")
        self._steps.append(Output(name, self._floats[source], number))

    def _embed(self, node: Node) -> None:
        attributes = node.attributes
        parts = zip(
            node.inputs,
            cast("tuple[float, ...]", attributes["scales"]),
            cast("tuple[str, ...]", attributes["kinds"]),
            cast("tuple[str, ...]", attributes["sources"]),
            cast("tuple[int, ...]", attributes["offsets"]),
            strict=True,
        )
        tables = tuple(
            Table(self._graph.constants[name], self._row_source(kind, source), scale, offset)
            for name, scale, kind, source, offset in parts
        )
        self._steps.append(Embed(node.key, tables, self._new_float(node.key)))

    def _row_source(self, kind: str, source: str) -> int | Counted | Literal["position", "constant"]:
        if kind == "counted":
            return Counted(self._input_index(source))
        if kind == "input":
            return self._input_index(source)
        return cast("Literal['position', 'constant']", kind)

    def _input_index(self, name: str) -> int:
        return next(i for i, entry in enumerate(self._inputs) if entry.name == name)

    def _layer_norm(self, node: Node) -> None:
        graph, size = self._graph, self._channels(node.key)
        residual = self._floats[node.inputs[-1]] if "residual" in node.attributes else None
        named = node.inputs[:-1] if residual is not None else node.inputs
        beta = graph.constants[named[2]] if len(named) > 2 else np.zeros(size, np.float32)
        wanted = self._quantizations(node.key)
        quantization = wanted[0] if wanted else None
        source = self._floats[node.inputs[0]]
        needs_float = self._needs_float(node.key) or len(wanted) > 1
        out = self._new_float(node.key) if needs_float else None
        quantized = None if quantization is None else self._new_bytes(node.key, quantization)
        self._steps.append(
            LayerNorm(
                node.key,
                source,
                residual,
                _spread(graph.constants[named[1]], size),
                _spread(beta, size),
                node.number("epsilon"),
                out,
                quantized,
                quantization,
            )
        )

    def _linear(self, node: Node) -> None:
        x, weight, bias = node.inputs
        constants = self._graph.constants
        self._steps.append(
            LinearF32(
                node.key,
                self._floats[x],
                constants[weight],
                constants[bias],
                _activation(node),
                self._new_float(node.key),
            )
        )

    def _linear_integer(self, node: Node) -> None:
        x, weight, scale, bias = node.inputs
        constants = self._graph.constants
        if x in self._of_tokens:
            self._linear_of_tokens(node)
            return
        source, quantization = self._quantized(x)
        out, out_quantization = self._integer_result(node)
        self._steps.append(
            LinearU8(
                node.key,
                source,
                quantization.zero_point,
                constants[weight],
                constants[scale] * np.float32(quantization.scale),
                constants[bias],
                _activation(node),
                out,
                out_quantization,
            )
        )

    def _linear_of_tokens(self, node: Node) -> None:
        x, weight, scale, bias = node.inputs
        constants, (source, scales) = self._graph.constants, self._of_tokens[x]
        product, no_bias = self._new_buffer(node.key, "f32"), np.zeros_like(constants[bias])
        layer = LinearU8(node.key, source, 128, constants[weight], constants[scale], no_bias, "none", product, None)
        offset = layer.weight.sum(axis=1, dtype=np.int64) * layer.scale.astype(np.float64)
        self._steps.append(layer)
        self._steps.append(
            Rescale(
                node.key,
                product,
                scales,
                offset.astype(np.float32),
                constants[bias],
                _activation(node),
                self._new_float(node.key),
            )
        )

    def _attention(self, node: Node) -> None:
        heads = node.integer("heads")
        mask = self._input_index(node.inputs[3]) if any(node.inputs[3:4]) else None
        bias = self._graph.constants[node.inputs[4]] if len(node.inputs) > 4 else None
        common = (heads, self._channels(node.key) // heads, node.number("scale"), mask, node.number("mask_value"))
        if "probability_scale" in node.attributes:
            self._attention_integer(node, *common)
            return
        query, key, value = (self._floats[name] for name in node.inputs[:3])
        self._steps.append(Attention(node.key, query, key, value, *common, self._new_float(node.key), bias=bias))

    def _attention_integer(
        self, node: Node, heads: int, head_dim: int, scale: float, mask: int | None, mask_value: float
    ) -> None:
        (query, by_query), (key, by_key), (value, by_value) = (self._quantized(n) for n in node.inputs[:3])
        probabilities = Quantization(node.number("probability_scale"), node.integer("probability_zero"))
        out, quantization = self._integer_result(node)
        self._steps.append(
            Attention(
                node.key,
                query,
                key,
                value,
                heads,
                head_dim,
                scale,
                mask,
                mask_value,
                out,
                by_query,
                by_key,
                by_value,
                probabilities,
                quantization,
            )
        )

    def _add(self, node: Node) -> None:
        left, right = (self._floats[name] for name in node.inputs)
        self._steps.append(Add(node.key, left, right, self._new_float(node.key)))

    def _activate(self, node: Node) -> None:
        source = self._floats[node.inputs[0]]
        self._steps.append(Activate(node.key, source, _activation(node), self._new_float(node.key)))

    def _select(self, node: Node) -> None:
        source = self._floats[node.inputs[0]]
        self._steps.append(Select(node.key, source, self._new_float(node.key)))

    def _fake_quantize(self, node: Node) -> None:
        x, quantization = node.inputs[0], _quantization(node)
        if (x, quantization) not in self._bytes:
            source = self._floats[x]
            out = self._new_bytes(x, quantization)
            self._steps.append(Quantize(node.key, source, out, quantization))
        if self._needs_float(node.key) or self._quantizations(node.key):
            source = self._bytes[x, quantization]
            self._steps.append(Dequantize(node.key, source, self._new_float(node.key), quantization))

    def _fake_quantize_tokens(self, node: Node) -> None:
        source = self._floats[node.inputs[0]]
        kind = self._buffers[source].rows
        out = self._new_buffer(node.key, "u8")
        self._buffers.append(Buffer(f"{node.key} scales", 2, "f32", kind))
        self._of_tokens[node.key] = (out, len(self._buffers) - 1)
        self._steps.append(QuantizeTokens(node.key, source, *self._of_tokens[node.key]))

    def _quantized(self, value: str) -> tuple[BufferId, Quantization]:
        """The uint8 buffer behind a FakeQuantize, and how it is to be read."""
        node = self._graph.producer(value)
        if node is None or node.op_type != "FakeQuantize":
            raise ModelError(f"{value!r} is read as uint8 but not quantized")
        quantization = _quantization(node)
        return self._bytes[node.inputs[0], quantization], quantization

    def _quantizations(self, value: str) -> list[Quantization]:
        """The ways in which readers want `value` quantized."""
        readers = [n for n in self._graph.consumers(value) if n.op_type == "FakeQuantize"]
        return list(dict.fromkeys(_quantization(n) for n in readers))

    def _needs_float(self, value: str) -> bool:
        """True where `value` is read as float32, or shown to the caller."""
        return self._graph.is_output(value) or any(not _reads_bytes(reader) for reader in self._graph.consumers(value))

    def _integer_result(self, node: Node) -> tuple[BufferId, Quantization | None]:
        """A uint8 buffer where that is all that the readers want, else a float32 one."""
        wanted = self._quantizations(node.key)
        if len(wanted) == 1 and not self._needs_float(node.key):
            return self._new_bytes(node.key, wanted[0]), wanted[0]
        return self._new_float(node.key), None

    def _new_float(self, value: str) -> BufferId:
        self._floats[value] = self._new_buffer(value, "f32")
        return self._floats[value]

    def _new_bytes(self, value: str, quantization: Quantization) -> BufferId:
        self._bytes[value, quantization] = self._new_buffer(value, "u8")
        return self._bytes[value, quantization]

    def _new_buffer(self, value: str, dtype: Literal["f32", "u8"]) -> BufferId:
        kind = "tokens" if rows(self._graph, value) == "tokens" else "batch"
        self._buffers.append(Buffer(value, self._channels(value), dtype, cast("Literal['tokens', 'batch']", kind)))
        return len(self._buffers) - 1

    def _channels(self, value: str) -> int:
        size = channels(self._graph, value)
        if size is None or rows(self._graph, value) is None:
            shape = describe(self._graph, value)
            raise ModelError(f"{value!r} of shape {shape} has no fixed number of channels for each token")
        return size


def _reads_bytes(reader: Node) -> bool:
    """True where `reader` takes its activations only as uint8."""
    integer_attention = reader.op_type == "Attention" and "probability_scale" in reader.attributes
    return integer_attention or reader.op_type in ("FakeQuantize", "LinearInteger")


def _quantization(node: Node) -> Quantization:
    return Quantization(node.number("scale"), node.integer("zero_point"))


def _activation(node: Node) -> Activation:
    return cast("Activation", node.text("activation"))


def _spread(array: Array, size: int) -> Array:
    return np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (size,)), dtype=np.float32)
