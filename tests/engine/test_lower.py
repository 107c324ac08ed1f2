"""From fused nodes to steps: what is quantized where, and what is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from onnx import helper, numpy_helper

from engine import ModelError, UnsupportedModelError
from engine.compiler import compile_graph
from engine.graph import Array
from engine.onnx_reader import parse
from engine.program import (
    Attention,
    Dequantize,
    Embed,
    LayerNorm,
    LinearF32,
    LinearU8,
    Output,
    Program,
    Quantize,
)
from tests.engine.models import Bert, model_of


def program_of(form: str, **options: float) -> Program:
    return compile_graph(parse(Bert(form, layers=1, **options).build().SerializeToString()))  # type: ignore[arg-type]


def kinds(program: Program) -> Counter[str]:
    return Counter(type(step).__name__ for step in program.steps)


def test_float_model_is_one_step_a_part() -> None:
    program = program_of("fp32")
    assert kinds(program) == {"Embed": 1, "LayerNorm": 3, "LinearF32": 7, "Attention": 1, "Output": 2}
    assert [i.name for i in program.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert Counter(s.activation for s in program.steps if isinstance(s, LinearF32)) == {"none": 6, "gelu": 1}


@pytest.mark.parametrize("form", ["qdq", "qdqs8", "qdqpc", "qat", "integer"])
def test_quantized_model_quantizes_inside_its_steps(form: str) -> None:
    program = program_of(form)
    assert kinds(program) == {"Embed": 1, "LayerNorm": 3, "LinearU8": 7, "Attention": 1, "Output": 2}
    (attention,) = (s for s in program.steps if isinstance(s, Attention))
    assert program.buffers[attention.query].dtype == "u8"
    assert attention.probability_quantization is not None
    assert attention.quantization is not None
    norms = [s for s in program.steps if isinstance(s, LayerNorm)]
    assert [(n.out is not None, n.out_quantized is not None) for n in norms] == [
        (True, True),
        (True, True),
        (False, True),
    ]
    linears = [s for s in program.steps if isinstance(s, LinearU8)]
    assert [s.quantization is not None for s in linears] == [True, True, True, False, True, False, False]


def test_residual_from_a_quantized_value_is_dequantized() -> None:
    program = program_of("everywhere")
    assert kinds(program)["Dequantize"] == 2
    assert kinds(program)["Quantize"] == 0
    assert all(isinstance(s.quantization.scale, float) for s in program.steps if isinstance(s, Dequantize))


def test_int8_weights_and_tables_stay_int8() -> None:
    program = program_of("qdq")
    (embed,) = (s for s in program.steps if isinstance(s, Embed))
    assert [t.values.dtype for t in embed.tables] == [np.int8] * 3
    assert [t.source for t in embed.tables] == [0, 2, "position"]
    for step in program.steps:
        if isinstance(step, LinearU8):
            assert step.weight.dtype == np.int8
            assert step.scale.shape == step.bias.shape == (step.weight.shape[0],)


@pytest.mark.parametrize("form", ["qdq", "qat", "integer"])
def test_pruned_weights_stay_exactly_zero(form: str) -> None:
    program = program_of(form, sparsity=0.75)
    hidden = [s for s in program.steps if isinstance(s, LinearU8)][:-1]
    zeros = np.concatenate([(s.weight == 0).reshape(-1) for s in hidden]).mean()
    blocks = np.concatenate([(s.weight.reshape(len(s.weight), -1, 4) == 0).all(axis=2).reshape(-1) for s in hidden])
    assert zeros >= 0.7
    assert blocks.mean() >= 0.7


def test_each_buffer_is_written_once_before_it_is_read() -> None:
    for form in ("fp32", "qdq", "everywhere"):
        program = program_of(form)
        written: set[int] = set()
        for step in program.steps:
            fields = vars(step)
            reads = [fields.get(n) for n in ("input", "residual", "query", "key", "value", "left", "right")]
            assert all(r in written for r in reads if r is not None)
            made = [b for b in (fields.get("out"), fields.get("out_quantized")) if b is not None]
            assert written.isdisjoint(made)
            written.update(made)
        assert written == set(range(len(program.buffers)))


def head(nodes: list[object], outputs: dict[str, list[int | str]], **constants: Array) -> Program:
    every = [helper.make_node("Gather", ["table", "ids"], ["x"], name="embed"), *nodes]
    table = {"table": np.ones((5, 4), np.float32), **constants}
    model = model_of(every, {"ids": ["b", "s"]}, outputs, table)  # type: ignore[arg-type]
    return compile_graph(parse(model.SerializeToString()))


def test_outputs_of_every_form() -> None:
    nodes: list[object] = [
        helper.make_node("Gather", ["x", "zero"], ["first"], axis=1),
        helper.make_node("Gather", ["x", "two"], ["column"], axis=-1),
        helper.make_node("Slice", ["x", "a", "b", "c"], ["cut"]),
        helper.make_node("Squeeze", ["cut", "c"], ["third"]),
        helper.make_node("Gather", ["first", "two"], ["number"], axis=1),
    ]
    shapes: dict[str, list[int | str]] = {
        "x": ["b", "s", 4],
        "first": ["b", 4],
        "column": ["b", "s"],
        "third": ["b", "s"],
        "number": ["b"],
    }
    program = head(
        nodes,
        shapes,
        zero=np.array(0),
        two=np.array(2),
        a=np.array([3]),
        b=np.array([4]),
        c=np.array([2]),
    )
    outputs = {s.name: s for s in program.steps if isinstance(s, Output)}
    rows = {name: program.buffers[s.input].rows for name, s in outputs.items()}
    assert rows == {"x": "tokens", "first": "batch", "column": "tokens", "third": "tokens", "number": "batch"}
    assert {n: s.column for n, s in outputs.items()} == {
        "x": None,
        "first": None,
        "column": 2,
        "third": 3,
        "number": 2,
    }


def test_value_quantized_in_two_ways() -> None:
    nodes: list[object] = []
    for name, scale in (("p", "s1"), ("q", "s2")):
        nodes.append(helper.make_node("QuantizeLinear", ["n", scale, "z"], [f"{name}q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}q", scale, "z"], [f"{name}d"]))
        nodes.append(helper.make_node("DequantizeLinear", ["w", "s1", "wz"], [f"{name}w"]))
        nodes.append(helper.make_node("MatMul", [f"{name}d", f"{name}w"], [name]))
    nodes.insert(0, helper.make_node("Relu", ["x"], ["n"]))
    program = head(
        nodes,
        {"p": ["b", "s", 4], "q": ["b", "s", 4]},
        s1=np.array(0.1, np.float32),
        s2=np.array(0.2, np.float32),
        z=np.array(3, np.uint8),
        w=np.ones((4, 4), np.int8),
        wz=np.array(0, np.int8),
    )
    assert [s.quantization.scale for s in program.steps if isinstance(s, Quantize)] == [
        pytest.approx(0.1),
        pytest.approx(0.2),
    ]


@pytest.mark.parametrize("op", ["ReduceMean", "Transpose", "Flatten"])
def test_output_that_no_step_writes_is_refused(op: str) -> None:
    with pytest.raises(ModelError):
        head([helper.make_node(op, ["x"], ["y"], name="last")], {"y": ["b"]})


def test_sums_that_broadcast_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="sum"):
        head(
            [
                helper.make_node("Gather", ["x", "zero"], ["first"], axis=1),
                helper.make_node("Unsqueeze", ["first", "one"], ["row"]),
                helper.make_node("Add", ["x", "row"], ["y"], name="sum"),
            ],
            {"y": ["b", "s", 4]},
            zero=np.array(0),
            one=np.array([1]),
        )


def test_every_reason_is_told() -> None:
    model = Bert(layers=1).build()
    for node in model.graph.node:
        if node.op_type == "Softmax":
            node.op_type = "Sparsemax"
    with pytest.raises(UnsupportedModelError) as caught:
        compile_graph(parse(model.SerializeToString()))
    reasons = {n.op_type: n.reason for n in caught.value.nodes}
    assert reasons["Sparsemax"] == "unknown operator"
    assert len(caught.value.nodes) == len({n.name for n in caught.value.nodes})
    assert all(n.name in str(caught.value) for n in caught.value.nodes)


def test_row_89_convolutions_are_refused_at_load() -> None:
    kernel = numpy_helper.from_array(np.ones((4, 4, 3), np.float32), "k")
    for attributes in ({"strides": [0]}, {"pads": [9, 9, 9]}, {"dilations": [1, 1, 1]}, {"group": 3}, {}):
        conv = helper.make_node("Conv", ["x", "k"], ["y"], name="conv", **attributes)
        model = model_of(
            [helper.make_node("Gather", ["table", "ids"], ["x"]), conv],
            {"ids": ["b", "s"]},
            {"y": [1]},
            {"table": np.ones((5, 4), np.float32), "k": numpy_helper.to_array(kernel)},
        )
        with pytest.raises(UnsupportedModelError, match=r"conv \[Conv\]"):
            compile_graph(parse(model.SerializeToString()))
