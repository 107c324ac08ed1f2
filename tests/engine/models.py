"""Builders of tiny ONNX models: BERT in the forms that exporters write, and graphs of a few nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from engine.graph import Array

POSITIONS, VOCABULARY = 48, 53


def session(model: onnx.ModelProto, optimised: bool = False) -> onnxruntime.InferenceSession:
    """The model in ONNX Runtime, as the file says it unless `optimised`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def feed(names: Sequence[str], batch: int, sequence: int, seed: int = 1) -> dict[str, Array]:
    """Token numbers, two token types, and a mask that pads the later sequences of the batch more."""
    random = np.random.default_rng(seed)
    mask = np.ones((batch, sequence), np.int64)
    for row in range(batch):
        mask[row, max(1, sequence - 2 * row) :] = 0
    every = {
        "input_ids": random.integers(0, VOCABULARY, (batch, sequence)),
        "attention_mask": mask,
        "token_type_ids": random.integers(0, 2, (batch, sequence)),
    }
    return {name: every[name] for name in names}


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    constants: Mapping[str, Any],
    opset: int = 13,
    input_type: int = TensorProto.INT64,
) -> onnx.ModelProto:
    """A model of these nodes; outputs are float32."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(n, input_type, list(s)) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model


@dataclass
class Bert:
    """A BERT for question answering as torch.onnx of 2022 wrote it, and what quantization made of it.

    form: fp32; qdq (u8 activations, int8 weights); qdqs8 (int8 activations); qdqpc (a scale for each output
    channel); qat (float weights behind QuantizeLinear, transposed); integer (MatMulInteger chains);
    everywhere (qdq, and what the residual reads is quantized too).
    """

    form: str = "fp32"
    hidden: int = 16
    heads: int = 2
    layers: int = 2
    inner: int = 32
    sparsity: float = 0.0
    seed: int = 0
    inputs: Sequence[int | str] = ("batch", "sequence")
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    probes: list[str] = field(default_factory=list)
    quantized: dict[tuple[str, bool], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def op(self, op_type: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        name = out or f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=f"node_{name}", **attributes))
        return name

    def const(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.constants[name] = np.array(value, dtype=dtype, order="C")
        return name

    def quantization(self, x: str, symmetric: bool) -> tuple[float, int, type]:
        low, high = (min(self.ranges[x][0], -1e-3), max(self.ranges[x][1], 1e-3))
        if self.form == "qdqs8":
            return max(-low, high) / 127, 0, np.int8
        if symmetric:
            return max(-low, high) / 127, 128, np.uint8
        scale = (high - low) / 255
        return scale, int(np.clip(round(-low / scale), 0, 255)), np.uint8

    def quantize(self, x: str, symmetric: bool = False) -> tuple[str, str, str]:
        tag = f"{x}.sym" if symmetric else x
        scale, zero, dtype = self.quantization(x, symmetric)
        names = (self.const(f"{tag}.s", scale), self.const(f"{tag}.z", zero, dtype))
        if (x, symmetric) not in self.quantized:
            self.quantized[x, symmetric] = self.op("QuantizeLinear", x, *names)
        return (self.quantized[x, symmetric], *names)

    def fake(self, x: str) -> str:
        """x as the next operator reads it: quantized and back, but in the float form."""
        self.probes.append(x)
        return x if self.form == "fp32" else self.op("DequantizeLinear", *self.quantize(x))

    def weight(self, rows: int, columns: int, spread: float = 0.2) -> Array:
        w = self.random.normal(0, spread, (rows, columns)).astype(np.float32)
        if self.sparsity and rows % 4 == 0:
            blocks = w.reshape(rows // 4, 4, columns)
            keep = self.random.random((rows // 4, 1, columns)) >= self.sparsity
            w = (blocks * keep).reshape(rows, columns)
        return w

    def linear(self, x: str, name: str, rows: int, columns: int) -> str:
        w, b = self.weight(rows, columns), self.random.normal(0, 0.1, columns).astype(np.float32)
        if self.form == "integer":
            return self.integer_linear(x, name, w, b)
        read = self.fake(x)
        product = self.op("MatMul", read, self.stored_weight(name, w))
        return self.op("Add", self.const(f"{name}.b", b), product, out=f"{name}_o")

    def stored_weight(self, name: str, w: Array) -> str:
        if self.form == "fp32":
            return self.const(f"{name}.w", w)
        axis = 0 if self.form == "qdqpc" else None
        scale = np.maximum(np.abs(w).max(axis=axis), 1e-6) / 127
        stored = np.clip(np.rint(w / scale), -127, 127)
        s, z = self.const(f"{name}.s", scale), self.const(f"{name}.z", np.zeros(np.shape(scale)), np.int8)
        if self.form == "qat":
            q = self.op("QuantizeLinear", self.const(f"{name}.w", w.T), s, z)
            return self.op("Transpose", self.op("DequantizeLinear", q, s, z), perm=[1, 0])
        return self.op("DequantizeLinear", self.const(f"{name}.q", stored, np.int8), s, z, axis=1)

    def integer_linear(self, x: str, name: str, w: Array, b: Array) -> str:
        q, _, zero = self.quantize(x)
        scale = float(np.abs(w).max() / 127)
        both = np.float32(self.quantization(x, False)[0] * scale)
        stored = np.clip(np.rint(w / scale), -127, 127) + 128
        product = self.op(
            "MatMulInteger", q, self.const(f"{name}.q", stored, np.uint8), zero, self.const("w128", 128, np.uint8)
        )
        total = self.op("Add", product, self.const(f"{name}.b", np.rint(b / both), np.int32))
        real = self.op("Cast", total, to=TensorProto.FLOAT)
        return self.op("Mul", real, self.const(f"{name}.rs", both), out=f"{name}_o")

    def product(self, a: str, b: str, name: str) -> str:
        if self.form != "integer":
            return self.op("MatMul", self.fake(a), self.fake(b), out=name)
        left, right = self.quantize(a), self.quantize(b, symmetric=True)
        total = self.op("MatMulInteger", left[0], right[0], left[2], right[2])
        scale = self.quantization(a, False)[0] * self.quantization(b, True)[0]
        return self.op("Mul", self.op("Cast", total, to=1), self.const(f"{name}.rs", scale), out=name)

    def embedding(self, name: str, rows: int, indices: str) -> str:
        w = self.random.normal(0, 0.5, (rows, self.hidden)).astype(np.float32)
        if self.form == "fp32":
            return self.op("Gather", self.const(name, w), indices)
        scale = self.const(f"{name}.s", np.abs(w).max() / 127)
        if self.form == "qat":
            zero = self.const(f"{name}.z", 0, np.int8)
            q = self.op("QuantizeLinear", self.const(name, w), scale, zero)
            return self.op("Gather", self.op("DequantizeLinear", q, scale, zero), indices)
        shift, dtype = (128, np.uint8) if self.form == "integer" else (0, np.int8)
        stored = np.rint(w / (np.abs(w).max() / 127)) + shift
        rows_read = self.op("Gather", self.const(name, stored, dtype), indices)
        return self.op("DequantizeLinear", rows_read, scale, self.const(f"{name}.z", shift, dtype))

    def layer_norm(self, x: str, name: str) -> str:
        centred = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1]))
        square = self.op("Pow", centred, self.const("two", 2.0))
        variance = self.op("ReduceMean", square, axes=[-1])
        deviation = self.op("Sqrt", self.op("Add", variance, self.const("eps", 1e-12)))
        gamma = self.const(f"{name}.g", 1 + self.random.normal(0, 0.1, self.hidden))
        beta = self.const(f"{name}.b", self.random.normal(0, 0.1, self.hidden))
        scaled = self.op("Mul", self.op("Div", centred, deviation), gamma)
        return self.op("Add", scaled, beta, out=f"{name}_o")

    def gelu(self, x: str) -> str:
        erf = self.op("Erf", self.op("Div", x, self.const("root2", np.sqrt(2))))
        gate = self.op("Add", erf, self.const("one", 1.0))
        return self.op("Mul", self.op("Mul", x, gate), self.const("half", 0.5), out=f"{x}_gelu")

    def position_ids(self) -> str:
        length = self.op("Gather", self.op("Shape", "input_ids"), self.const("i1", 1, np.int64))
        end = self.op("Unsqueeze", length, self.const("i0", [0], np.int64))
        table = self.const("position_ids", np.arange(POSITIONS)[None], np.int64)
        return self.op("Slice", table, "i0", end, self.const("ax1", [1], np.int64))

    def mask(self) -> str:
        m = self.op("Unsqueeze", "attention_mask", self.const("u1", [1], np.int64))
        m = self.op("Cast", self.op("Unsqueeze", m, self.const("u2", [2], np.int64)), to=TensorProto.FLOAT)
        hidden = self.op("Sub", self.const("one", 1.0), m)
        return self.op("Mul", hidden, self.const("far", -10000.0))

    def attention(self, x: str, mask: str, name: str) -> str:
        width = self.hidden // self.heads
        split = self.const("split", [0, 0, self.heads, width], np.int64)
        q, k, v = (self.linear(x, f"{name}.{part}", self.hidden, self.hidden) for part in "qkv")
        q = self.op("Transpose", self.op("Reshape", q, split), perm=[0, 2, 1, 3], out=f"{name}_q4")
        k = self.op("Transpose", self.op("Reshape", k, split), perm=[0, 2, 3, 1], out=f"{name}_k4")
        v = self.op("Transpose", self.op("Reshape", v, split), perm=[0, 2, 1, 3], out=f"{name}_v4")
        scores = self.op("Div", self.product(q, k, f"{name}_qk"), self.const("width", np.sqrt(width)))
        weights = self.op("Softmax", self.op("Add", scores, mask), axis=-1, out=f"{name}_p")
        context = self.op("Transpose", self.product(weights, v, f"{name}_pv"), perm=[0, 2, 1, 3])
        merge = self.const("merge", [0, 0, self.hidden], np.int64)
        return self.op("Reshape", context, merge, out=f"{name}_ctx")

    def residual(self, x: str, y: str) -> str:
        return self.op("Add", y, self.fake(x) if self.form == "everywhere" else x)

    def layer(self, x: str, mask: str, name: str) -> str:
        y = self.linear(self.attention(x, mask, name), f"{name}.ao", self.hidden, self.hidden)
        x = self.layer_norm(self.residual(x, y), f"{name}_ln1")
        h = self.gelu(self.linear(x, f"{name}.ff1", self.hidden, self.inner))
        y = self.linear(h, f"{name}.ff2", self.inner, self.hidden)
        return self.layer_norm(self.residual(x, y), f"{name}_ln2")

    def build(self) -> onnx.ModelProto:
        if self.form != "fp32" and not self.ranges:
            self.ranges = _calibrate(self)
        x = self.op("Add", self.embedding("word", VOCABULARY, "input_ids"), self.embedding("type", 2, "token_type_ids"))
        x = self.op("Add", x, self.embedding("position", POSITIONS, self.position_ids()))
        x = self.layer_norm(x, "emb")
        mask = self.mask()
        for index in range(self.layers):
            x = self.layer(x, mask, f"l{index}")
        y = self.linear(x, "qa", self.hidden, 2)
        self.nodes.append(helper.make_node("Split", [y, self.const("ones", [1, 1], np.int64)], ["a", "b"], axis=-1))
        last = self.const("last", [-1], np.int64)
        self.op("Squeeze", "a", last, out="start_logits")
        self.op("Squeeze", "b", last, out="end_logits")
        inputs = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), self.inputs)
        outputs = dict.fromkeys(("start_logits", "end_logits"), self.inputs)
        return model_of(self.nodes, inputs, outputs, self.constants)


def _calibrate(wanted: Bert) -> dict[str, tuple[float, float]]:
    """The range of every value that the float form of the same model quantizes."""
    plain = Bert("fp32", wanted.hidden, wanted.heads, wanted.layers, wanted.inner, wanted.sparsity, wanted.seed)
    model = plain.build()
    names = list(dict.fromkeys(plain.probes))
    model.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    running = session(model)
    found = running.run(names, feed([i.name for i in running.get_inputs()], 4, 16))
    return {n: (float(a.min()), float(a.max())) for n, a in zip(names, found, strict=True)}
