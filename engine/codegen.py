"""Machine code for a sparse weight: its blocks become the instructions that multiply by them.

For x86-64 with AVX-512 VNNI. A part of `ROWS` rows is one function, straight through, which adds up those rows for a
tile of 16 tokens in registers, channel group by channel group:

    void part(const uint8_t *x, const int8_t *values, int32_t *sums, const uint8_t *ahead)

`x` points 128 groups (of 64 bytes) into a tile, `values` at the part's 128th, so that distances of one byte reach
far. Values have four bytes: what each row's sum starts from, then the blocks, in the order in which they are used.
`sums` becomes [rows][16]. `ahead` is memory that will be needed soon, one line after the other.

Every instruction takes a word of 7 bytes, so that `csrc/code.c`, which runs nothing that it hasn't checked, can look
at word after word. Encodings: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, 2.7 (EVEX).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ROWS: Final = 28
"""Rows of a part, each with a register for its sums; `SPW_CODE_ROWS`."""
FIRST_SUM: Final = 2
"""The register of a part's first row; those before hold activations, in turns."""
REACH: Final = 256
"""Groups or values that distances of one byte reach."""
PREFETCH_EVERY: Final = 7
"""Products from one line of `ahead` to the next: two tiles fetch a whole part of any sparsity."""
LINE: Final = 64
WORD: Final = 7

Array = NDArray[Any]


def _word(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(bytes.fromhex(text), "little"))


START: Final = _word("62f27d48584600")  # vpbroadcastd zmm, [rsi + 4 d]
LOAD: Final = _word("62f17e486f4700")  # vmovdqu32 zmm, [rdi + 64 d]
PRODUCT: Final = _word("62f27d58504600")  # vpdpbusd zmm, zmm, dword [rsi + 4 d]{1to16}
STORE: Final = _word("62f17e487f4200")  # vmovdqu32 [rdx + 64 d], zmm
NEXT_GROUPS: Final = _word("4881c700400000")  # add rdi, 64 * REACH
NEXT_VALUES: Final = _word("4881c600040000")  # add rsi, 4 * REACH
PREFETCH: Final = _word("0f189100000000")  # prefetcht1 [rcx + d]
END: Final = _word("c3cccccccccccc")  # ret

_REGISTERS = np.arange(32, dtype=np.uint64)
DESTINATION: Final = (_REGISTERS >> 3 & 1) << 15 ^ (_REGISTERS >> 4 & 1) << 12 ^ (_REGISTERS & 7) << 43
"""The bits that each register changes in a word that writes or stores it."""
OPERAND: Final = _REGISTERS[:FIRST_SUM] << 19
"""The bits that a register of activations changes in a word that multiplies it."""


@dataclass(frozen=True)
class CodedWeight:
    """A weight's parts as code, one after the other: instructions, then values, each from a multiple of 64 bytes on.

    `parts` u32 [P, 4]: where the code and the values of each begin, in units of 64 bytes, the number of its values, and
    how many lines of `ahead` it fetches.
    """

    content: NDArray[np.uint8]
    parts: NDArray[np.uint32]


def generate(blocks: NDArray[np.int8], starts: NDArray[np.int32]) -> CodedWeight:
    """The code of weight [N, K/4, 4], whose rows' sums start from `starts` [N]."""
    content, parts, at = [], [], 0
    for first in range(0, len(blocks), ROWS):
        rows = np.ascontiguousarray(blocks[first : first + ROWS]).view("<i4")[..., 0]
        group, row = np.nonzero(rows.T)
        words, lines = _instructions(len(rows), group, row)
        values = np.concatenate([starts[first : first + ROWS], rows[row, group]])
        content += [_lines(_bytes(words)), _lines(values.astype("<i4").view(np.uint8))]
        parts.append((at, at + len(content[-2]) // LINE, len(values), lines))
        at += (len(content[-2]) + len(content[-1])) // LINE
    return CodedWeight(np.concatenate(content), np.array(parts, np.uint32))


def _instructions(rows: int, group: Array, row: Array) -> tuple[Array, int]:
    """The words of a part whose blocks lie in those groups and rows, sorted so, and how many of them prefetch."""
    place = rows + np.arange(len(group))
    is_new = np.diff(group, prepend=-1) > 0
    further = np.diff(group // REACH, prepend=0)
    new_values = place % REACH == 0
    fetches = place % PREFETCH_EVERY == 0
    at = np.cumsum(1 + is_new + further + new_values + fetches) - 1

    body = np.full(at[-1] + 1 if len(at) else 0, NEXT_GROUPS)
    register = (np.cumsum(is_new) - 1) % FIRST_SUM
    body[at] = PRODUCT ^ DESTINATION[FIRST_SUM + row] ^ OPERAND[register] | _distance(place)
    at = at - is_new
    body[at[is_new]] = LOAD ^ DESTINATION[register[is_new]] | _distance(group[is_new])
    at = at - new_values
    body[at[new_values]] = NEXT_VALUES
    at = at - fetches
    lines = int(np.count_nonzero(fetches))
    body[at[fetches]] = PREFETCH | np.arange(lines, dtype=np.uint64) * np.uint64(LINE) << np.uint64(24)

    sums = FIRST_SUM + np.arange(rows)
    start = START ^ DESTINATION[sums] | _distance(np.arange(rows))
    store = STORE ^ DESTINATION[sums] | np.arange(rows, dtype=np.uint64) << np.uint64(48)
    return np.concatenate([start, body, store, [END]]), lines


def _distance(index: Array) -> Array:
    """The byte at a word's end that reaches the index, REACH of them around the pointer."""
    return (index + REACH // 2 & REACH - 1).astype(np.uint64) << np.uint64(48)


def _lines(piece: Array) -> Array:
    """Whole lines, at least a byte longer than the piece: what checks it reads 8 bytes at each word."""
    return np.pad(piece, (0, LINE - len(piece) % LINE))


def _bytes(words: Array) -> NDArray[np.uint8]:
    return words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :WORD].reshape(-1)
