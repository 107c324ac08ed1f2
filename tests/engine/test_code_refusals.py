"""Machine code in plans: whatever the compiler doesn't write is refused before it runs."""

from __future__ import annotations

import itertools
import struct
from typing import Any, Final

import numpy as np
import pytest

from engine import codegen, finish, plan, records
from engine.errors import PlanError
from engine.program import Quantization
from engine.runtime import CompiledModel
from tests.engine.programs import sparsify
from tests.engine.test_code import CODED, layer, needs_code, run_once
from tests.engine.test_plan import rewritten


def coded_step(content: bytes) -> int:
    """Where the record of the coded layer begins."""
    (steps,) = struct.unpack_from("<Q", content, 64)
    return next(
        at
        for at in itertools.count(steps, plan.STEP.size)
        if records.OPS[struct.unpack_from("<I", content, at)[0]] == "code_u8"
    )


def blobs(content: bytes) -> tuple[int, int]:
    """Where its code and its table of parts begin."""
    step = coded_step(content)
    (constants,) = struct.unpack_from("<Q", content, 88)
    code, parts = (constants + struct.unpack_from("<Q", content, step + 160 + 16 * blob)[0] for blob in (0, 4))
    return code, parts


CODE_STEP: Final = coded_step(CODED)
CODE, PARTS = blobs(CODED)
SECOND, VALUES = (CODE + 64 * struct.unpack_from("<I", CODED, PARTS + at)[0] for at in (16, 4))
KINDS: Final = (0x58, 0x6F, 0x50, 0x7F, 0xC7, 0xC6, 0x91, 0x90, 0x44, 0xCC)
"""The words' kinds, by the byte that tells them apart."""
START, LOAD, PRODUCT, STORE, NEXT_GROUPS, NEXT_VALUES, PREFETCH, PREFETCH_FURTHER, FIND_FURTHER, END = KINDS
REGISTER: Final = int(finish.DESTINATION[31])


def word_at(at: int, content: bytes = CODED) -> int:
    return int.from_bytes(content[at : at + codegen.WORD], "little")


def kind(word: int) -> int:
    return word >> 32 & 0xFF if word & 0xFF == 0x62 else word >> 16 & 0xFF


def words_from(begin: int) -> dict[int, list[int]]:
    """Where the words of each kind are, of the part whose code begins there."""
    places: dict[int, list[int]] = {}
    for at in itertools.count(begin, codegen.WORD):
        places.setdefault(kind(word_at(at)), []).append(at)
        if END in places:
            return places
    raise AssertionError


FIRST, LATER = words_from(CODE), words_from(SECOND)


def with_word(at: int, word: int, content: bytes = CODED) -> bytes:
    return rewritten(content, at, "7s", word.to_bytes(codegen.WORD, "little"))


def refuses(content: bytes, message: str = "its code isn't what the compiler writes") -> None:
    with pytest.raises(PlanError, match=message):
        CompiledModel.from_plan(content, 1)


@pytest.mark.parametrize("replaced", KINDS)
@pytest.mark.parametrize(
    "foreign",
    [
        "0f05c3cccccccc",  # syscall
        "ebf7cccccccccc",  # jmp -9
        "e900000000cccc",  # jmp
        "e800000000cccc",  # call
        "c3909090909090",  # ret, and no breakpoints behind it
        "cccccccccccccc",  # int3
        "4889b700000000",  # mov [rdi], rsi
        "48bc0000000000",  # mov rsp, a constant that reaches into the next word
        "4881c400400000",  # add rsp, 0x4000
    ],
)
def test_foreign_instructions_are_refused(replaced: int, foreign: str) -> None:
    for at in (FIRST[replaced][0], FIRST[replaced][-1]):
        refuses(rewritten(CODED, at, "7s", bytes.fromhex(foreign)))


HARMLESS: Final = {PRODUCT: REGISTER, LOAD: 0xFF << 48}
"""The bits of a word by which the same instruction works on other rows and channels of the layer."""


@pytest.mark.parametrize("changed", KINDS)
def test_other_operands_are_refused(changed: int) -> None:
    for at, bit in itertools.product((FIRST[changed][0], FIRST[changed][-1]), range(8 * codegen.WORD)):
        if not HARMLESS.get(changed, 0) >> bit & 1:
            refuses(with_word(at, word_at(at) ^ 1 << bit))


def other_register(at: int, register: int) -> bytes:
    return with_word(at, word_at(at) & ~REGISTER | (1 << 12 | 1 << 15) ^ int(finish.DESTINATION[register]))


def test_what_does_not_fit_the_part_is_refused() -> None:
    for register in (0, 29, 30, 31):
        refuses(other_register(FIRST[PRODUCT][5], register))
    for register in range(finish.FIRST_SUM + 12, 32):
        refuses(other_register(LATER[PRODUCT][5], register))
    refuses(with_word(FIRST[PRODUCT][0], word_at(FIRST[PRODUCT][0]) ^ int(finish.OPERAND[1])))
    refuses(with_word(FIRST[STORE][1], word_at(FIRST[STORE][0])))
    stored_first = word_at(FIRST[STORE][0]) & TARGETS
    refuses(with_word(FIRST[PRODUCT][-1], word_at(FIRST[PRODUCT][-1]) & ~TARGETS | stored_first))
    last = FIRST[LOAD][-1]
    for group in (300, 400, 511):
        refuses(with_word(last, word_at(last) & (1 << 48) - 1 | (group + 128) % 256 << 48))
    for at, word in itertools.product((5, -1), (codegen.NEXT_GROUPS, codegen.NEXT_VALUES, codegen.END)):
        refuses(with_word(FIRST[LOAD][at], int(word)))


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("by", [1, -1, 100, 1 << 31, (1 << 32) - 16])
def test_wrong_tables_of_parts_are_refused(number: int, by: int) -> None:
    (right,) = struct.unpack_from("<I", CODED, PARTS + 4 * number)
    refuses(rewritten(CODED, PARTS + 4 * number, "<I", (right + by) % (1 << 32)))


def test_blobs_of_another_size_are_refused() -> None:
    (code_size,) = struct.unpack_from("<Q", CODED, CODE_STEP + 168)
    for size in (0, 64, code_size - 64):
        refuses(rewritten(CODED, CODE_STEP + 168, "<Q", size))
    for blob, size in ((168, 1 << 40), (168 + 64, 16), (168 + 64, 48)):
        refuses(rewritten(CODED, CODE_STEP + blob, "<Q", size), "a constant")


def is_accepted(content: bytes) -> bool:
    """Whether a plan whose code was changed is valid; it then runs, too."""
    try:
        return bool(np.isfinite(run_once(content)).all())
    except PlanError:
        return False


@needs_code
def test_a_changed_byte_is_refused_or_the_layer_reads_and_adds_other_values_of_its_own() -> None:
    rng, accepted = np.random.default_rng(4), 0
    for at in rng.integers(0, FIRST[END][0] + codegen.WORD - CODE, 6000).tolist():
        word = CODE + at // codegen.WORD * codegen.WORD
        bits = int(rng.integers(1, 256)) << 8 * (at % codegen.WORD)
        changed = with_word(word, word_at(word) ^ bits)
        if bits & ~HARMLESS.get(kind(word_at(word)), 0):
            refuses(changed)
        else:
            accepted += is_accepted(changed)
    assert accepted > 0


@needs_code
def test_values_and_what_never_runs_may_be_anything() -> None:
    behind, right = FIRST[END][0] + codegen.WORD, run_once(CODED)
    noise = np.random.default_rng(5).integers(0, 256, SECOND - VALUES, np.uint8).tobytes()
    assert np.array_equal(run_once(rewritten(CODED, behind, f"{VALUES - behind}s", noise)), right)
    other = run_once(rewritten(CODED, VALUES, f"{len(noise)}s", noise))
    assert np.array_equal(other[..., 28:], right[..., 28:])
    assert not np.array_equal(other, right)


LAYERS: Final[dict[finish.Finish, dict[str, Any]]] = {
    "floats": {"activation": "none"},
    "bytes": {"activation": "none", "quantization": Quantization(0.02, 100)},
    "gelu": {"activation": "gelu", "quantization": Quantization(0.02, 100)},
    "added": {"activation": "none", "residual": np.ones((3, 2 * finish.ROWS["added"]))},
}
OPERANDS: Final = int(np.bitwise_or.reduce(finish.OPERAND))
TARGETS: Final = int(np.bitwise_or.reduce(finish.DESTINATION))
SECONDS: Final = 7 << 40 | 3 << 13


def finishing(does: finish.Finish, depth: int = 400) -> bytes:
    """A plan with a layer of two whole parts that finish so."""
    rng = np.random.default_rng(6)
    weight = sparsify(rng, rng.integers(1, 128, (2 * finish.ROWS[does], depth)), 0.8)
    scale = np.full(len(weight), 1e-4)
    return plan.encode(layer(rng.integers(0, 256, (3, depth)), weight, "code", scale=scale, **LAYERS[does]))


def is_valid(content: bytes) -> bool:
    """Whether the plan is; what is wrong in its results then is no harm, but it has to run."""
    try:
        run_once(content)
    except PlanError:
        return False
    return True


def first_of_each(does: finish.Finish, content: bytes) -> list[int]:
    """Where the first word of each instruction that finishes is."""
    code, _ = blobs(content)
    seen: dict[bytes, int] = {}
    known = set(finish.words(does).tolist())
    for at in itertools.count(code, codegen.WORD):
        word = word_at(at, content)
        if word == int(codegen.END):
            return list(seen.values())
        if word in known:
            seen.setdefault(opcode(word), at)
    raise AssertionError


def between_registers(word: int) -> bool:
    return word & 0xFF == 0x2E


def opcode(word: int) -> bytes:
    content = word.to_bytes(codegen.WORD, "little")[between_registers(word) :]
    address = 0 if between_registers(word) else content[5] & 7
    return bytes([content[1] & 7, content[2] & 3, content[3] & 0x10, content[4], address])


def fits(does: finish.Finish, word: int) -> bool:
    """Whether the distance of a word stays within what there is to read or write."""
    (distance,) = struct.unpack("b", bytes([word >> 48]))
    rows = finish.ROWS[does]
    if word >> 40 & 7 < 2:  # from r8 or r9: results or residuals
        return 0 <= distance < (rows // 4 if does in ("bytes", "gelu") else rows)
    counts_floats = bool(word >> 24 & 0x10)
    return counts_floats or -12 <= distance < rows


def skeleton(word: int) -> int:
    """The word without what may differ: its registers and its distance."""
    has_two = opcode(word)[3] in (0x5B, 0x7F)
    registers = TARGETS | (0 if has_two else OPERANDS)
    free = (registers | SECONDS) << 8 if between_registers(word) else registers | 0xFF << 48
    return word & ~free


SKELETONS: Final = {skeleton(word) for does in LAYERS for word in finish.words(does).tolist()}


@needs_code
@pytest.mark.parametrize("does", LAYERS)
def test_words_that_finish_may_differ_in_registers_and_in_distances_that_fit(does: finish.Finish) -> None:
    content = finishing(does)
    places = first_of_each(does, content)
    assert len(places) == len({opcode(word) for word in finish.words(does).tolist()})
    accepted = 0
    for at, bit in itertools.product(places, range(8 * codegen.WORD)):
        changed = word_at(at, content) ^ 1 << bit
        harmless = skeleton(changed) in SKELETONS and (between_registers(changed) or fits(does, changed))
        assert is_valid(with_word(at, changed, content)) == harmless, (hex(changed), bit)
        accepted += harmless
    assert accepted > len(places)


@needs_code
@pytest.mark.parametrize("does", LAYERS)
def test_distances_from_which_words_that_finish_reach_too_far_are_refused(does: finish.Finish) -> None:
    content = finishing(does)
    for at in first_of_each(does, content):
        word = word_at(at, content)
        if between_registers(word):
            continue
        for distance in range(256):
            changed = word & (1 << 48) - 1 | distance << 48
            assert is_valid(with_word(at, changed, content)) == fits(does, changed)


@needs_code
@pytest.mark.parametrize("does", LAYERS)
def test_a_layer_that_finishes_otherwise_than_its_output_needs_is_refused(does: finish.Finish) -> None:
    content = finishing(does)
    attribute = coded_step(content) + 32 + 4 * 4
    assert struct.unpack_from("<I", content, attribute) == (finish.FINISHES.index(does),)
    for other in (0, 1, 2, 3, 4, 5, 255, 1 << 31):
        changed = rewritten(content, attribute, "<I", other)
        assert is_valid(changed) == (other == finish.FINISHES.index(does))


@needs_code
def test_rows_that_are_not_all_there_cannot_be_finished_by_code() -> None:
    refuses(rewritten(CODED, CODE_STEP + 48, "<I", 1), "what its code writes doesn't fit its output")
