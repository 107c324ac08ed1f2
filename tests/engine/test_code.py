"""Sparse integer layers as machine code: its results, its words, and what is refused before it runs."""

from __future__ import annotations

import itertools
import platform
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import engine
from engine import codegen, finish, pack, plan
from engine.errors import ExecutionError
from engine.library import runs_code
from engine.program import Layout, LinearU8, Program, Quantization
from engine.runtime import CompiledModel
from tests.engine.models import Bert
from tests.engine.programs import Builder, sparsify

Array = NDArray[Any]
needs_code = pytest.mark.skipif(not runs_code(), reason="machine code can't run here: CPU, system or SPARROW_CODE=0")

LENGTHS: Final = (1, 16, 17, 100)
BATCH: Final = np.random.default_rng(1).integers(0, 100, (len(LENGTHS), max(LENGTHS)))
DEPTHS: Final = (1, 3, 4, 5, 64, 1020, 1024, 1030, 4096, 5000)
ROWS: Final = (1, 3, 8, 24, 28, 29, 40, 56, 57, 64, 100, 120, 160)
KEPT: Final = (0, 0.01, 0.2, 1)
OPTIONS: Final = itertools.product(
    ("none", "gelu", "relu", "tanh", "gelu_tanh"), (None, Quantization(0.02, 100)), (0, 128, 255)
)
CASES: Final = list(zip(itertools.product(DEPTHS, KEPT), itertools.cycle(ROWS), itertools.cycle(OPTIONS), strict=False))


def layer(
    x: Array,
    weight: Array,
    layout: Layout,
    quantization: Quantization | None = None,
    residual: Array | None = None,
    **options: Any,
) -> Program:
    """The layer on the bytes x[ids] and residual[ids]; `y` is its result, dequantized where it is quantized."""
    b = Builder("ids")
    added = None if residual is None else b.rows(residual)
    y = b.linear_u8(b.bytes(x), weight, quantization=quantization, residual=added, **options)
    step = b.steps[-1]
    assert isinstance(step, LinearU8)
    b.steps[-1] = replace(step, layout=layout)
    return b.done(y=b.dequantize(y, quantization) if quantization else y)


def coded_layer(depth: int = 1200, rows: int = 36, kept: float = 0.06) -> Program:
    rng = np.random.default_rng(0)
    weight = sparsify(rng, rng.integers(1, 128, (rows, depth)), 1 - kept)
    return layer(rng.integers(0, 256, (3, depth)), weight, "code", zero_point=9)


def outputs(program: Program, threads: int) -> list[Array]:
    """The results for single sequences of all LENGTHS, then for BATCH."""
    with CompiledModel.from_plan(plan.encode(program), threads) as model:
        single = [model.run({"ids": BATCH[:1, :length]})["y"] for length in LENGTHS]
        return [*single, model.run({"ids": BATCH}, LENGTHS)["y"]]


def same_in_all_layouts(x: Array, weight: Array, **options: Any) -> list[Array]:
    """The results of `outputs`, after checking that layouts and threads give the same bits."""
    first, *others = (outputs(layer(x, weight, k, **options), n) for k in get_args(Layout) for n in (1, 2))
    for other in others:
        assert [y.tobytes() for y in other] == [y.tobytes() for y in first]
    return first


@needs_code
@pytest.mark.parametrize(("shape", "rows", "options"), CASES)
def test_code_gives_the_bits_of_the_other_layouts(shape: Any, rows: int, options: Any) -> None:
    depth, kept = shape
    activation, quantization, zero_point = options
    rng = np.random.default_rng([depth, rows])
    weight = sparsify(rng, rng.integers(-128, 128, (rows, depth)), 1 - kept)
    scale = rng.uniform(1e-4, 3e-4, rows) / np.sqrt(max(1, depth * kept))
    options = {"activation": activation, "scale": scale, "bias": rng.normal(size=rows)}
    if (activation, quantization) == ("none", None) and zero_point:
        options["residual"] = rng.normal(size=(100, rows))
    x = rng.integers(0, 256, (100, depth))
    same_in_all_layouts(x, weight, quantization=quantization, zero_point=zero_point, **options)


def blocks_at(rows: int, groups: int, filled_rows: Any, filled_groups: Any) -> Array:
    weight = np.zeros((rows, groups, 4), int)
    places = np.ix_(np.arange(rows)[filled_rows], np.arange(groups)[filled_groups])
    weight[places] = np.random.default_rng(2).integers(-127, 128, weight[places].shape)
    return weight.reshape(rows, -1)


ALL: Final = slice(None)
SPECIAL: Final = {
    "gaps of more than 256 and 512 groups": blocks_at(30, 1300, ALL, [0, 1, 300, 301, 900, 1299]),
    "the last group alone": blocks_at(3, 1025, ALL, [1024]),
    "rows of zeros": blocks_at(60, 40, slice(1, None, 3), ALL),
    "a first part without blocks": blocks_at(60, 40, slice(28, None), ALL),
    "a part without blocks": blocks_at(90, 40, [0, 27, 56, 89], ALL),
    "more than 256 values in a part": blocks_at(29, 40, ALL, ALL),
    "a value of 0 modulo 256 behind a gap": blocks_at(8, 700, ALL, [*range(31), 699]),
}


@needs_code
@pytest.mark.parametrize("weight", SPECIAL.values(), ids=SPECIAL)
def test_sums_of_special_weights_are_exact(weight: Array) -> None:
    x = np.random.default_rng(3).integers(0, 256, (100, weight.shape[1]))
    *_, batch = same_in_all_layouts(x, weight, zero_point=77)
    present = np.arange(max(LENGTHS)) < np.reshape(LENGTHS, (-1, 1))
    assert np.array_equal(batch, np.where(present[..., None], (x[BATCH] - 77) @ weight.T, 0))


@needs_code
@pytest.mark.parametrize("scale", [1e-30, 0.9, 1.1, 1e30, np.inf, np.nan])
@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh"])
def test_bytes_of_values_that_no_integer_holds_are_those_of_the_other_layouts(scale: float, activation: str) -> None:
    weight = np.full((56, 64), 127)
    weight[:28] = -128
    peak = 2.0**30 / (255 * 128 * 64)
    scales, q = np.full(56, scale * peak, np.float32), Quantization(1.0, 100)
    options = {"scale": scales, "quantization": q, "activation": activation, "zero_point": 128}
    program = layer(np.zeros((1, 64)), weight, "code", **options)
    (step,) = (step for step in program.steps if isinstance(step, LinearU8))
    assert (finish.of(step) == "stored") == (not scale < 1)
    same_in_all_layouts(np.random.default_rng(3).integers(0, 256, (100, 64)), weight, **options)


def listing(filled: Array) -> list[str]:
    """The instructions of a part [rows, groups], as codegen.py describes them."""
    rows, value, span, lines, loaded = len(filled), len(filled), 0, 0, -1
    products = np.count_nonzero(filled)
    words = 2 + 2 * rows + products + np.count_nonzero(filled.any(axis=0))
    quarter = -(-(codegen.WORD * words + 4 * (rows + products)) // (4 * 64))
    code = ["mov 8(%rsp), %rax", ".byte 0x66, 0x90"]
    code += [f"{{disp8}} vpbroadcastd {4 * row - 512}(%rsi), %zmm{1 + row}" for row in range(rows)]
    for group, row in np.argwhere(filled.T).tolist():
        code += ["add $0x4000, %rdi"] * (group // 256 - span)
        span = group // 256
        if 3 * quarter * (value - rows + 1) // (products + 1) > lines:
            line, place = (lines // 3, "rcx") if lines % 3 == 0 else (lines - lines // 3 - 1, "rax")
            code.append(f"{{disp32}} prefetcht1 {64 * line}(%{place})")
            lines += 1
        if value % 256 == 0:
            code.append("add $0x400, %rsi")
        if group != loaded:
            loaded = group
            code.append(f"{{disp8}} vmovdqu32 {64 * (group % 256) - 8192}(%rdi), %zmm0")
        code.append(f"{{disp8}} vpdpbusd {4 * (value % 256) - 512}(%rsi){{1to16}}, %zmm0, %zmm{1 + row}")
        if not filled[row, group + 1 :].any():
            code.append(f"{{disp8}} vmovdqu32 %zmm{1 + row}, {64 * row}(%rdx)")
        value += 1
    return [*code, "ret", ".fill 6, 1, 0xcc"]


def assembled(code: list[str], folder: Path) -> bytes:
    if platform.machine() != "x86_64" or not (shutil.which("as") and shutil.which("objcopy")):
        pytest.skip("this machine has no GNU assembler for x86-64")
    (folder / "s").write_text("\n".join([*code, ""]))
    subprocess.run(["as", folder / "s", "-o", folder / "o"], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", folder / "o", folder / "bin"], check=True)
    return (folder / "bin").read_bytes()


def test_words_are_what_an_assembler_makes_of_their_description(tmp_path: Path) -> None:
    filled = np.random.default_rng(0).random((28, 900)) < 0.07
    filled[:, [0, 899]] = True
    filled[:, 250:780] = False
    blocks = np.where(filled[..., None], np.array([0, 0, -1, 0], np.int8), np.int8(0))
    coded = codegen.generate(blocks, np.arange(28, dtype=np.int32))
    expected = listing(filled)
    assert sum("add $0x400," in line for line in expected) > 1
    code = assembled(expected, tmp_path)
    assert coded.content.tobytes()[: len(code)] == code
    ((begin, values_at, count, lines),) = coded.parts.tolist()
    assert (begin, count) == (0, 28 + filled.sum())
    assert lines == sum("prefetch" in line and "rcx" in line for line in expected)
    values = coded.content[64 * values_at :].view("<i4")[:count].tolist()
    assert values == [*range(28), *[-1 & 0xFF << 16] * int(filled.sum())]


def as_assembly(words: NDArray[np.uint64], folder: Path) -> list[str]:
    """What a disassembler makes of the words."""
    if not shutil.which("objdump"):
        pytest.skip("this machine has no objdump")
    (folder / "words").write_bytes(words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, : codegen.WORD].tobytes())
    command = ["objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "-w", folder / "words"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.split("\t")[2].strip() for line in lines if line.count("\t") == 2]


def test_no_sum_is_overwritten_that_is_to_be_finished(tmp_path: Path) -> None:
    for kind, kept in itertools.product(finish.FINISHES[1:], (0.001, 0.02, 0.2)):
        rows = finish.ROWS[kind]
        filled = np.random.default_rng(1).random((rows, 600)) < kept
        filled[:3, 100:] = False
        blocks = np.where(filled[..., None], np.int8(1), np.int8(0)) * np.ones(4, np.int8)
        coded = codegen.generate(blocks, np.arange(rows, dtype=np.int32), kind)
        end = 64 * coded.parts[0, 1]
        whole = coded.content[: end // codegen.WORD * codegen.WORD].reshape(-1, codegen.WORD)
        lines = as_assembly(np.pad(whole, ((0, 0), (0, 1))).view("<u8")[:, 0], tmp_path)
        lines = lines[: lines.index("ret")]
        stores = [i for i, line in enumerate(lines) if re.fullmatch(r"vmovdqu32 %zmm\d+,.*\(%rdx\)", line)]
        read = [i for i, line in enumerate(lines) if line.startswith("vcvtdq2ps")]
        assert (len(stores), len(read)) == (rows, rows)
        assert max(read) < min(stores)


PER_ROW: Final[dict[finish.Finish, dict[str, int]]] = {
    "floats": {"vcvtdq2ps": 1, "vmulps": 1, "vaddps": 1},
    "added": {"vcvtdq2ps": 1, "vmulps": 1, "vaddps": 2},
    "bytes": {"vcvtdq2ps": 1, "vmulps": 1, "vaddps": 1, "vcvtps2dq": 1},
    "gelu": {"vmulps": 1, "vfmadd213ps": 4, "vfmadd132ps": 1, "vpermps": 5, "vandps": 1, "vaddps": 2, "vsubps": 2},
}
"""How often a row needs some of the instructions, by lane_math.h and linear_store.h."""


@pytest.mark.parametrize("kind", finish.FINISHES[1:])
def test_words_that_finish_are_instructions_that_keep_to_free_registers(kind: finish.Finish, tmp_path: Path) -> None:
    words, rows = finish.words(kind), finish.ROWS[kind]
    code = as_assembly(words, tmp_path)
    written = [("{disp8} " if "(" in line else "") + line.replace("cs ", "cs {evex} ") for line in code]
    assert assembled(written, tmp_path) == b"".join(word.to_bytes(codegen.WORD, "little") for word in words.tolist())
    used = {int(register) for line in code for register in re.findall(r"%zmm(\d+)", line)}
    assert used <= set(range(finish.FIRST_SUM + rows, 32))
    count = Counter(line.removeprefix("cs ").split()[0] for line in code)
    assert {name: count[name] for name in PER_ROW[kind]} == {name: n * rows for name, n in PER_ROW[kind].items()}


CODED: Final = plan.encode(coded_layer())


def run_once(content: bytes) -> Array:
    with CompiledModel.from_plan(content, 1) as model:
        return model.run({"ids": np.array([[0, 1, 2, 1]])})["y"]


@needs_code
@pytest.mark.parametrize("isa", ["avx2", "scalar"])
def test_other_instruction_sets_refuse_a_plan_with_code(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setenv("SPARROW_ISA", isa)
    with pytest.raises(ExecutionError, match=f"machine code for avx512vnni, and {isa} is to run it"):
        run_once(CODED)


def sparse_model(folder: Path) -> Path:
    onnx.save(Bert("qdq", layers=1, sparsity=0.8).build(), folder / "model.onnx")
    return folder / "model.onnx"


def compiled(path: Path) -> tuple[bytes, set[str], bytes, dict[str, int]]:
    """The result, the integer layers' kernels, the plan's source and the inodes of all plans."""
    with engine.compile(path, 1) as model:
        y = model.run({name: np.ones((2, 5), int) for name in model.input_names})
        kernels = {step.kernel for step in model.steps} & {"code_s8", "spmm_s8"}
        kept = {plan.name: plan.stat().st_ino for plan in path.parent.glob(".sparrow/*.plan")}
        return b"".join(a.tobytes() for a in y.values()), kernels, model.source, kept


@needs_code
def test_plans_with_and_without_code_are_kept_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sparse_model(tmp_path)
    coded = compiled(path)
    monkeypatch.setenv("SPARROW_CODE", "0")
    plain = compiled(path)
    assert (coded[1], plain[1]) == ({"code_s8"}, {"spmm_s8"})
    assert coded[0] == plain[0]
    assert coded[2] != plain[2]
    assert plain[3].keys() - coded[3].keys() == {"model.onnx.avx512vnni-nocode.plan"}
    assert compiled(path) == plain
    monkeypatch.delenv("SPARROW_CODE")
    assert compiled(path) == (*coded[:3], plain[3])


FORBIDDEN = """
import ctypes, sys, numpy, engine
from pathlib import Path
from engine.library import runs_code
from engine.runtime import CompiledModel
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0:  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    sys.exit(77)
with engine.compile(sys.argv[1], 1) as model:
    y = model.run({name: numpy.ones((2, 5), int) for name in model.input_names})
    print(runs_code(), *sorted({step.kernel for step in model.steps} & {"code_s8", "spmm_s8"}))
for source in (Path(sys.argv[2]), Path(sys.argv[2]).read_bytes()):
    try:
        CompiledModel.from_plan(source, 1)
    except engine.ExecutionError as error:
        print(error)
"""


@needs_code
def test_a_system_without_new_executable_memory_runs_layers_without_code(tmp_path: Path) -> None:
    (tmp_path / "coded.plan").write_bytes(CODED)
    command = [sys.executable, "-c", FORBIDDEN, str(sparse_model(tmp_path)), str(tmp_path / "coded.plan")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this kernel can't forbid executable memory")
    assert done.returncode == 0, done.stderr
    first, *refusals = done.stdout.splitlines()
    assert first == "False spmm_s8"
    assert len(refusals) == 2
    assert all("refuses to run" in refusal and "SPARROW_CODE=0" in refusal for refusal in refusals)


def mappings(path: str, permissions: str) -> set[str]:
    """The mappings of this process that end in `path` and have all these permissions."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line for line in lines if line.endswith(path) and set(permissions) <= set(line.split()[1])}


@needs_code
def test_files_and_bytes_give_the_same_and_no_memory_is_writable_and_executable(tmp_path: Path) -> None:
    before, path = mappings("", "wx"), tmp_path / "coded.plan"
    plan.write_plan(coded_layer(), path)
    given = {"ids": np.array([[0, 1, 2]])}
    with CompiledModel.from_plan(path, 1) as file, CompiledModel.from_plan(path.read_bytes(), 1) as memory:
        assert file.run(given)["y"].tobytes() == memory.run(given)["y"].tobytes()
        assert mappings("", "wx") <= before
        assert mappings(str(path), "r")
        assert not mappings(str(path), "w")
    assert not mappings(str(path), "")


@needs_code
def test_a_plan_with_code_is_described(tmp_path: Path) -> None:
    program = coded_layer()
    plan.write_plan(program, tmp_path / "coded.plan")
    assert "code_u8       linear: [1] -> [2]" in plan.dump(tmp_path / "coded.plan")
    (step,) = (step for step in program.steps if isinstance(step, LinearU8))
    blocks = int(pack.blocks_s8(step.weight).any(axis=2).sum())
    with CompiledModel.from_plan(CODED, 1) as model:
        described = model.steps[2]
    assert (described.kernel, described.k, described.n, described.weight_bytes) == ("code_s8", 1200, 36, 4 * blocks)
