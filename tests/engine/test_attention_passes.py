"""Attention and its masks: the spellings that the engine must know, and those that it must refuse."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from engine import InputError, UnsupportedModelError, plan
from engine.compiler import compile_graph
from engine.onnx_reader import parse
from engine.program import Attention
from engine.runtime import CompiledModel
from tests.engine.models import Bert
from tests.engine.patterns import HIDDEN, Body, Build, kinds, optimised, same_as_onnxruntime


def heads(body: Body, x: str, *perm: int) -> str:
    split = body.op("Reshape", body.linear(x), np.array([0, 0, 2, HIDDEN // 2]))
    return body.op("Transpose", split, perm=list(perm))


def merged(body: Body, context: str) -> str:
    moved = body.op("Transpose", context, perm=[0, 2, 1, 3])
    return body.op("Reshape", moved, np.array([0, 0, HIDDEN]))


def additive(body: Body, far: float = -1e4) -> str:
    """[batch, 1, 1, sequence]: 0 for tokens, `far` for padding."""
    mask = body.op("Unsqueeze", "attention_mask", np.array([1, 2]))
    return body.op("Mul", body.op("Sub", 1.0, body.op("Cast", mask, to=1)), far)


def qk(body: Body) -> str:
    return body.op("MatMul", heads(body, "x", 0, 2, 1, 3), heads(body, "x", 0, 2, 3, 1))


def after(body: Body, _: str) -> str:
    return body.op("Add", body.op("Div", qk(body), 2.0), additive(body))


def mask_first(body: Body, _: str) -> str:
    return body.op("Mul", body.op("Add", additive(body), qk(body)), 0.5)


def mask_doubled(body: Body, _: str) -> str:
    return body.op("Mul", body.op("Add", additive(body, float(np.finfo(np.float32).min)), qk(body)), 2.0)


def scaled_query(body: Body, _: str) -> str:
    q = body.op("Div", heads(body, "x", 0, 2, 1, 3), 2.0)
    return body.op("Add", body.op("MatMul", q, heads(body, "x", 0, 2, 3, 1)), additive(body))


def scaled_both(body: Body, _: str) -> str:
    root = np.sqrt(0.5)
    q = body.op("Mul", heads(body, "x", 0, 2, 1, 3), root)
    k = body.op("Mul", root, heads(body, "x", 0, 2, 3, 1))
    return body.op("Add", body.op("MatMul", q, k), additive(body, -3e38))


def filled(body: Body, _: str) -> str:
    hidden = body.op("Equal", body.op("Unsqueeze", "attention_mask", np.array([1, 2])), np.array(0))
    return body.op("Where", hidden, np.float32(-3.4e38), qk(body))


def unmasked(body: Body, _: str) -> str:
    return body.op("Mul", qk(body), 0.5)


def places(body: Body) -> str:
    length = body.op("Gather", body.op("Shape", "input_ids"), np.array(1))
    return body.op("Range", np.array(0), length, np.array(1))


def causal(body: Body) -> str:
    keys = places(body)
    rows = body.op("Unsqueeze", keys, np.array([1]))
    later = body.op("Cast", body.op("Less", rows, keys), to=1)
    return body.op("Mul", later, -1e4)


def learned(body: Body) -> str:
    """[1, 2, sequence, sequence]: a number for each head and distance, up to 3 either way."""
    keys = places(body)
    distance = body.op("Sub", body.op("Unsqueeze", keys, np.array([1])), keys)
    bucket = body.op("Add", body.op("Max", body.op("Min", distance, np.array(3)), np.array(-3)), np.array(3))
    return body.op(
        "Unsqueeze", body.op("Transpose", body.op("Gather", body.weight(7, 2), bucket), perm=[2, 0, 1]), np.array([0])
    )


def window(body: Body, width: int) -> str:
    """[sequence, sequence]: hides keys more than `width` tokens away."""
    keys = places(body)
    distance = body.op("Abs", body.op("Sub", body.op("Unsqueeze", keys, np.array([1])), keys))
    return body.op("Mul", body.op("Cast", body.op("Less", np.array(width), distance), to=1), -1e4)


class TestAttention:
    def attended(self, scores: Build) -> onnx.ModelProto:
        body = Body()
        weights = body.op("Softmax", scores(body, "x"), axis=-1)
        return body.model(merged(body, body.op("MatMul", weights, heads(body, "x", 0, 2, 1, 3))))

    @pytest.mark.parametrize("scores", [after, mask_first, mask_doubled, scaled_query, scaled_both, filled, unmasked])
    def test_spellings(self, scores: Build) -> None:
        model = self.attended(scores)
        assert kinds(optimised(model)) == {"Embed": 1, "Linear": 3, "Attention": 1}
        same_as_onnxruntime(model)

    @pytest.mark.parametrize("bias", [causal, lambda body: window(body, 5), learned])
    def test_biases_of_positions(self, bias: Callable[[Body], str]) -> None:
        def scores(body: Body, _: str) -> str:
            biased = body.op("Add", bias(body), body.op("Mul", qk(body), 0.3))
            return body.op("Mul", body.op("Add", biased, additive(body)), 1.5)

        model = self.attended(scores)
        assert kinds(optimised(model)) == {"Embed": 1, "Linear": 3, "Attention": 1}
        same_as_onnxruntime(model)

    def test_a_bias_of_other_than_distances_is_refused(self) -> None:
        def scores(body: Body, _: str) -> str:
            return body.op("Add", qk(body), body.op("Mul", causal(body), body.op("Cast", places(body), to=1)))

        with pytest.raises(UnsupportedModelError, match="mask"):
            compile_graph(parse(self.attended(scores).SerializeToString()))

    def test_a_sequence_beyond_the_bias_is_refused(self) -> None:
        model = self.attended(lambda body, _: body.op("Add", qk(body), causal(body)))
        compiled = CompiledModel.from_plan(plan.encode(compile_graph(parse(model.SerializeToString()))), 1)
        with pytest.raises(InputError, match="1025 tokens: this model's positions end at 1024"):
            compiled.run({"input_ids": np.zeros((1, 1025), np.int64), "attention_mask": np.ones((1, 1025), np.int64)})

    @pytest.mark.parametrize("case", ["positive", "both", "values", "other input"])
    def test_masks_that_do_more_than_hide_padding_are_refused(self, case: str) -> None:
        def scores(body: Body, _: str) -> str:
            masks = {
                "positive": lambda: additive(body, 5.0),
                "both": lambda: body.op("Add", additive(body), causal(body)),
                "values": lambda: body.op("Sub", additive(body), 1.0),
                "other input": lambda: body.op(
                    "Mul", additive(body), body.op("Cast", body.op("Unsqueeze", "input_ids", np.array([1, 2])), to=1)
                ),
            }
            return body.op("Add", qk(body), masks[case]())

        with pytest.raises(UnsupportedModelError, match="mask"):
            compile_graph(parse(self.attended(scores).SerializeToString()))

    def test_negatively_scaled_mask_is_refused(self) -> None:
        def scores(body: Body, _: str) -> str:
            return body.op("Mul", body.op("Add", qk(body), additive(body)), -1.0)

        with pytest.raises(UnsupportedModelError, match="scaled by -1"):
            compile_graph(parse(self.attended(scores).SerializeToString()))

    def test_quantized_heads_of_odd_channels_are_refused(self) -> None:
        with pytest.raises(UnsupportedModelError, match="multiple of 4 channels"):
            compile_graph(parse(Bert("qdq", layers=1, hidden=12, heads=2).build().SerializeToString()))

    def test_heads_that_are_moved_wrongly_are_refused(self) -> None:
        def scores(body: Body, _: str) -> str:
            q = body.op("Reshape", body.linear("x"), np.array([0, 2, -1, HIDDEN // 2]))
            return body.op("MatMul", q, heads(body, "x", 0, 2, 3, 1))

        with pytest.raises(UnsupportedModelError, match="heads"):
            compile_graph(parse(self.attended(scores).SerializeToString()))

    @pytest.mark.parametrize("form", ["4d bool", "3d float", "3d none"])
    def test_attention_operator(self, form: str) -> None:
        body = Body()
        if form == "4d bool":
            parts = [heads(body, "x", 0, 2, 1, 3) for _ in range(3)]
            mask = body.op("Cast", body.op("Unsqueeze", "attention_mask", np.array([1, 2])), to=9)
            length = body.op("Shape", "input_ids", start=1, end=2)
            target = body.op("Concat", body.op("Shape", "input_ids", end=1), np.array([1]), length, length, axis=0)
            model = body.model(merged(body, body.op("Attention", *parts, body.op("Expand", mask, target))), 23)
        else:
            parts = [body.linear("x") for _ in range(3)]
            if form == "3d float":
                length = body.op("Shape", "input_ids", start=1, end=2)
                target = body.op("Concat", np.array([1, 1]), length, np.array([1]), axis=0)
                parts.append(body.op("Expand", additive(body), target))
            model = body.model(body.op("Attention", *parts, q_num_heads=2, kv_num_heads=2, scale=0.3), 23)
        assert kinds(optimised(model)) == {"Embed": 1, "Linear": 3, "Attention": 1}
        same_as_onnxruntime(model)

    def test_partly_quantized_attention_runs_in_float(self) -> None:
        def scores(body: Body, _: str) -> str:
            q = body.op("QuantizeLinear", heads(body, "x", 0, 2, 1, 3), 0.05, np.uint8(128))
            q = body.op("DequantizeLinear", q, 0.05, np.uint8(128))
            return body.op("MatMul", q, heads(body, "x", 0, 2, 3, 1))

        model = self.attended(scores)
        (step,) = (s for s in compile_graph(parse(model.SerializeToString())).steps if isinstance(s, Attention))
        assert step.query_quantization is None
        same_as_onnxruntime(model)

    def test_quantized_before_the_heads_are_split(self) -> None:
        def fake(body: Body, x: str, scale: float, zero: int) -> str:
            q = body.op("QuantizeLinear", x, scale, np.uint8(zero))
            return body.op("DequantizeLinear", q, scale, np.uint8(zero))

        body = Body()
        parts = [fake(body, body.linear("x"), 0.05, 128) for _ in range(3)]
        split = [body.op("Reshape", part, np.array([0, 0, 2, HIDDEN // 2])) for part in parts]
        q, k, v = (
            body.op("Transpose", part, perm=perm)
            for part, perm in zip(split, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
        )
        scores = body.op("Mul", body.op("MatMul", q, k), 0.5)
        weights = fake(body, body.op("Softmax", scores, axis=-1), 1 / 255, 0)
        model = body.model(fake(body, merged(body, body.op("MatMul", weights, v)), 0.03, 128))
        (step,) = (s for s in compile_graph(parse(model.SerializeToString())).steps if isinstance(s, Attention))
        assert step.query_quantization is not None
        assert step.quantization is not None
        same_as_onnxruntime(model, atol=0.031)
