"""Packs a sparse integer weight in pairs of rows, as `spw_linear_u8` in `csrc/kernels.h` describes it.

The kernel loads an input once for both rows of a pair, so rows are paired that have many blocks in the same places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PART = 128
"""Rows among which pairs are made; `SPW_PAIR_ROWS`."""
HEADER = 5
"""Numbers that lie before a pair's indices; `SPW_PAIR_HEADER`."""

Array = NDArray[Any]


@dataclass(frozen=True)
class PairedWeight:
    """The non-zero 1x4 blocks of a weight: part by part of its rows, chunk by chunk of its input, pair by pair.

    `blocks` s8 [B, 4]; `indices` u16, each pair's header and groups; `starts` u32 [parts * chunks, 2], the blocks
    and the numbers that lie before each; `chunk` counts input channels.
    """

    blocks: NDArray[np.int8]
    indices: NDArray[np.uint16]
    starts: NDArray[np.uint32]
    chunk: int


def pack(blocks: NDArray[np.int8], chunk: int) -> PairedWeight:
    """Weight [N, K/4, 4], N even, in pairs of rows and chunks of `chunk` input channels, a multiple of 4."""
    full = len(blocks) // PART * PART
    cut = [blocks[:full].reshape(-1, PART, *blocks.shape[1:]), blocks[None, full:]]
    packed = [_pack_parts(part, chunk // 4) for part in cut if part.size]
    values, indices, sizes = (np.concatenate(arrays) for arrays in zip(*packed, strict=True))
    starts = np.cumsum(sizes, axis=0) - sizes
    return PairedWeight(values, indices, starts.astype(np.uint32), chunk)


def _pack_parts(blocks: NDArray[np.int8], per_chunk: int) -> tuple[Array, Array, Array]:
    """The blocks, indices and sizes [P * chunks, 2] of parts [P, R, K/4, 4]."""
    parts, rows, groups, _ = blocks.shape
    chunks = -(-groups // per_chunk)
    filled = np.ascontiguousarray(blocks).view(np.uint32)[..., 0] != 0
    filled = np.pad(filled, ((0, 0), (0, 0), (0, chunks * per_chunk - groups)))
    filled = filled.reshape(parts, rows, chunks, per_chunk).swapaxes(1, 2).reshape(-1, rows, per_chunk)
    pairs = match(filled)
    sections = _sections(filled, pairs)
    counts = sections.sum(axis=3, dtype=np.uint16)

    cell, pair, section, group = np.nonzero(sections)
    order = cell * (rows // 2) + pair
    indices = np.empty(len(order) + HEADER * pairs.shape[0] * pairs.shape[1], np.uint16)
    indices[np.arange(len(order)) + HEADER * (order + 1)] = group
    entries = counts.sum(axis=2, dtype=np.int64)
    at = np.cumsum(entries) - entries.ravel() + HEADER * np.arange(entries.size)
    indices[at[:, None] + np.arange(HEADER)] = np.concatenate([pairs, counts], axis=2).reshape(-1, HEADER)

    twice = np.repeat(np.arange(len(order)), np.where(section == 0, 2, 1))
    second = np.append(False, twice[1:] == twice[:-1]) | (section[twice] == 2)
    row = pairs[cell[twice], pair[twice], second.astype(np.intp)]
    values = blocks[cell[twice] // chunks, row, cell[twice] % chunks * per_chunk + group[twice]]
    sizes = [entries.sum(axis=1) + counts[:, :, 0].sum(axis=1), entries.sum(axis=1) + HEADER * (rows // 2)]
    return values, indices, np.stack(sizes, axis=1)


def _sections(filled: NDArray[np.bool_], pairs: Array) -> NDArray[np.bool_]:
    """Of each pair [C, P, 3, G] the groups in which both rows, only the first, only the second has a block.

    An odd one of the shared groups counts as each row's own, since the kernel takes them two by two.
    """
    cells = np.arange(len(filled))[:, None]
    first, second = filled[cells, pairs[..., 0]], filled[cells, pairs[..., 1]]
    both = first & second
    odd = both.sum(axis=2) % 2 == 1
    last = both.shape[2] - 1 - both[..., ::-1].argmax(axis=2)
    where = np.nonzero(odd)
    both[(*where, last[where])] = False
    return np.stack([both, first & ~both, second & ~both], axis=2)


def match(filled: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Pairs [C, R/2, 2] of the rows of `filled` [C, R, G], R even, which share many groups: row after row takes the
    free row that has most in common with it.
    """
    cells, rows, groups = filled.shape
    bits = np.packbits(np.pad(filled, ((0, 0), (0, 0), (0, -groups % 64))), axis=2).view(np.uint64)
    free = np.ones((cells, rows), bool)
    pairs = np.empty((cells, rows // 2, 2), np.intp)
    every = np.arange(cells)
    for i in range(rows // 2):
        first = free.argmax(axis=1)
        free[every, first] = False
        shared = np.bitwise_count(bits & bits[every, first, None]).sum(axis=2, dtype=np.int32)
        second = np.where(free, shared, -1).argmax(axis=1)
        free[every, second] = False
        pairs[:, i] = np.stack([first, second], axis=1)
    return pairs
