"""How sparse a checkpoint's weights are, and in which pattern: read from safetensors, one tensor at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from zoo.errors import ManifestError

MIN_SPARSITY = 0.05  # a trained dense weight has a few zeros by chance
BLOCK = 4
_TWO_OF_FOUR_SLACK = 0.02
_BROKEN_BLOCKS = 0.05  # of the blocks that are kept, those that hold a zero
_NOT_A_LAYER = re.compile(r"embed|norm", re.IGNORECASE)
_QUANTIZED = re.compile(r"fake_quant|activation_post_process|zero_point|weight_scale|qweight")
_ = ml_dtypes.bfloat16  # importing it teaches NumPy the type

Counting = Callable[[int, int], None]


@dataclass(frozen=True)
class LayerSparsity:
    """One weight: its elements, the share of zeros among them, and how those lie.

    `pattern` is None for a dense weight, "block4" where zeros come in 1x4 blocks along the input channels, "2:4" where
    each four have two, and "unstructured" for the rest.
    """

    elements: int
    sparsity: float
    pattern: str | None


@dataclass(frozen=True)
class Measured:
    """All weights of linear and convolution layers by name, and whether the checkpoint is quantized."""

    layers: Mapping[str, LayerSparsity]
    is_quantized: bool
    parameters: int

    @property
    def sparse(self) -> Mapping[str, LayerSparsity]:
        """The layers that are sparse."""
        return {name: layer for name, layer in self.layers.items() if layer.pattern}

    @property
    def sparsity(self) -> float:
        """The share of zeros among the elements of the sparse layers together; 0 where there are none."""
        elements = sum(layer.elements for layer in self.sparse.values())
        zeros = sum(layer.sparsity * layer.elements for layer in self.sparse.values())
        return zeros / elements if elements else 0.0

    @property
    def pattern(self) -> str | None:
        """The pattern that all sparse layers have in common: unstructured if they differ, None if there are none."""
        patterns = {layer.pattern for layer in self.sparse.values()}
        return patterns.pop() if len(patterns) == 1 else "unstructured" if patterns else None


def measure(files: Sequence[Path], counting: Counting = lambda _done, _total: None) -> Measured:
    """Measures the tensors of safetensors files; raises `ManifestError` for a file that is none."""
    names = [name for path in files for name in _names(path)]
    layers, parameters, done = dict[str, LayerSparsity](), 0, 0
    for path in files:
        for name, tensor in _tensors(path):
            parameters += tensor.size
            if tensor.ndim in (2, 4) and name.endswith("weight") and not _NOT_A_LAYER.search(name):
                layers[name] = measure_array(tensor)
            done += 1
            counting(done, len(names))
    return Measured(layers, any(map(_QUANTIZED.search, names)), parameters)


def measure_array(weight: NDArray[Any], zero: Any = 0) -> LayerSparsity:
    """Measures one weight [out, in] or [out, in, height, width]; `zero` is what stands for 0 in it."""
    kept = weight != zero
    if not kept.size:
        return LayerSparsity(0, 0.0, None)
    if kept.ndim == 4:
        kept = kept.transpose(0, 2, 3, 1)  # blocks lie along the input channels
    sparsity = 1 - int(np.count_nonzero(kept)) / kept.size
    return LayerSparsity(kept.size, sparsity, _pattern(kept.reshape(-1, kept.shape[-1]), sparsity))


def _pattern(kept: NDArray[np.bool_], sparsity: float) -> str | None:
    if sparsity < MIN_SPARSITY:
        return None
    if kept.shape[1] % BLOCK:
        return "unstructured"
    in_block = kept.reshape(-1, BLOCK).sum(axis=1)
    alive = np.count_nonzero(in_block)
    if np.count_nonzero((in_block > 0) & (in_block < BLOCK)) <= _BROKEN_BLOCKS * alive:
        return "block4"
    if abs(sparsity - 0.5) <= _TWO_OF_FOUR_SLACK and np.mean(in_block <= BLOCK // 2) > 0.999:
        return "2:4"
    return "unstructured"


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="numpy") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise ManifestError(f"{path} is no safetensors file: {error}") from None


def _tensors(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    with safe_open(path, framework="numpy") as opened:
        for name in opened.keys():  # noqa: SIM118  # it is no mapping
            try:
                yield name, opened.get_tensor(name)
            except (SafetensorError, TypeError, ValueError) as error:
                raise ManifestError(f"the tensor {name!a} of {path} can't be read: {error}") from None
