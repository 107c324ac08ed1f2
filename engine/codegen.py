"""Machine code for a sparse weight: its blocks become the instructions that multiply by them.

For x86-64 with AVX-512 VNNI. A part of `ROWS` rows is one function, straight through, which adds up those rows for a
tile of 16 tokens in registers, channel group by channel group:

    void part(const uint8_t *x, const int8_t *values, int32_t *sums, const uint8_t *ahead, uint8_t *y,
              const uint8_t *residual, const uint8_t *further)

`x` points 128 groups (of 64 bytes) into a tile, `values` at the part's 128th, so that distances of one byte reach
far. Values have four bytes: what each row's sum starts from, then the blocks, in the order in which they are used.
`sums` becomes [rows][16]; before, it holds those of another tile, which are finished (finish.py). `ahead` and `further`
are memory that will be needed soon, one line after the other.

Every instruction takes a word of 7 bytes, so that `csrc/code.c`, which runs nothing that it hasn't checked, can look
at word after word. Encodings: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, 2.7 (EVEX).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.finish import DESTINATION, FIRST_SUM, ROWS, Finish, word, words

REACH: Final = 256
"""Groups or values that distances of one byte reach."""
FETCHING_TILES: Final = 4
"""Tiles among whose products a whole part is fetched from `ahead`, `SPW_CODE_TILES`: faster, it would hold up loads.
Fewer tiles fetch twice as much from `further` besides."""
LAST_PRODUCTS: Final = 8
"""An eighth of the products are the last ones, among which most rows find their sums."""
LINE: Final = 64
WORD: Final = 7

Array = NDArray[Any]


FIND_FURTHER: Final = np.uint64(word("488b4424086690"))  # mov rax, [rsp + 8]
START: Final = np.uint64(word("62f27d48584600"))  # vpbroadcastd zmm, [rsi + 4 d]
LOAD: Final = np.uint64(word("62f17e486f4700"))  # vmovdqu32 zmm, [rdi + 64 d]
PRODUCT: Final = np.uint64(word("62f27d58504600"))  # vpdpbusd zmm, zmm, dword [rsi + 4 d]{1to16}
STORE: Final = np.uint64(word("62f17e487f4200"))  # vmovdqu32 [rdx + 64 d], zmm
NEXT_GROUPS: Final = np.uint64(word("4881c700400000"))  # add rdi, 64 * REACH
NEXT_VALUES: Final = np.uint64(word("4881c600040000"))  # add rsi, 4 * REACH
PREFETCH: Final = np.uint64(word("0f189100000000"))  # prefetcht1 [rcx + d]
PREFETCH_FURTHER: Final = np.uint64(word("0f189000000000"))  # prefetcht1 [rax + d]
END: Final = np.uint64(word("c3cccccccccccc"))  # ret


@dataclass(frozen=True)
class CodedWeight:
    """A weight's parts as code, one after the other: instructions, then values, each from a multiple of 64 bytes on.

    `parts` u32 [P, 4]: where the code and the values of each begin, in units of 64 bytes, the number of its values, and
    how many lines of `ahead` it fetches; of `further` it fetches at most twice as many.
    """

    content: NDArray[np.uint8]
    parts: NDArray[np.uint32]


def generate(blocks: NDArray[np.int8], starts: NDArray[np.int32], finish: Finish = "stored") -> CodedWeight:
    """The code of weight [N, K/4, 4], whose rows' sums start from `starts` [N]. Whole parts finish as is said."""
    content, parts, at, most = [], [], 0, ROWS[finish]
    for first in range(0, len(blocks), most):
        rows = np.ascontiguousarray(blocks[first : first + most]).view("<i4")[..., 0]
        group, row = np.nonzero(rows.T)
        between = words(finish) if len(rows) == most else words("stored")
        code, lines = _instructions(len(rows), group, row, between)
        values = np.concatenate([starts[first : first + most], rows[row, group]])
        content += [_lines(_bytes(code)), _lines(values.astype("<i4").view(np.uint8))]
        parts.append((at, at + len(content[-2]) // LINE, len(values), lines))
        at += (len(content[-2]) + len(content[-1])) // LINE
    return CodedWeight(np.concatenate(content), np.array(parts, np.uint32))


def _instructions(rows: int, group: Array, row: Array, between: NDArray[np.uint64]) -> tuple[Array, int]:
    """The words of a part whose blocks lie in those groups and rows, sorted so, and how many of them prefetch.

    The words of `between` are spread evenly among the products but the last, among which sums are stored as soon as
    they are found: a burst of stores would hold products up. What is stored overwrites what `between` reads.
    """
    products, count = np.arange(len(group)), len(group)
    place = rows + products
    is_new = np.diff(group, prepend=-1) > 0
    further = np.diff(group // REACH, prepend=0)
    new_values = place % REACH == 0
    size = WORD * (2 + 2 * rows + count + np.count_nonzero(is_new) + len(between)) + 4 * (rows + count)
    fetched = min(count, 3 * -(-int(size) // (LINE * FETCHING_TILES)))
    fetches = np.diff(_spread(fetched, count, count), prepend=0) > 0
    passed = _spread(len(between), count, count - count // LAST_PRODUCTS)
    put = np.diff(passed, prepend=0)
    stored = np.full(rows, np.searchsorted(passed, len(between)))
    np.maximum.at(stored, row, products)
    stores = np.bincount(stored, minlength=count + 1)[:count]
    at = np.cumsum(1 + is_new + further + new_values + fetches + put + stores) - stores - 1

    body = np.full(at[-1] + 1 + stores[-1] if count else 0, NEXT_GROUPS)
    sums = FIRST_SUM + np.arange(rows)
    store = STORE ^ DESTINATION[sums] | np.arange(rows, dtype=np.uint64) << np.uint64(48)
    order = np.argsort(stored, kind="stable")
    in_body = order[: stores.sum()]
    body[np.repeat(at + 1 - np.cumsum(stores) + stores, stores) + np.arange(len(in_body))] = store[in_body]
    body[at] = PRODUCT ^ DESTINATION[FIRST_SUM + row] | _distance(place)
    at = at - is_new
    body[at[is_new]] = LOAD | _distance(group[is_new])
    at = at - new_values
    body[at[new_values]] = NEXT_VALUES
    at = at - fetches
    number = np.arange(np.count_nonzero(fetches))
    is_ahead = number % 3 == 0
    line = np.where(is_ahead, number // 3, number - number // 3 - 1)
    prefetch = np.where(is_ahead, PREFETCH, PREFETCH_FURTHER)
    body[at[fetches]] = prefetch | (line * LINE).astype(np.uint64) << np.uint64(24)
    behind = int(passed[-1]) if count else 0
    body[np.repeat(at - passed, put) + np.arange(behind)] = between[:behind]

    start = START ^ DESTINATION[sums] | _distance(np.arange(rows))
    rest = store[order[len(in_body) :]]
    return np.concatenate([[FIND_FURTHER], start, body, between[behind:], rest, [END]]), (len(number) + 2) // 3


def _spread(words: int, products: int, most: int) -> Array:
    """How many of the words stand before each product, when they lie evenly before and after the first `most`."""
    return np.minimum(words * np.arange(1, products + 1) // (most + 1), words)


def _distance(index: Array) -> Array:
    """The byte at a word's end that reaches the index, REACH of them around the pointer."""
    return (index + REACH // 2 & REACH - 1).astype(np.uint64) << np.uint64(48)


def _lines(piece: Array) -> Array:
    """Whole lines, at least a byte longer than the piece: what checks it reads 8 bytes at each word."""
    return np.pad(piece, (0, LINE - len(piece) % LINE))


def _bytes(words: Array) -> NDArray[np.uint8]:
    return words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :WORD].reshape(-1)
