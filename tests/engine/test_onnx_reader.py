"""Reading ONNX files that may be damaged or made to do harm."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine import ModelError, UnsupportedModelError
from engine.compiler import compile_graph, compile_onnx
from engine.onnx_reader import MAX_NODES, parse, read
from engine.reference import run_graph
from tests.engine.models import Bert, feed, model_of, session


def tiny() -> onnx.ModelProto:
    """An embedding and a linear layer: a few hundred bytes that compile."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"], name="embed"),
        helper.make_node("MatMul", ["x", "w"], ["m"], name="product"),
        helper.make_node("Add", ["m", "b"], ["y"], name="bias"),
    ]
    constants = {
        "table": np.ones((3, 4), np.float32),
        "w": np.ones((4, 2), np.float32),
        "b": np.zeros(2, np.float32),
    }
    return model_of(nodes, {"ids": ["b", "s"]}, {"y": ["b", "s", 2]}, constants)


def refused(model: onnx.ModelProto, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        compile_graph(parse(model.SerializeToString()))
    for word in words:
        assert word in str(caught.value)


def survives(data: bytes) -> None:
    """Damaged bytes are either refused as a model, or happen to be one."""
    try:
        compile_graph(parse(data))
    except ModelError:
        return


def test_tiny_model_compiles() -> None:
    assert compile_graph(parse(tiny().SerializeToString())).steps


class TestRow82Damage:
    def test_row_82_empty_and_foreign_files(self, tmp_path: Path) -> None:
        for name, data in {
            "empty": b"",
            "text": b"This is no model.\n" * 40,
            "random": np.random.default_rng(1).bytes(4096),
            "zeros": bytes(4096),
        }.items():
            (tmp_path / name).write_bytes(data)
            with pytest.raises(ModelError):
                compile_onnx(tmp_path / name)

    def test_row_82_truncated_at_every_byte(self) -> None:
        data = tiny().SerializeToString()
        for length in range(len(data)):
            survives(data[:length])

    def test_row_82_one_bit_flipped_at_every_byte(self) -> None:
        data = tiny().SerializeToString()
        for place in range(len(data)):
            for bit in (0, 3, 7):
                flipped = bytearray(data)
                flipped[place] ^= 1 << bit
                survives(bytes(flipped))

    def test_row_82_file_of_3_gb_is_not_read(self, tmp_path: Path) -> None:
        path = tmp_path / "big.onnx"
        with path.open("wb") as file:
            file.truncate(3 << 30)
        with pytest.raises(ModelError, match="at most"):
            read(path)

    def test_row_82_missing_folder_and_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for name in ("missing", ".", "pipe"):
            with pytest.raises(ModelError):
                read(tmp_path / name)


class TestRow83Versions:
    @pytest.mark.parametrize("imports", [[], [("", 13), ("", 14)], [("", 13), ("ai.onnx", 13)], [("x", 1)]])
    def test_row_83_opset_missing_or_twice(self, imports: list[tuple[str, int]]) -> None:
        model = tiny()
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid(d, v) for d, v in imports)
        refused(model, "opset_import")

    @pytest.mark.parametrize("version", [-1, 0, 1, 10, 99, 2**40])
    def test_row_83_unknown_opset(self, version: int) -> None:
        model = tiny()
        model.opset_import[0].version = version
        refused(model, "opset")

    @pytest.mark.parametrize("version", [0, 1, 999])
    def test_row_83_unknown_ir(self, version: int) -> None:
        model = tiny()
        model.ir_version = version
        refused(model, "IR version")

    def test_row_83_every_unknown_node_is_listed_once(self) -> None:
        nodes = [
            helper.make_node("Gather", ["table", "ids"], ["x"], name="embed"),
            helper.make_node("Frobnicate", ["x"], ["y"], name="first"),
            helper.make_node("Swish", ["y"], ["z"], name="second", domain="com.example"),
            helper.make_node("Sigmoid", ["z"], ["u"], name="third"),
            helper.make_node("Frobnicate", ["x"], ["v"], name="fourth"),
            helper.make_node("Add", ["u", "v"], ["o"], name="sum"),
        ]
        table = {"table": np.ones((3, 4), np.float32)}
        model = model_of(nodes, {"ids": ["b", "s"]}, {"o": ["b", "s", 4]}, table)
        with pytest.raises(UnsupportedModelError) as caught:
            compile_graph(parse(model.SerializeToString()))
        listed = [(node.name, node.op_type) for node in caught.value.nodes]
        assert sorted(listed) == [
            ("first", "Frobnicate"),
            ("fourth", "Frobnicate"),
            ("second", "com.example.Swish"),
            ("third", "Sigmoid"),
        ]
        assert all(node.reason for node in caught.value.nodes)

    def test_row_83_own_domain_in_a_file(self) -> None:
        model = tiny()
        model.graph.node[1].domain = "sparrow"
        refused(model, "product", "sparrow")


class TestRow84Structure:
    def test_row_84_cycle(self) -> None:
        model = tiny()
        model.graph.node[0].input[1] = "y"
        refused(model, "cycle")

    def test_row_84_dangling_input(self) -> None:
        model = tiny()
        model.graph.node[1].input[1] = "nowhere"
        refused(model, "product", "nowhere")

    def test_row_84_dangling_output(self) -> None:
        model = tiny()
        model.graph.output[0].name = "nowhere"
        refused(model, "nowhere")

    def test_row_84_duplicate_names(self) -> None:
        for part in ("input", "output", "initializer"):
            model = tiny()
            entries = getattr(model.graph, part)
            entries.add().CopyFrom(entries[0])
            refused(model, entries[0].name)
        model = tiny()
        model.graph.node[1].output[0] = "x"
        refused(model, "'x'")

    def test_row_84_unsorted_nodes_are_sorted(self) -> None:
        model = Bert(layers=1).build()
        names = [i.name for i in model.graph.input]
        expected = session(model).run(None, feed(names, 2, 5))
        nodes = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend(reversed(nodes))
        found = run_graph(parse(model.SerializeToString()), feed(names, 2, 5))
        np.testing.assert_allclose(found["start_logits"], expected[0], atol=1e-5)

    def test_row_84_many_nodes(self) -> None:
        model = tiny()
        node = model.graph.node[0].SerializeToString()
        graph = model.graph.SerializeToString() + _field(1, node) * (MAX_NODES + 1)
        del model.graph.node[:]
        with pytest.raises(ModelError, match="nodes"):
            parse(_field(7, graph) + _field(8, model.opset_import[0].SerializeToString()) + b"\x08\x08")

    def test_row_84_long_chain_is_walked_without_recursion(self) -> None:
        chain = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(3_000)]
        model = model_of(chain, {"v0": ["b", "s"]}, {"v3000": ["b", "s"]}, {})
        refused(model)

    def test_row_84_if_nested_10k_deep(self) -> None:
        node = helper.make_node("Relu", ["x"], ["y"]).SerializeToString()
        for _ in range(10_000):
            attribute = _field(1, b"then_branch") + _field(6, _field(1, node)) + b"\xa0\x01\x05"
            node = _field(4, b"If") + _field(2, b"y") + _field(5, attribute)
        model = tiny()
        data = _field(7, _field(1, node) + model.graph.SerializeToString())
        with pytest.raises(ModelError):
            parse(data + _field(8, model.opset_import[0].SerializeToString()) + b"\x08\x08")

    def test_row_84_subgraph_with_an_undefined_name(self) -> None:
        branch = helper.make_graph(
            [helper.make_node("Relu", ["undefined"], ["r"])],
            "then",
            [],
            [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)],
        )
        node = helper.make_node("If", ["c"], ["y"], name="choice", then_branch=branch, else_branch=branch)
        model = model_of([node], {"ids": ["b", "s"]}, {"y": [1]}, {"c": np.array(True)})
        refused(model, "choice", "If")

    def test_row_84_recursive_function(self) -> None:
        call = helper.make_node("Again", ["x"], ["y"], name="call", domain="local")
        function = helper.make_function("local", "Again", ["x"], ["y"], [call], [helper.make_opsetid("local", 1)])
        model = tiny()
        model.functions.append(function)
        model.opset_import.append(helper.make_opsetid("local", 1))
        model.graph.node.append(helper.make_node("Again", ["y"], ["z"], name="outer", domain="local"))
        model.graph.output[0].name = "z"
        refused(model, "outer", "local.Again")


class TestRow85Shapes:
    @pytest.mark.parametrize("dim", [-1, -(2**62), 0, 2**31 + 1, 2**62])
    def test_row_85_impossible_dimension_of_a_tensor(self, dim: int) -> None:
        model = tiny()
        model.graph.initializer[1].dims[0] = dim
        refused(model, "'w'")

    def test_row_85_product_overflow(self) -> None:
        model = tiny()
        model.graph.initializer[1].dims[:] = [2**16, 2**16, 2**16, 2**16]
        refused(model, "'w'", "elements")

    def test_row_85_rank_9(self) -> None:
        model = tiny()
        model.graph.initializer[1].dims[:] = [1] * 9
        refused(model, "'w'", "9 dimensions")
        model = tiny()
        shape = model.graph.input[0].type.tensor_type.shape
        for _ in range(7):
            shape.dim.add().dim_value = 1
        refused(model, "'ids'", "dimensions")

    @pytest.mark.parametrize("dim", [-1, 0, 2**31 + 1])
    def test_row_85_impossible_dimension_of_an_input(self, dim: int) -> None:
        model = tiny()
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = dim
        refused(model, "'ids'")

    def test_row_85_huge_fixed_input(self) -> None:
        model = tiny()
        for dim in model.graph.input[0].type.tensor_type.shape.dim:
            dim.dim_value = 2**30
        refused(model, "fixed")

    def test_row_85_shapes_that_do_not_fit(self) -> None:
        model = tiny()
        model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones((5, 2), np.float32), "w"))
        refused(model, "product")

    @pytest.mark.parametrize("target", [[2**40, 2**40], [-5], [0, 0, 0, 0, 7]])
    def test_row_85_reshape_and_expand_to_nonsense(self, target: list[int]) -> None:
        for op in ("Reshape", "Expand"):
            nodes = [
                helper.make_node("Gather", ["table", "ids"], ["x"]),
                helper.make_node(op, ["x", "t"], ["y"], name="move"),
            ]
            constants = {"table": np.ones((3, 4), np.float32), "t": np.array(target, np.int64)}
            refused(model_of(nodes, {"ids": ["b", "s"]}, {"y": [1]}, constants), "move")


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited protobuf field."""
    length, size = len(data), b""
    while length > 127:
        size += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + data
