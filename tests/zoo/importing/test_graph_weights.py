"""Sparsity measured in ONNX: float, QuantizeLinear/DequantizeLinear, and integers with a zero point of 128."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.zoo.importing.checkpoints import pruned
from zoo.errors import ManifestError
from zoo.importing import import_model
from zoo.importing.graph_weights import measure_graph

ROWS, COLUMNS = 32, 64
WEIGHT = pruned((ROWS, COLUMNS), "block4", 0.75, 11)  # [out, in]
SIGNED = np.where(WEIGHT == 0, 0, np.clip(WEIGHT * 20, 1, 127)).astype(np.int8)


def _save(path: Path, nodes: list[NodeProto], **arrays: NDArray[Any]) -> Path:
    body = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, COLUMNS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def _node(kind: str, *inputs: str, output: str = "y", **attributes: Any) -> NodeProto:
    return helper.make_node(kind, list(inputs), [output], **attributes)


ONE, ZERO = np.float32(1.0).reshape(()), np.uint8(128).reshape(())
GRAPHS: dict[str, tuple[list[NodeProto], dict[str, NDArray[Any]]]] = {
    "float product": ([_node("MatMul", "x", "w")], {"w": WEIGHT.T}),
    "gemm": ([_node("Gemm", "x", "w", transB=1)], {"w": WEIGHT}),
    "transposed": ([_node("Transpose", "w", output="t", perm=[1, 0]), _node("MatMul", "x", "t")], {"w": WEIGHT}),
    "dequantized int8": (
        [_node("DequantizeLinear", "w", "s", output="d"), _node("MatMul", "x", "d")],
        {"w": SIGNED.T, "s": ONE},
    ),
    "dequantized uint8": (
        [_node("DequantizeLinear", "w", "s", "z", output="d"), _node("MatMul", "x", "d")],
        {"w": (SIGNED.T.astype(np.int16) + 128).astype(np.uint8), "s": ONE, "z": ZERO},
    ),
    "integer product": (
        [_node("MatMulInteger", "x", "w", "a", "z")],
        {"w": (SIGNED.T.astype(np.int16) + 128).astype(np.uint8), "a": ZERO, "z": ZERO},
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_every_form_of_a_weight_has_the_same_sparsity(tmp_path: Path, name: str) -> None:
    nodes, arrays = GRAPHS[name]
    found = measure_graph(_save(tmp_path / "model.onnx", nodes, **arrays))
    assert (found.pattern, found.sparsity, list(found.layers)) == ("block4", pytest.approx(0.75), ["w"])
    assert found.is_quantized == (arrays["w"].dtype != np.float32)


@pytest.mark.parametrize("data", [b"graph", b"\x08\x07", b"\xff" * 100, b""])
def test_what_can_t_be_measured_is_refused_or_empty(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    try:
        measured = measure_graph(path)
    except ManifestError as error:
        named = str(error)
    else:
        named = "model.onnx" if not measured.layers else ""
    assert "model.onnx" in named


def test_a_folder_with_a_graph_alone_is_measured_and_gets_no_recipe(tmp_path: Path) -> None:
    nodes, arrays = GRAPHS["integer product"]
    _save(tmp_path / "old/deployment/model.onnx", nodes, **arrays)
    done = import_model(str(tmp_path / "old"), tmp_path / "new")
    assert done.measured.pattern == "block4"
    assert json.loads((tmp_path / "new/report.json").read_text())["sparsity"]["w"]["sparsity"] == pytest.approx(0.75)
    assert not (tmp_path / "new/recipe.md").exists()
