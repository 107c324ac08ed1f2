"""Sparsity and pattern are measured, whatever the type of number."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.zoo.importing.checkpoints import LAYERS, PARTS, pruned, tensors
from zoo.errors import ManifestError
from zoo.importing.folder import recipe_params
from zoo.importing.weights import Measured, measure, measure_array
from zoo.parameter_names import match_parameters


@pytest.mark.parametrize(
    ("made", "sparsity", "pattern"),
    [
        ("block4", 0.8, "block4"),
        ("block4", 0.5, "block4"),
        ("unstructured", 0.3, "unstructured"),
        ("unstructured", 0.9, "unstructured"),
        ("unstructured", 0.98, "unstructured"),
        ("unstructured", 0.5, "unstructured"),
        ("2:4", 0.5, "2:4"),
        ("unstructured", 0.03, None),
    ],
)
@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16, np.int8])
def test_a_pattern_is_recognised(made: str, sparsity: float, pattern: str | None, kind: type) -> None:
    found = measure_array(pruned((64, 256), made, sparsity, 5).astype(kind))
    assert found.pattern == pattern
    assert found.sparsity == pytest.approx(sparsity, abs=1e-3)


def test_blocks_with_a_few_zeros_of_their_own_are_blocks_still() -> None:
    weight = pruned((64, 256), "block4", 0.8, 1)
    alive = np.flatnonzero(weight)
    weight.reshape(-1)[alive[:: len(alive) // 20]] = 0
    assert measure_array(weight).pattern == "block4"


def test_a_convolution_s_blocks_lie_along_its_input_channels() -> None:
    rows = pruned((8 * 9, 32), "block4", 0.75, 3)
    assert measure_array(rows.reshape(8, 3, 3, 32).transpose(0, 3, 1, 2)).pattern == "block4"


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (3, 5), (1, 1)])
def test_odd_shapes_are_measured(shape: tuple[int, int]) -> None:
    assert measure_array(np.zeros(shape, np.float32)).pattern in (None, "unstructured", "block4")


def test_layers_are_matrices_and_not_embeddings_or_norms(tmp_path: Path) -> None:
    arrays = {name: array.astype(ml_dtypes.bfloat16) for name, array in tensors().items()}
    half = len(arrays) // 2
    save_file(dict(list(arrays.items())[:half]), tmp_path / "a.safetensors")
    save_file(dict(list(arrays.items())[half:]), tmp_path / "b.safetensors")
    seen: list[tuple[int, int]] = []
    found = measure(sorted(tmp_path.iterdir()), lambda done, total: seen.append((done, total)))
    assert len(found.sparse) == LAYERS * len(PARTS)
    assert found.layers.keys() - found.sparse.keys() == {"qa_outputs.weight"}
    assert (found.pattern, found.sparsity) == ("block4", pytest.approx(0.8, abs=0.02))
    assert found.parameters == sum(array.size for array in arrays.values())
    assert seen[-1] == (len(arrays), len(arrays))


def test_the_recipe_names_the_sparse_weights_and_no_other() -> None:
    arrays = tensors()
    arrays["bert.encoder.layer.1.intermediate.dense.weight"] += 1.0
    found = {name: measure_array(array) for name, array in arrays.items() if array.ndim == 2 and "embed" not in name}
    measured = Measured(found, False, 0)
    params = recipe_params(measured)
    assert sorted(match_parameters(params, list(arrays))) == sorted(measured.sparse)
    assert len(params) == len(PARTS)


@pytest.mark.parametrize("data", [b"", b"\x00" * 8, b"\xff" * 64, b"PK\x03\x04"])
def test_what_is_no_safetensors_file_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(ManifestError, match=r"model\.safetensors"):
        measure([path])
