"""The graph's own rules: order, names, rewriting."""

from __future__ import annotations

import numpy as np
import pytest

from engine import ModelError
from engine.graph import FUSED, Graph, GraphInput, Node
from engine.shapes import annotate, channels, describe, is_tokens, rows

IDS = GraphInput("ids", np.dtype(np.int64), (None, None))


def node(op_type: str, inputs: str, output: str, **attributes: int) -> Node:
    return Node(op_type, tuple(inputs.split()), (output,), output, "", attributes)


def graph(*nodes: Node, outputs: str = "z") -> Graph:
    table = {"table": np.arange(12, dtype=np.float32).reshape(3, 4)}
    return Graph([IDS], {name: name for name in outputs.split()}, table, nodes, 13)


def chain() -> Graph:
    return graph(node("Gather", "table ids", "x"), node("Relu", "x", "y"), node("Tanh", "y", "z"))


def test_sort_puts_producers_first() -> None:
    made = graph(node("Tanh", "y", "z"), node("Relu", "x", "y"), node("Gather", "table ids", "x"))
    made.sort()
    made.check()
    assert [n.key for n in made.nodes] == ["x", "y", "z"]


def test_sort_names_a_node_of_a_cycle() -> None:
    made = graph(node("Add", "x y", "z"), node("Relu", "z", "y"), node("Gather", "table ids", "x"))
    with pytest.raises(ModelError, match="cycle"):
        made.sort()


def test_diamond_is_no_cycle() -> None:
    made = graph(
        node("Add", "a b", "z"), node("Relu", "x", "a"), node("Tanh", "x", "b"), node("Gather", "table ids", "x")
    )
    made.sort()
    made.check()


def test_two_makers_of_one_value_are_refused() -> None:
    with pytest.raises(ModelError, match="'z'"):
        graph(node("Relu", "ids", "z"), node("Tanh", "ids", "z"))


@pytest.mark.parametrize("broken", ["nothing", "later"])
def test_check_finds_undefined_values(broken: str) -> None:
    made = graph(node("Relu", broken, "z"), node("Relu", "ids", "later"))
    with pytest.raises(ModelError, match=broken):
        made.check()


def test_redefine_keeps_names_and_prune_drops_the_rest() -> None:
    made = chain()
    made.redefine(made.nodes[2], "Fused", ["x"], strength=2)
    made.prune()
    assert [(n.op_type, n.domain) for n in made.nodes] == [("Gather", ""), ("Fused", FUSED)]
    assert made.nodes[1].integer("strength") == 2
    assert made.consumers("x") == [made.nodes[1]]
    assert made.outputs == {"z": "z"}


def test_substitute_moves_readers_and_outputs() -> None:
    made = chain()
    made.substitute("z", "y")
    made.substitute("y", "x")
    assert made.outputs == {"z": "x"}
    made.prune()
    made.check()
    assert [n.key for n in made.nodes] == ["x"]


def test_fix_turns_a_result_into_a_constant() -> None:
    made = chain()
    made.fix(made.nodes[1], {"y": np.ones((1, 1, 4), np.float32)})
    made.prune()
    made.check()
    assert list(made.constants) == ["y"]
    assert made.producer("y") is None


def test_shapes_follow_batch_and_sequence() -> None:
    made = chain()
    annotate(made)
    assert describe(made, "z") == "[batch, sequence, 4]"
    assert channels(made, "z") == 4
    assert is_tokens(made, "z")
    assert rows(made, "z") == "tokens"
    assert describe(made, "ids") == "[batch, sequence]"
    assert channels(made, "ids") is None
    assert describe(made, "missing") == "[unknown]"


def test_fixed_dimensions_are_kept() -> None:
    made = chain()
    made.inputs = (GraphInput("ids", np.dtype(np.int64), (1, 384)),)
    annotate(made)
    assert describe(made, "z") == "[1, 384, 4]"
    assert is_tokens(made, "z")


def test_attributes_of_the_wrong_type_are_named() -> None:
    wrong = Node("Op", ("x",), ("y",), "here", "", {"axis": "1"})
    for read in (wrong.integer, wrong.number):
        with pytest.raises(ModelError, match="here"):
            read("axis")
    with pytest.raises(ModelError, match="mode"):
        wrong.text("mode")
