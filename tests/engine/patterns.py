"""Small graphs around one pattern, and whether the engine computes them as ONNX Runtime does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from engine.compiler import compile_graph
from engine.graph import Array, Graph
from engine.onnx_reader import parse
from engine.passes import optimise
from engine.reference import run_program
from engine.shapes import annotate
from tests.engine.models import VOCABULARY, feed, model_of, session

HIDDEN = 8
Build = Callable[["Body", str], str]


class Body:
    """Nodes over an embedding of the tokens, `x` [batch, sequence, 8]."""

    def __init__(self) -> None:
        self.nodes = [helper.make_node("Gather", ["table", "input_ids"], ["x"], name="embed")]
        self.random = np.random.default_rng(5)
        self.constants: dict[str, Array] = {"table": self.random.normal(0, 1, (VOCABULARY, HIDDEN)).astype(np.float32)}

    def op(self, op_type: str, *inputs: object, **attributes: object) -> str:
        names = [self.constant(i) if not isinstance(i, str) else i for i in inputs]
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, names, [output], name=f"n{output}", **attributes))
        return output

    def constant(self, value: object) -> str:
        array = np.asarray(value)
        name = f"c{len(self.constants)}"
        self.constants[name] = array.astype(np.float32) if array.dtype == np.float64 else array
        return name

    def weight(self, *shape: int) -> Array:
        return self.random.normal(0, 0.5, shape).astype(np.float32)

    def linear(self, x: str, size: int = HIDDEN) -> str:
        return self.op("Add", self.op("MatMul", x, self.weight(HIDDEN, size)), self.weight(size))

    def model(self, output: str, opset: int = 13, shape: tuple[int | str, ...] = ("b", "s", HIDDEN)) -> onnx.ModelProto:
        inputs = dict.fromkeys(("input_ids", "attention_mask"), ("b", "s"))
        return model_of(self.nodes, inputs, {output: shape}, self.constants, opset)


def optimised(model: onnx.ModelProto) -> Graph:
    graph = parse(model.SerializeToString())
    graph.prune()
    annotate(graph)
    optimise(graph)
    return graph


def kinds(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph.nodes)


def same_as_onnxruntime(model: onnx.ModelProto, atol: float = 1e-5) -> None:
    """The program and ONNX Runtime agree, for a token alone and for padded sequences."""
    program = compile_graph(parse(model.SerializeToString()))
    running = session(model)
    for batch, sequence in ((1, 1), (3, 7)):
        inputs = feed([i.name for i in running.get_inputs()], batch, sequence)
        found = run_program(program, inputs)
        for info, expected in zip(running.get_outputs(), running.run(None, inputs), strict=True):
            assert found[info.name].shape == expected.shape
            np.testing.assert_allclose(found[info.name], expected, atol=atol, rtol=1e-4)
