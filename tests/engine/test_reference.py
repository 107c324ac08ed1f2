"""The NumPy definitions, against ONNX Runtime, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine import InputError, ModelError
from engine.compiler import compile_graph
from engine.graph import Array
from engine.onnx_reader import parse
from engine.ops.elementwise import erf
from engine.reference import run_graph, run_program
from tests.engine.models import Bert, feed, session

R = np.random.default_rng(3)
F = R.normal(0, 2, (2, 3, 4)).astype(np.float32)
G = R.normal(0, 2, (2, 3, 4)).astype(np.float32)
POSITIVE = np.abs(F) + np.float32(0.1)
I = R.integers(-9, 9, (2, 3, 4))  # noqa: E741 - as in the tables of the standard
B = R.random((2, 3, 4)) < 0.5
Q = R.integers(0, 256, (3, 4)).astype(np.uint8)
W = R.integers(-128, 128, (4, 5)).astype(np.int8)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def scalar(value: Any, dtype: Any = np.float32) -> Array:
    return np.array(value, dtype)


CASES: list[tuple[str, list[Array | None], dict[str, Any]]] = [
    *[(op, [F, G], {}) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Equal", "Greater", "Less")],
    *[(op, [F, F[:, :1]], {}) for op in ("GreaterOrEqual", "LessOrEqual")],
    *[(op, [B, ~B], {}) for op in ("And", "Or", "Xor")],
    *[(op, [F], {}) for op in ("Neg", "Abs", "Exp", "Erf", "Tanh", "Relu", "Sigmoid", "IsNaN", "Identity")],
    *[(op, [POSITIVE], {}) for op in ("Sqrt", "Reciprocal", "Log")],
    ("Div", [I, np.where(I == 0, 3, -I)], {}),
    ("Pow", [POSITIVE, scalar(2)], {}),
    ("Not", [B], {}),
    ("Where", [B, F, scalar(-1)], {}),
    ("Clip", [F, scalar(-1), None], {}),
    ("Cast", [F], {"to": TensorProto.INT64}),
    ("Cast", [I], {"to": TensorProto.BOOL}),
    ("Gelu", [F], {}),
    ("Gelu", [F], {"approximate": "tanh"}),
    ("Reshape", [F, ints(0, -1)], {}),
    ("Reshape", [F, ints(4, 6)], {"allowzero": 1}),
    ("Transpose", [F], {}),
    ("Transpose", [F], {"perm": [1, 2, 0]}),
    ("Flatten", [F], {"axis": -1}),
    ("Squeeze", [F[:1], ints(0)], {}),
    ("Squeeze", [F[:1]], {}),
    ("Unsqueeze", [F, ints(0, -1)], {}),
    ("Shape", [F], {"start": -2, "end": 9}),
    ("Size", [F], {}),
    ("Expand", [F[:, :1], ints(2, 1, 3, 1)], {}),
    ("Concat", [F, G], {"axis": -2}),
    ("Slice", [F, ints(1, -9), ints(99, 2), ints(2, 0)], {}),
    ("Slice", [F, ints(-1), ints(-99), ints(2), ints(-2)], {}),
    ("Tile", [F, ints(1, 2, 3)], {}),
    ("Range", [scalar(3, np.int64), scalar(-4, np.int64), scalar(-2, np.int64)], {}),
    ("ConstantOfShape", [ints(2, 3)], {"value": numpy_helper.from_array(np.array([7]))}),
    ("Gather", [F, np.array([[0, -1]])], {"axis": 1}),
    ("GatherElements", [F, np.zeros((2, 3, 4), np.int64)], {"axis": 2}),
    ("GatherND", [F, np.array([[0, 1], [1, -1]])], {}),
    ("GatherND", [F, np.array([[1], [2]])], {"batch_dims": 1}),
    *[(f"Reduce{op}", [F, ints(-1)], {"keepdims": 0}) for op in ("Mean", "Sum", "Max", "Min", "Prod")],
    ("ReduceMean", [F], {}),
    ("Softmax", [F], {"axis": 1}),
    ("CumSum", [F, scalar(1, np.int64)], {}),
    ("CumSum", [I, scalar(-1, np.int32)], {"exclusive": 1}),
    ("CumSum", [I, scalar(0, np.int64)], {"exclusive": 1, "reverse": 1}),
    ("LayerNormalization", [F, G[0, 0], G[0, 1]], {"epsilon": 1e-3}),
    ("MatMul", [F, G.transpose(0, 2, 1)], {}),
    ("MatMul", [F, G[0, 0]], {}),
    ("Gemm", [F[0], G[0], F[0, :1, :3]], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [F[0], G[0]], {"transA": 1}),
    ("MatMulInteger", [Q, W, scalar(131, np.uint8), scalar(0, np.int8)], {}),
    ("MatMulInteger", [Q, W], {}),
    ("QuantizeLinear", [F, scalar(0.03), scalar(100, np.uint8)], {}),
    ("QuantizeLinear", [F, np.float32([0.01, 0.02, 0.05]), np.int8([0, 3, -9])], {"axis": 1}),
    ("DequantizeLinear", [Q, scalar(0.03), scalar(100, np.uint8)], {}),
    ("DequantizeLinear", [W, np.float32([0.1, 0.2, 0.3, 0.4]), np.int8([0, 1, 2, 3])], {"axis": 0}),
    (
        "QLinearMatMul",
        [Q, scalar(0.1), scalar(9, np.uint8), W, scalar(0.2), scalar(0, np.int8), scalar(40), scalar(99, np.uint8)],
        {},
    ),
    ("Attention", [F[None, ...], G[None, ...], F[None, ...], np.array([[True, False, True]] * 3)], {}),
    ("Attention", [F, G, F], {"q_num_heads": 2, "kv_num_heads": 2, "scale": 0.3}),
]


def model_of_case(op: str, inputs: list[Array | None], attributes: dict[str, Any], opset: int) -> onnx.ModelProto:
    names = [f"i{k}" if a is not None else "" for k, a in enumerate(inputs)]
    node = helper.make_node(op, names, ["y"], name="only", **attributes)
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, inputs, strict=True)
        if a is not None
    ]
    graph = helper.make_graph([node], "g", values, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    model.graph.output[0].CopyFrom(inferred.graph.output[0])
    return model


@pytest.mark.parametrize(("op", "inputs", "attributes"), CASES, ids=[f"{c[0]}-{k}" for k, c in enumerate(CASES)])
def test_operator_is_that_of_onnxruntime(op: str, inputs: list[Array | None], attributes: dict[str, Any]) -> None:
    model = model_of_case(op, inputs, attributes, 23 if op in ("Attention", "Gelu") else 18)
    feeds = {f"i{k}": a for k, a in enumerate(inputs) if a is not None}
    expected = session(model).run(None, feeds)[0]
    found = run_graph(parse(model.SerializeToString()), feeds)["y"]
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    if found.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("Gather", [F, np.array([3])], {"axis": 1}),
        ("Gather", [F, np.array([-4])], {"axis": 1}),
        ("GatherElements", [F, np.full((2, 3, 4), 9)], {}),
        ("GatherND", [F, np.array([[2, 0]])], {}),
        ("Reshape", [F, ints(-1, -1)], {}),
        ("Reshape", [F, ints(5, -1)], {}),
        ("Expand", [F, ints(-2)], {}),
        ("Expand", [F, ints(5, 5)], {}),
        ("Range", [scalar(0, np.int64), scalar(9, np.int64), scalar(0, np.int64)], {}),
        ("Range", [scalar(0, np.int64), scalar(2**60, np.int64), scalar(1, np.int64)], {}),
        ("ConstantOfShape", [ints(2**40, 2**40)], {}),
        ("ConstantOfShape", [ints(-1)], {}),
        ("Slice", [F, ints(0), ints(1), ints(7)], {}),
        ("Slice", [F, ints(0), ints(1), ints(0), ints(0)], {}),
        ("Slice", [F, ints(0, 1), ints(1)], {}),
        ("Tile", [F, ints(2**20, 2**20, 2**20)], {}),
        ("Tile", [F, ints(2)], {}),
        ("Split", [F, ints(1, 9)], {"axis": 1}),
        ("Unsqueeze", [F, ints(0, 0)], {}),
        ("Squeeze", [F, ints(1)], {}),
        ("Transpose", [F], {"perm": [0, 0, 1]}),
        ("MatMul", [F, F], {}),
        ("Add", [F, F[:, :2]], {}),
        ("Concat", [F, F[0]], {"axis": 0}),
        ("Softmax", [F], {"axis": 5}),
    ],
)
def test_row_92_indices_and_sizes_out_of_range(op: str, inputs: list[Array], attributes: dict[str, Any]) -> None:
    model = model_of_case(op, [*inputs], attributes, 18)
    with pytest.raises(ModelError, match="only"):
        run_graph(parse(model.SerializeToString()), {f"i{k}": a for k, a in enumerate(inputs)})


@pytest.mark.parametrize("number", [-1, 53, 2**40])
def test_row_92_token_beyond_the_table(number: int) -> None:
    program = compile_graph(parse(Bert(layers=1).build().SerializeToString()))
    inputs = feed([i.name for i in program.inputs], 2, 5)
    inputs["input_ids"][1, 2] = number
    with pytest.raises(InputError, match="row number"):
        run_program(program, inputs)


def test_row_92_sequence_longer_than_the_positions() -> None:
    program = compile_graph(parse(Bert(layers=1).build().SerializeToString()))
    with pytest.raises(InputError, match="48 rows"):
        run_program(program, feed([i.name for i in program.inputs], 1, 49))


def test_missing_inputs_are_named() -> None:
    graph = parse(Bert(layers=1).build().SerializeToString())
    with pytest.raises(InputError, match="token_type_ids"):
        run_graph(graph, {"input_ids": ints(1), "attention_mask": ints(1)})
    program = compile_graph(graph)
    with pytest.raises(InputError, match="input_ids"):
        run_program(program, {})


def test_erf_is_accurate_everywhere() -> None:
    import math

    x = np.linspace(-8, 8, 2001)
    np.testing.assert_allclose(erf(x), [math.erf(v) for v in x], atol=1e-11)


@pytest.mark.parametrize("form", ["fp32", "qdq", "qdqs8", "qdqpc", "qat", "integer", "everywhere"])
def test_graph_reference_is_onnxruntime(form: str) -> None:
    model = Bert(form).build()
    inputs = feed([i.name for i in model.graph.input], 3, 11)
    found = run_graph(parse(model.SerializeToString()), inputs)
    for name, expected in zip(found, session(model).run(list(found), inputs), strict=True):
        np.testing.assert_allclose(found[name], expected, atol=1e-5)
