"""A small model of every role, whose ONNX graph really runs."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.registry.builders import Folder, bert

ROWS, COLUMNS = 32, 16


def weights() -> np.ndarray[Any, np.dtype[np.float32]]:
    """A matrix of which 80 % is zero."""
    random = np.random.default_rng(7)
    matrix = random.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    matrix[random.random(matrix.shape) < 0.8] = 0
    return matrix


def graph() -> bytes:
    """x -> x @ weights, as ONNX that DeepSparse 1.8.0 reads."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", ROWS])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", COLUMNS])]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    body = helper.make_graph([node], "tiny", inputs, outputs, [numpy_helper.from_array(weights(), "w")])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def runnable() -> Folder:
    """The builders' model with a graph that runs, and samples that are true of it."""
    folder = bert()
    x = np.linspace(-1, 1, ROWS, dtype=np.float32)
    folder.files |= {
        "deployment/model.onnx": ("deployment", graph()),
        "sample-inputs/inp-0000.npz": ("sample-inputs", _npz(x=x)),
        "sample-outputs/out-0000.npz": ("sample-outputs", _npz(y=x @ weights())),
        "recipe_transfer.md": ("recipe", b"---\nmodifiers: []\n---\n"),
        "metrics.yaml": ("metrics", b"f1: 87.41\n"),
    }
    return folder
