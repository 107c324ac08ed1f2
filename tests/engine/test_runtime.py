"""The runtime through its public door: shapes, threads, batches, bad inputs, cores, instruction sets."""

from __future__ import annotations

import gc
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine import plan
from engine.cores import default_cores
from engine.errors import ExecutionError, InputError
from engine.library import load_library
from engine.program import Table
from engine.runtime import CompiledModel
from tests.engine.programs import Builder, tiny_bert

Array = NDArray[Any]
PLAN = plan.encode(tiny_bert())
LIMIT = 50


def request(batch: int, sequence: int, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 2, (batch, sequence))
    mask[:, 0] = 1
    return {"ids": rng.integers(0, LIMIT, (batch, sequence)), "mask": mask}


def same(a: dict[str, Array], b: dict[str, Array]) -> bool:
    return all(a[name].tobytes() == b[name].tobytes() for name in a)


@pytest.fixture
def model() -> Any:
    with CompiledModel.from_plan(PLAN, 2) as opened:
        yield opened


def test_names_and_shapes(model: CompiledModel) -> None:
    assert model.input_names == ("ids", "mask")
    assert model.output_names == ("start", "end", "hidden", "pooled")
    assert model.num_cores == 2
    result = model.run(request(3, 21))
    assert [result[name].shape for name in model.output_names] == [(3, 21), (3, 21), (3, 21, 16), (3, 3)]
    assert all(values.dtype == np.float32 for values in result.values())


def test_row_100_threads_batches_and_instruction_sets_do_not_change_a_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, lib = load_library()
    given, results = request(3, 37), []
    for isa in ("scalar", "avx2", "avxvnni", "avx512vnni", "neon"):
        if not lib.spw_isa_supported(isa.encode()):
            continue
        monkeypatch.setenv("SPARROW_ISA", isa)
        for threads in (1, 2, 4):
            with CompiledModel.from_plan(PLAN, threads) as opened:
                results.append(opened.run(given))
                alone = [opened.run({k: v[b : b + 1] for k, v in given.items()}) for b in range(3)]
                joined = {name: np.concatenate([r[name] for r in alone]) for name in alone[0]}
                results.append(joined)
    assert all(same(result, results[0]) for result in results)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_batch_of_several_groups_equals_its_sequences_alone(threads: int) -> None:
    given = request(61, 37, seed=3)  # up to 183 tiles of 16 tokens; a group holds 16 for each thread
    lengths = np.random.default_rng(4).integers(1, 38, 61)
    with CompiledModel.from_plan(PLAN, threads) as model:
        together = model.run(given, lengths=lengths)
        for b in range(61):
            alone = model.run({name: values[b : b + 1] for name, values in given.items()}, lengths=lengths[b : b + 1])
            assert same(alone, {name: values[b : b + 1] for name, values in together.items()}), b


def test_row_93_a_wrong_id_in_the_last_group_is_found_before_anything_runs(model: CompiledModel) -> None:
    given = request(61, 37)
    given["ids"][60, 36] = LIMIT
    with pytest.raises(InputError, match=r"60, 36"):
        model.run(given)


def test_lengths_compute_what_a_shorter_sequence_computes(model: CompiledModel) -> None:
    given = request(2, 40)
    got = model.run(given, lengths=[40, 18])
    short = model.run({k: v[1:, :18] for k, v in given.items()})
    assert np.array_equal(got["hidden"][1, :18], short["hidden"][0])
    assert not got["hidden"][1, 18:].any()
    assert np.array_equal(got["pooled"][1], short["pooled"][0])
    for lengths in ([40], [40, 41], [0, 1], [1.0, 2.0], [2**40, 1]):
        with pytest.raises(InputError, match="length"):
            model.run(given, lengths=lengths)


def broken(change: dict[str, Any]) -> dict[str, Any]:
    return request(2, 5) | change


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ids": np.ones((1, 2), int)}, r"missing: \['mask'\]"),
        (broken({"extra": np.ones((2, 5), int)}), r"unknown: \['extra'\]"),
        (broken({"ids": np.ones((2, 5))}), "ids has dtype float64"),
        (broken({"ids": np.array([["a"]])}), "ids has dtype"),
        (broken({"mask": np.ones(5, int)}), r"mask has shape \(5,\), expected"),
        (broken({"mask": np.ones((2, 6), int)}), r"mask has shape \(2, 6\), but ids has \(2, 5\)"),
        (broken({"ids": np.ones((0, 5), int)}), "at least 1"),
        (broken({"ids": np.ones((2, 0), int)}), "at least 1"),
        (broken({"ids": np.full((2, 5), 2**63, np.uint64)}), "which int64 can't"),
        (broken({"ids": np.full((2, 5), LIMIT)}), r"ids: 50 at \[0, 0\] .* rows 0 to 49"),
        (broken({"ids": np.full((2, 5), -1)}), "ids: -1 at"),
        (broken({"ids": np.full((2, 5), 2**40)}), "ids: 1099511627776 at"),
        (request(1, 65), "sequence of 65 tokens: this model's positions end at 64"),
    ],
)
def test_row_93_wrong_inputs_are_named_and_leave_the_model_usable(
    model: CompiledModel, given: dict[str, Any], message: str
) -> None:
    before = model.run(request(2, 5))
    with pytest.raises(InputError, match=message):
        model.run(given)
    assert same(model.run(request(2, 5)), before)


def test_row_93_every_layout_of_the_same_numbers_gives_the_same_result(model: CompiledModel) -> None:
    given = request(3, 20)
    expected = model.run(given)
    ids = given["ids"]
    frozen = ids.copy()
    frozen.flags.writeable = False
    unaligned = np.frombuffer(b"x" + ids.tobytes(), np.uint8)[1:].view(np.int64).reshape(ids.shape)
    wide = np.zeros((3, 40), np.int64)
    wide[:, ::2] = ids
    variants = [ids.astype(">i8"), ids.astype(np.int32), ids.astype(">i4"), ids.astype(np.uint8)]
    variants += [np.asfortranarray(ids), wide[:, ::2], ids[::-1][::-1], frozen, unaligned, ids.tolist()]
    assert all(same(model.run({"ids": v, "mask": given["mask"] == 1}), expected) for v in variants)


def test_row_93_arrays_may_die_early(model: CompiledModel) -> None:
    expected = model.run(request(1, 9))
    for _ in range(20):
        assert same(model.run({name: list(map(list, a)) for name, a in request(1, 9).items()}), expected)
        gc.collect()


def test_row_96_unknown_instruction_sets_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARROW_ISA", "avx9000")
    with pytest.raises(ExecutionError, match="avx9000"):
        CompiledModel.from_plan(PLAN)
    monkeypatch.setenv("SPARROW_ISA", "")
    with CompiledModel.from_plan(PLAN, 1) as opened:
        assert opened.isa in ("scalar", "avx2", "avxvnni", "avx512vnni", "neon")


def fake_system(root: Path, siblings: int, quota: str | None) -> tuple[Path, Path]:
    for cpu in range(1024):
        topology = root / "devices/system/cpu" / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "core_id").write_text(str(cpu // siblings))
        (topology / "physical_package_id").write_text("0")
    group = root / "fs/cgroup/outer/inner"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("max 100000")
    if quota:
        (group.parent / "cpu.max").write_text(quota)
    process = root / "self"
    process.mkdir()
    (process / "cgroup").write_text("0::/outer/inner\n")
    return root, process


@pytest.mark.parametrize(
    ("allowed", "siblings", "quota", "cores"),
    [
        ({0}, 1, None, 1),
        ({5}, 2, None, 1),
        ({0, 1, 2, 3}, 2, None, 2),
        (set(range(64)), 1, None, 64),
        (set(range(64)), 1, "250000 100000", 2),
        (set(range(64)), 1, "50000 100000", 1),
        (set(range(8)), 1, "damaged", 8),
    ],
)
def test_row_96_threads_follow_cores_affinity_and_quota(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    allowed: set[int],
    siblings: int,
    quota: str | None,
    cores: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed)
    assert default_cores(*fake_system(tmp_path, siblings, quota)) == cores


def test_row_96_a_system_that_says_nothing_gets_its_logical_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4})
    assert default_cores(tmp_path, tmp_path) == 2


def test_row_97_many_threads_share_one_model(model: CompiledModel) -> None:
    given = [request(1 + i % 3, 5 + i, i) for i in range(12)]
    expected = [model.run(g) for g in given]
    wrong: list[int] = []

    def work(index: int) -> None:
        if not same(model.run(given[index % 12]), expected[index % 12]):
            wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_row_97_closing_during_runs_lets_them_finish() -> None:
    model, given, outcomes = CompiledModel.from_plan(PLAN, 2), request(2, 60), []
    expected = model.run(given)

    def work() -> None:
        for _ in range(20):
            try:
                outcomes.append(same(model.run(given), expected))
            except ExecutionError as error:
                outcomes.append("closed" in str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    model.close()
    model.close()
    for thread in threads:
        thread.join()
    assert all(outcomes)
    for use in (
        lambda: model.run(given),
        lambda: model.profile(given),
        lambda: model.peaks(),
        lambda: model.steps,
        lambda: model.source,
        lambda: model.isa,
        lambda: model.num_cores,
    ):
        with pytest.raises(ExecutionError, match="closed"):
            use()


def test_outputs_that_dont_fit_into_memory_are_an_error(model: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    given = request(1, 5)
    monkeypatch.setattr("engine.runtime.np.empty", full)
    with pytest.raises(ExecutionError, match="run fewer at a time"):
        model.run(given)


def test_row_97_a_forked_child_is_told_to_open_its_own_model(model: CompiledModel) -> None:
    given = request(1, 5)
    expected = model.run(given)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            model.run(given)
        except ExecutionError as error:
            with CompiledModel.from_plan(PLAN, 2) as own:
                code = 0 if "forked" in str(error) and same(own.run(given), expected) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert same(model.run(given), expected)


def test_row_97_signals_during_runs_change_nothing(model: CompiledModel) -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: caught.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        given = request(4, 60)
        expected = model.run(given)
        assert all(same(model.run(given), expected) for _ in range(30))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_row_99_memory_stays_flat_over_runs_and_loads() -> None:
    given = request(1, 8)

    def runs(loads: int, count: int) -> int:
        for _ in range(loads):
            with CompiledModel.from_plan(PLAN, 2) as opened:
                for _ in range(count):
                    opened.run(given)
        gc.collect()
        return resident_bytes()

    first = runs(20, 20)
    assert runs(60, 20) - first < 8 << 20


def test_two_models_in_one_process_do_not_disturb_each_other() -> None:
    given = request(2, 11)
    with CompiledModel.from_plan(PLAN, 1) as one, CompiledModel.from_plan(plan.encode(tiny_bert(seed=9)), 3) as two:
        first, second = one.run(given), two.run(given)
        assert not same(first, second)
        assert same(one.run(given), first)
        assert same(two.run(given), second)


@pytest.mark.parametrize("cores", [0, -1, True])
def test_impossible_core_counts_are_refused(cores: int) -> None:
    with pytest.raises(ExecutionError, match="num_cores"):
        CompiledModel.from_plan(PLAN, cores)


def test_a_batch_that_no_memory_holds_is_an_error(model: CompiledModel) -> None:
    b = Builder("ids")
    big = b.done(y=b.linear_f32(b.embed(Table(np.ones((1, 1), np.float32), 0)), np.ones((9, 1)), np.zeros(9)))
    with CompiledModel.from_plan(plan.encode(big), 1) as opened:
        row = np.lib.stride_tricks.as_strided(np.zeros(1, np.int32), (1, 66_312), (0, 0))
        with pytest.raises(InputError, match="too large"):
            opened.run({"ids": row})
        assert opened.run({"ids": np.zeros((1, 3), int)})["y"].shape == (1, 3, 9)
    assert model.run(request(1, 3))


def test_the_declarations_match_the_header() -> None:
    root = Path(__file__).parents[2] / "engine"
    header = (root / "csrc/include/sparrow.h").read_text().split("#ifdef SPARROW_TESTING")[0]
    exported = {" ".join(part.split(";")[0].split()) for part in header.split("SPW_EXPORT ")[1:]}
    declarations = " ".join((root / "_ffi.cdef.txt").read_text().split())
    declared = {part.strip() for part in declarations.split(";") if "(" in part}
    assert declared == {text for text in exported if "(" in text and "__attribute__" not in text}
