"""What follows a sparse layer's products, as words of machine code to be strewn among the products of the next tile.

Multipliers are what products use up; most of what follows them needs other units, which are idle meanwhile. So a part's
function (codegen.py) also takes the sums that it found for the tile before from where it left them, and writes that
tile's results. It does what `csrc/lanes/linear_store.h` does, operation by operation, and gives the same bits.

`csrc/kernels.h` describes the memory that the words read (`spw_code_frame`): distances from the sums, in units of what
is read there, are negative up to the sums. Results go to where r8 points, residuals come from where r9 does.
"""

from __future__ import annotations

from functools import cache
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from engine.program import LinearU8

Finish = Literal["stored", "floats", "bytes", "gelu", "added"]
"""What a part does with the sums of the tile before: nothing, scaling to floats, to bytes, GELU to bytes, or scaling to
floats to which a residual is added."""
FINISHES: Final = get_args(Finish)
"""In the order of `spw_finish`."""
ROWS: Final[dict[Finish, int]] = {"stored": 28, "floats": 28, "bytes": 28, "gelu": 24, "added": 28}
"""Rows of a part: each has a register for its sums, and the rest are left to the words."""
FIRST_SUM: Final = 1
"""The register of a part's first row; the one before holds activations."""
LAST_REGISTER: Final = 31

_MOST_STEPS: Final = 2.0**30
"""Fewer of the output's scale than a 32-bit integer holds: packs then bound what is stored, and no word has to."""
_SCALARS, _SCALES, _BIASES = -80, -64, -32
_ZERO, _LAST, _MAGIC, _SLOPE, _MAGNITUDE = range(_SCALARS, _SCALARS + 5)
_ZERO_POINTS, _ORDER, _FIT = -6, -7, -12

_REGISTERS = np.arange(LAST_REGISTER + 1, dtype=np.uint64)
DESTINATION: Final = (_REGISTERS >> 3 & 1) << 15 ^ (_REGISTERS >> 4 & 1) << 12 ^ (_REGISTERS & 7) << 43
"""The bits that each register changes in a word that writes or stores it."""
OPERAND: Final = (_REGISTERS & 15) << 19 ^ (_REGISTERS >> 4) << 27
"""The bits that it changes as the first operand."""
_SECOND: Final = (_REGISTERS & 7) << 40 ^ (_REGISTERS >> 3 & 1) << 13 ^ (_REGISTERS >> 4) << 14

Operation = tuple[int, str, str | None, str | int]
"""A form, where its result goes (and may come from), its first operand, and its second: a register or a distance."""


def word(text: str) -> int:
    """The number of a word that is written as its bytes."""
    return int.from_bytes(bytes.fromhex(text), "little")


_CONVERT: Final = word("62f17c485b4200")  # vcvtdq2ps zmm, [rdx + 64 d]
_MULTIPLY: Final = word("62f17c58594200")  # vmulps zmm, zmm, [rdx + 4 d]{1to16}
_SCALED_ADD: Final = word("62f27d58984200")  # vfmadd132ps zmm, zmm, [rdx + 4 d]{1to16}
_AND: Final = word("62f17c58544200")  # vandps zmm, zmm, [rdx + 4 d]{1to16}
_AT_MOST: Final = word("62f17c585d4200")  # vminps zmm, zmm, [rdx + 4 d]{1to16}
_AT_LEAST: Final = word("62f17c585f4200")  # vmaxps zmm, zmm, [rdx + 4 d]{1to16}
_ADD: Final = word("62f17c58584200")  # vaddps zmm, zmm, [rdx + 4 d]{1to16}
_TAKE_AWAY: Final = word("62f17c585c4200")  # vsubps zmm, zmm, [rdx + 4 d]{1to16}
_LOOK_UP: Final = word("62f27d48164200")  # vpermps zmm, zmm, [rdx + 64 d]
_ADD_WORDS: Final = word("62f17d48ed4200")  # vpaddsw zmm, zmm, [rdx + 64 d]
_SHUFFLE: Final = word("62f27d48004200")  # vpshufb zmm, zmm, [rdx + 64 d]
_ADD_RESIDUAL: Final = word("62d17c48584100")  # vaddps zmm, zmm, [r9 + 64 d]
_STORE: Final = word("62d17e487f4000")  # vmovdqu32 [r8 + 64 d], zmm
# Between registers, an idle prefix (cs) fills the word.
_MULTIPLY_ADD: Final = word("2e62f27d48a8c0")  # vfmadd213ps zmm, zmm, zmm
_SUBTRACT: Final = word("2e62f17c485cc0")  # vsubps zmm, zmm, zmm
_ROUND: Final = word("2e62f17d485bc0")  # vcvtps2dq zmm, zmm
_PACK_WORDS: Final = word("2e62f17d486bc0")  # vpackssdw zmm, zmm, zmm
_PACK_BYTES: Final = word("2e62f17d4867c0")  # vpackuswb zmm, zmm, zmm


def of(step: LinearU8) -> Finish:
    """What the code of a layer does; the C kernel does what it doesn't."""
    is_gelu = step.activation in ("gelu", "gelu_tanh")
    if len(step.weight) % 8 or not (step.activation == "none" or (is_gelu and step.quantization is not None)):
        return "stored"
    if step.quantization is None:
        return "floats" if step.residual is None else "added"
    if not _largest(step) / step.quantization.scale < _MOST_STEPS:
        return "stored"
    return "gelu" if is_gelu else "bytes"


def _largest(step: LinearU8) -> float:
    """What no result is further from zero than; NaN where scales or biases are no numbers."""
    sums = 255 * np.abs(step.weight.astype(np.int64)).sum(axis=1)
    return float((sums * np.abs(step.scale.astype(np.float64)) + np.abs(step.bias.astype(np.float64))).max())


@cache
def words(finish: Finish) -> NDArray[np.uint64]:
    """The words that finish a whole part, in order; any number of other words may stand between them."""
    return np.array(_assembled(_in_order(finish), ROWS[finish]), np.uint64)


def _in_order(finish: Finish) -> list[Operation]:
    """The operations of all rows, one row after the other."""
    rows = range(ROWS[finish]) if finish != "stored" else ()
    return [operation for row in rows for operation in _row(finish, row)]


def _row(finish: Finish, row: int) -> list[Operation]:
    x = f"x{row}"
    scaled: list[Operation] = [
        (_CONVERT, x, None, row),
        (_MULTIPLY, x, x, _SCALES + row),
        (_ADD, x, x, _BIASES + row),
    ]
    if finish == "added":
        scaled.append((_ADD_RESIDUAL, x, x, row))
    if finish in ("floats", "added"):
        return [*scaled, (_STORE, x, None, row)]
    return scaled + (_gelu(row) if finish == "gelu" else []) + _as_bytes(row)


def _gelu(row: int) -> list[Operation]:
    """`vf_gelu_bytes4` of lane_math.h."""
    x, r, point, y, t = (f"{name}{row}" for name in ("x", "r", "point", "y", "t"))
    horner: list[Operation] = []
    for degree in range(3, -1, -1):
        factor = f"{degree} of {row}"
        horner += [(_LOOK_UP, factor, point, _FIT + degree), (_MULTIPLY_ADD, y, r, factor)]
    return [
        (_AND, r, x, _MAGNITUDE),
        (_AT_MOST, r, r, _LAST),
        (_ADD, point, r, _MAGIC),
        (_TAKE_AWAY, t, point, _MAGIC),
        (_SUBTRACT, r, r, t),
        (_LOOK_UP, y, point, _FIT + 4),
        *horner,
        (_AT_LEAST, x, x, _ZERO),
        (_SCALED_ADD, x, y, _SLOPE),
    ]


def _as_bytes(row: int) -> list[Operation]:
    """`vf_store_u8` of avx512vnni/lanes.h, which joins four rows."""
    x, half = f"x{row}", ("low", "high")[row // 2 % 2] + str(row // 4)
    if row % 2 == 0:
        return [(_ROUND, half, None, x)]
    packed: list[Operation] = [
        (_ROUND, x, None, x),
        (_PACK_WORDS, half, half, x),
        (_ADD_WORDS, half, half, _ZERO_POINTS),
    ]
    if row % 4 == 1:
        return packed
    low = f"low{row // 4}"
    return [*packed, (_PACK_BYTES, low, low, half), (_SHUFFLE, low, low, _ORDER), (_STORE, low, None, row // 4)]


def _assembled(operations: list[Operation], rows: int) -> list[int]:
    """Each name gets a register that holds no sum nor activations, from its first use to its last."""
    last = {name: i for i, (_, *names) in enumerate(operations) for name in names if isinstance(name, str)}
    free = list(range(LAST_REGISTER, LAST_REGISTER - (LAST_REGISTER + 1 - FIRST_SUM - rows), -1))
    held: dict[str, int] = {}
    result = []
    for i, (form, target, first, second) in enumerate(operations):
        read = {name: held[name] for name in (first, second) if isinstance(name, str) and name in held}
        free += [held.pop(name) for name in read if last[name] == i and name != target]
        if target not in held:
            held[target] = free.pop()
        registers = read | {target: held[target]}
        result.append(_encoded(form, registers, target, first, second))
        if last[target] == i:
            free.append(held.pop(target))
    return result


def _encoded(form: int, registers: dict[str, int], target: str, first: str | None, second: str | int) -> int:
    fields = DESTINATION[registers[target]] ^ (OPERAND[registers[first]] if first else 0)
    if isinstance(second, str):
        return form ^ int(fields ^ _SECOND[registers[second]]) << 8
    return form ^ int(fields) | (second & 0xFF) << 48
