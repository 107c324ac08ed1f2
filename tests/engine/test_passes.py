"""The rewrites, each on the spellings that it must know and on those that it must leave alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper

from engine import ModelError, UnsupportedModelError
from engine.compiler import compile_graph
from engine.graph import Array
from engine.lower import lower
from engine.onnx_reader import parse
from engine.passes import PASSES, optimise
from engine.program import Activate, Embed, LinearF32, LinearU8
from engine.reference import run_graph, run_program
from engine.shapes import annotate
from tests.engine.models import Bert, feed, session
from tests.engine.patterns import HIDDEN, Body, kinds, optimised, same_as_onnxruntime


@pytest.mark.parametrize("form", ["fp32", "qdq", "qdqpc", "qat", "integer", "everywhere"])
def test_graph_is_sound_and_right_after_every_pass(form: str) -> None:
    """Bisection: while a graph still has standard operators only, and as a program, it computes what it did."""
    data = Bert(form, layers=1).build().SerializeToString()
    inputs = feed([i.name for i in parse(data).inputs], 2, 5)
    expected = run_graph(parse(data), inputs)
    for count in range(len(PASSES) + 1):
        graph = parse(data)
        annotate(graph)
        optimise(graph, stop_after=count)
        graph.check()
        if all(node.domain == "" for node in graph.nodes):
            found = run_graph(graph, inputs)
            np.testing.assert_allclose(found["start_logits"], expected["start_logits"], atol=1e-4)
    found = run_program(lower(graph), inputs)
    np.testing.assert_allclose(found["start_logits"], expected["start_logits"], atol=1e-4)


class TestActivations:
    @pytest.mark.parametrize("order", range(6))
    def test_gelu_spellings(self, order: int) -> None:
        body = Body()
        x = body.linear("x")
        inner = body.op("Mul", x, np.sqrt(0.5)) if order % 2 else body.op("Div", x, np.sqrt(2.0))
        gate = body.op("Add", 1.0, body.op("Erf", inner))
        spellings = [
            lambda: body.op("Mul", body.op("Mul", x, gate), 0.5),
            lambda: body.op("Mul", 0.5, body.op("Mul", gate, x)),
            lambda: body.op("Mul", body.op("Mul", 0.5, x), gate),
            lambda: body.op("Mul", gate, body.op("Mul", x, 0.5)),
            lambda: body.op("Mul", x, body.op("Mul", gate, 0.5)),
            lambda: body.op("Mul", body.op("Mul", 0.5, gate), x),
        ]
        model = body.model(spellings[order]())
        assert kinds(optimised(model)) == {"Embed": 1, "Linear": 1}
        same_as_onnxruntime(model)

    @pytest.mark.parametrize("order", range(3))
    def test_tanh_spellings(self, order: int) -> None:
        body = Body()
        x = body.linear("x")
        cube = body.op("Pow", x, 3.0) if order else body.op("Mul", x, body.op("Mul", x, x))
        inner = body.op("Mul", np.sqrt(2 / np.pi), body.op("Add", x, body.op("Mul", 0.044715, cube)))
        if order == 2:
            square = body.op("Mul", body.op("Mul", 0.044715, x), x)
            inner = body.op("Mul", body.op("Mul", x, 0.7978845608), body.op("Add", 1.0, square))
        gate = body.op("Add", body.op("Tanh", inner), 1.0)
        half = body.op("Div", x, 2.0) if order else body.op("Mul", x, 0.5)
        model = body.model(body.op("Mul", half, gate))
        assert kinds(optimised(model)) == {"Embed": 1, "Linear": 1}
        same_as_onnxruntime(model)

    @pytest.mark.parametrize("form", ["none", "tanh"])
    def test_gelu_operator(self, form: str) -> None:
        body = Body()
        same_as_onnxruntime(body.model(body.op("Gelu", body.linear("x"), approximate=form), 20))

    def test_gelu_with_another_number_is_none(self) -> None:
        body = Body()
        gate = body.op("Add", body.op("Erf", body.op("Div", "x", 1.5)), 1.0)
        with pytest.raises(UnsupportedModelError):
            compile_graph(parse(body.model(body.op("Mul", body.op("Mul", "x", gate), 0.5)).SerializeToString()))

    @pytest.mark.parametrize("op", ["Relu", "Tanh"])
    def test_activation_read_twice_stays_a_step(self, op: str) -> None:
        body = Body()
        y = body.linear("x")
        model = body.model(body.op("Add", body.op(op, y), y))
        assert any(isinstance(step, Activate) for step in compile_graph(parse(model.SerializeToString())).steps)
        same_as_onnxruntime(model)


class TestLayerNorm:
    def spelled_out(self, body: Body, x: str, squared: Callable[[str], str]) -> str:
        centred = body.op("Sub", x, body.op("ReduceMean", x, axes=[-1]))
        variance = body.op("ReduceMean", squared(centred), axes=[2])
        deviation = body.op("Sqrt", body.op("Add", 1e-5, variance))
        scaled = body.op("Mul", body.weight(HIDDEN), body.op("Div", centred, deviation))
        return body.op("Add", scaled, body.weight(HIDDEN))

    @pytest.mark.parametrize("power", [True, False])
    def test_chain(self, power: bool) -> None:
        body = Body()
        out = self.spelled_out(body, "x", lambda c: body.op("Pow", c, 2.0) if power else body.op("Mul", c, c))
        model = body.model(out)
        assert kinds(optimised(model)) == {"Embed": 1, "LayerNorm": 1}
        same_as_onnxruntime(model)

    def test_operator_without_bias(self) -> None:
        body = Body()
        model = body.model(body.op("LayerNormalization", "x", body.weight(HIDDEN), epsilon=1e-3), 17)
        same_as_onnxruntime(model)

    def test_residual_is_part_of_it(self) -> None:
        body = Body()
        total = body.op("Add", body.linear("x"), "x")
        model = body.model(body.op("LayerNormalization", total, body.weight(HIDDEN), body.weight(HIDDEN)), 17)
        assert kinds(optimised(model)) == {"Embed": 1, "Linear": 1, "LayerNorm": 1}
        same_as_onnxruntime(model)

    def test_bias_of_another_length_is_refused(self) -> None:
        body = Body()
        model = body.model(body.op("LayerNormalization", "x", body.weight(HIDDEN), body.weight(HIDDEN - 1)), 17)
        with pytest.raises(UnsupportedModelError, match="constants of 8 numbers"):
            compile_graph(parse(model.SerializeToString()))

    def test_other_axis_is_refused(self) -> None:
        body = Body()
        out = body.op("LayerNormalization", "x", body.weight(HIDDEN), axis=1)
        with pytest.raises(UnsupportedModelError):
            compile_graph(parse(body.model(out, 17).SerializeToString()))


class TestLinear:
    def test_gemm_over_flattened_tokens(self) -> None:
        body = Body()
        flat = body.op("Reshape", "x", np.array([-1, HIDDEN]))
        y = body.op("Gemm", flat, body.weight(4, HIDDEN), body.weight(4), transB=1, alpha=0.5, beta=2.0)
        shape = body.op("Concat", body.op("Shape", "input_ids"), np.array([4]), axis=0)
        model = body.model(body.op("Reshape", y, shape), shape=("b", "s", 4))
        assert kinds(optimised(model)) == {"Embed": 1, "Linear": 1}
        same_as_onnxruntime(model)

    def test_flattened_tokens_keep_their_shape_for_other_readers(self) -> None:
        """A residual and a pooled token read what a Gemm reads flattened."""
        body = Body()
        x = body.op("LayerNormalization", "x", body.weight(HIDDEN), body.weight(HIDDEN))
        y = body.op("Gemm", body.op("Reshape", x, np.array([-1, HIDDEN])), body.weight(HIDDEN, HIDDEN))
        shape = body.op("Concat", body.op("Shape", "input_ids"), np.array([HIDDEN]), axis=0)
        total = body.op("Add", body.op("Reshape", y, shape), x)
        first = body.op("Gather", x, np.array(0), axis=1)
        model = body.model(total, opset=17)
        model.graph.output.append(helper.make_tensor_value_info(first, onnx.TensorProto.FLOAT, ("b", HIDDEN)))
        same_as_onnxruntime(model)

    def test_residual_of_flattened_tokens(self) -> None:
        body = Body()
        flat = body.op("Reshape", "x", np.array([-1, HIDDEN]))
        total = body.op("Add", body.op("Gemm", flat, body.weight(HIDDEN, HIDDEN)), flat)
        norm = body.op("LayerNormalization", total, body.weight(HIDDEN), body.weight(HIDDEN))
        shape = body.op("Concat", body.op("Shape", "input_ids"), np.array([HIDDEN]), axis=0)
        same_as_onnxruntime(body.model(body.op("Reshape", norm, shape), opset=17))

    @pytest.mark.parametrize("pick", ["row", "channel", "output"])
    def test_flattened_tokens_are_not_taken_for_sequences(self, pick: str) -> None:
        """What picks from rows of all tokens, or shows them, is refused: as sequences it would give other numbers."""
        body = Body()
        x = body.linear("x")
        flat = body.op("Reshape", x, np.array([-1, HIDDEN]))
        y = body.op("MatMul", flat, body.weight(HIDDEN, HIDDEN))
        shape = body.op("Concat", body.op("Shape", "input_ids"), np.array([HIDDEN]), axis=0)
        back = body.op("Reshape", y, shape)
        shown, dims = flat, list[int | str | None](("n", HIDDEN))
        if pick == "row":
            shown, dims = body.op("Gather", y, np.array([0]), axis=0), [1, HIDDEN]
        elif pick == "channel":
            shown, dims = body.op("Gather", y, np.array(0), axis=1), ["n"]
        model = body.model(back)
        model.graph.output.append(helper.make_tensor_value_info(shown, onnx.TensorProto.FLOAT, dims))
        with pytest.raises((UnsupportedModelError, ModelError)):
            compile_graph(parse(model.SerializeToString()))

    def test_transposed_weight(self) -> None:
        body = Body()
        w = body.op("Transpose", body.weight(4, HIDDEN), perm=[1, 0])
        same_as_onnxruntime(body.model(body.op("MatMul", "x", w), shape=("b", "s", 4)))

    @pytest.mark.parametrize("case", ["tensor", "channel", "unsigned", "rows", "stored transposed", "read float"])
    def test_int8_weights(self, case: str) -> None:
        body = Body()
        q = body.random.integers(-127, 128, (HIDDEN, 4))
        scale: Array = np.array(0.01, np.float32)
        x = body.op("QuantizeLinear", "x", 0.03, np.uint8(120))
        x = body.op("DequantizeLinear", x, 0.03, np.uint8(120))
        zero: Array = np.array(0, np.int8)
        attributes: dict[str, int] = {}
        if case == "channel":
            scale, zero, attributes = np.linspace(0.01, 0.02, 4), np.zeros(4, np.int8), {"axis": 1}
        if case == "rows":
            scale, zero, attributes = np.linspace(0.01, 0.02, HIDDEN), np.zeros(HIDDEN, np.int8), {"axis": 0}
        if case == "unsigned":
            stored, zero = (q + 128).astype(np.uint8), np.array(128, np.uint8)
        else:
            stored = q.astype(np.int8)
        if case == "stored transposed":
            scale, zero, attributes = np.linspace(0.01, 0.02, 4), np.zeros(4, np.int8), {"axis": 0}
            w = body.op("DequantizeLinear", np.ascontiguousarray(stored.T), scale, zero, **attributes)
            w = body.op("Transpose", w, perm=[1, 0])
        else:
            w = body.op("DequantizeLinear", stored, scale, zero, **attributes)
        model = body.model(body.op("MatMul", "x" if case == "read float" else x, w), shape=("b", "s", 4))
        same_as_onnxruntime(model)
        steps = compile_graph(parse(model.SerializeToString())).steps
        integer = case not in ("rows", "read float")
        assert any(isinstance(step, LinearU8 if integer else LinearF32) for step in steps)

    def test_computed_zero_point_is_refused(self) -> None:
        body = Body()
        zero = body.op("Cast", body.op("ReduceMin", "input_ids", keepdims=0), to=onnx.TensorProto.UINT8)
        x = body.op("DequantizeLinear", body.op("QuantizeLinear", "x", 0.03, zero), 0.03, zero)
        model = body.model(body.op("MatMul", x, body.weight(HIDDEN, HIDDEN)))
        with pytest.raises(UnsupportedModelError, match="one scale and zero point"):
            compile_graph(parse(model.SerializeToString()))

    def test_too_many_integer_products_for_a_sum_become_floats(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("engine.passes.linear.MAX_PRODUCTS", HIDDEN - 1)
        body = Body()
        x = body.op("DequantizeLinear", body.op("QuantizeLinear", "x", 0.03, np.uint8(9)), 0.03, np.uint8(9))
        w = body.op("DequantizeLinear", np.ones((HIDDEN, HIDDEN), np.int8), 0.1, np.int8(0))
        model = body.model(body.op("MatMul", x, w))
        assert kinds(optimised(model))["LinearInteger"] == 0
        same_as_onnxruntime(model)

    def test_quantized_value_read_as_float_too(self) -> None:
        body = Body()
        x = body.op("QuantizeLinear", "x", 0.03, np.int8(5))
        x = body.op("DequantizeLinear", x, 0.03, np.int8(5))
        w = body.op("DequantizeLinear", np.ones((HIDDEN, HIDDEN), np.int8), 0.1, np.int8(0))
        same_as_onnxruntime(body.model(body.op("Add", body.op("MatMul", x, w), x)))


class TestEmbedding:
    def test_positions_and_token_types_without_inputs(self) -> None:
        body = Body()
        shape = body.op("Shape", "input_ids")
        length = body.op("Gather", shape, np.array(1), axis=0)
        places = body.op("Range", np.array(0), length, np.array(1))
        places = body.op("Add", places, np.array(2))
        types = body.op("ConstantOfShape", shape, value=onnx.numpy_helper.from_array(np.array([1])))
        total = body.op("Add", body.op("Gather", body.weight(40, HIDDEN), places), "x")
        model = body.model(body.op("Add", total, body.op("Gather", body.weight(2, HIDDEN), types)))
        (step,) = (s for s in compile_graph(parse(model.SerializeToString())).steps if isinstance(s, Embed))
        assert {(t.source, t.offset) for t in step.tables} == {(0, 0), ("position", 2), ("constant", 1)}
        same_as_onnxruntime(model)

    def test_positions_that_depend_on_the_tokens_are_refused(self) -> None:
        body = Body()
        places = body.op("Mul", "attention_mask", np.array(3))
        model = body.model(body.op("Add", "x", body.op("Gather", body.weight(40, HIDDEN), places)))
        with pytest.raises(UnsupportedModelError):
            compile_graph(parse(model.SerializeToString()))

    def test_fixed_sequence_folds_to_a_table(self) -> None:
        model = Bert(inputs=(1, 16), layers=1).build()
        program = compile_graph(parse(model.SerializeToString()))
        inputs = feed([i.name for i in model.graph.input], 1, 16)
        expected = session(model).run(["start_logits"], inputs)[0]
        np.testing.assert_allclose(run_program(program, inputs)["start_logits"], expected, atol=1e-4)
