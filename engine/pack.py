"""Packs weights into the layouts that the kernels read (`csrc/kernels.h` describes them).

Everything is padded with zeros: output rows to a multiple of `ROW_BLOCK`, input channels of an integer weight
to a multiple of 4. A packed weight is the same for every instruction set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import pairing
from engine.program import MAX_PRODUCTS, LinearF32, LinearU8

ROW_BLOCK = 8
CHUNK_F32 = 128
"""Input channels that the sparse float32 kernel walks at a time: 4 tiles of them are 32 KiB, an L1 cache."""
CHUNK = 512
"""Most input channels that the sparse kernel walks at a time: 4 tiles of them are 32 KiB, an L1 cache."""

Array = NDArray[Any]


@dataclass(frozen=True)
class SparseWeight:
    """The non-zero values of a weight, chunk of the input by chunk, row by row.

    `values` f32 [V]; `indices` u16 [V], the value's channel within its chunk; `starts` u32 [chunks * rows + 1], where
    each row of each chunk begins.
    """

    values: NDArray[np.float32]
    indices: NDArray[np.uint16]
    starts: NDArray[np.uint32]
    chunk: int


def round_up(value: int, to: int) -> int:
    """The smallest multiple of `to` that is not below `value`."""
    return -(-value // to) * to


def pad_rows(values: Array) -> Array:
    """`values` [N, ...] with zero rows up to a multiple of `ROW_BLOCK`."""
    missing = round_up(len(values), ROW_BLOCK) - len(values)
    return np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))


def pad_integer(weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """Weight [N, K] with N a multiple of `ROW_BLOCK` and K a multiple of 4."""
    return np.pad(pad_rows(weight), ((0, 0), (0, -weight.shape[1] % 4)))


def dense_f32(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weight [N, K] as [N/8][K][8]."""
    padded = pad_rows(weight)
    blocks = padded.reshape(-1, ROW_BLOCK, padded.shape[1])
    return np.ascontiguousarray(blocks.transpose(0, 2, 1))


def dense_s8(weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """Weight [N, K] as [N/8][K/4][8][4]."""
    padded = pad_integer(weight)
    blocks = padded.reshape(-1, ROW_BLOCK, padded.shape[1] // 4, 4)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3))


def even_chunk(depth: int, most: int = CHUNK) -> int:
    """The multiple of 4, at most `most`, that cuts `depth` input channels into the fewest, most even chunks."""
    return round_up(-(-depth // -(-depth // most)), 4)


def blocks_s8(weight: NDArray[np.int8]) -> NDArray[np.int8]:
    """Weight [N, K] as blocks [N padded, K/4 rounded up, 4]."""
    padded = pad_integer(weight)
    return padded.reshape(len(padded), -1, 4)


def sparse_s8(weight: NDArray[np.int8], chunk: int | None = None) -> pairing.PairedWeight:
    """The non-zero blocks of weight [N, K] in the order that the sparse kernel walks them."""
    return pairing.pack(blocks_s8(weight), chunk or even_chunk(weight.shape[1]))


def sparse_f32(weight: NDArray[np.float32], chunk: int = CHUNK_F32) -> SparseWeight:
    """The non-zero values of weight [N, K] in the order that the sparse kernel walks them."""
    padded = pad_rows(weight)
    indices, values, counts = [], [], [0]
    for first in range(0, padded.shape[1], chunk):
        part = padded[:, first : first + chunk]
        rows, columns = np.nonzero(part)
        indices.append(columns.astype(np.uint16))
        values.append(part[rows, columns])
        counts.extend(np.count_nonzero(part, axis=1).tolist())
    starts = np.cumsum(counts, dtype=np.uint32)
    return SparseWeight(np.concatenate(values), np.concatenate(indices), starts, chunk)


def correction(weight: NDArray[np.int8], zero_point: int) -> NDArray[np.int32]:
    """What the zero point adds to each row's sum: zero_point * sum_k W[n, k], i32 [N padded]."""
    return pad_rows((zero_point * weight.sum(axis=1, dtype=np.int64)).astype(np.int32))


def check_linear(step: LinearU8 | LinearF32) -> None:
    """Raises ValueError when the step's arrays don't fit each other or its sums could overflow."""
    if step.weight.ndim != 2 or 0 in step.weight.shape:
        raise ValueError(f"step {step.name}: the weight has shape {step.weight.shape}, expected [N, K]")
    rows, depth = step.weight.shape
    per_row = [step.bias] if isinstance(step, LinearF32) else [step.bias, step.scale]
    if any(values.shape != (rows,) for values in per_row):
        raise ValueError(f"step {step.name}: bias and scale must have shape ({rows},) as its weight has rows")
    if isinstance(step, LinearU8) and step.residual is not None and (step.quantization or step.activation != "none"):
        raise ValueError(f"step {step.name}: only float32 results without an activation can have a residual added")
    if isinstance(step, LinearU8) and depth > MAX_PRODUCTS:
        raise ValueError(
            f"step {step.name}: K = {depth} products of 255 * 127 overflow an int32 sum, "
            f"at most {MAX_PRODUCTS} are exact; split the layer"
        )
