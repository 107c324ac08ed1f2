"""`explain`, `compare` and the kernel benchmark on tiny models: what they say adds up and is what was run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import engine
from engine import cost_model, plan
from engine.bench import benchmark, benchmark_kernels, compare, explain
from engine.bench.command import parse_shapes
from engine.bench.compare import agreement, peer
from engine.bench.kernels import TOLERANCE, KernelReport, KernelRow, StepRow
from engine.bench.tables import comparison_text, explanation_text, kernels_text
from engine.errors import PipelineError
from engine.library import runs_code, usable_isas
from engine.program import LinearU8
from engine.runtime import CompiledModel, Peaks
from tests.engine.models import Bert
from tests.engine.programs import Builder, sparsify
from tests.engine.tiny_models import question_answering_model


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantized") / "model.onnx"
    onnx.save(Bert("qdq", layers=2, sparsity=0.75).build(), path)
    return path


def test_shares_add_up_and_steps_are_the_plans(quantized: Path) -> None:
    found = explain(quantized, batch_size=2, sequence_length=17, num_cores=1, runs=5)
    assert sum(step.share for step in found.steps) == pytest.approx(1)
    assert sum(total.share for total in found.totals) == pytest.approx(1)
    assert found.steps_ms == pytest.approx(sum(step.microseconds for step in found.steps) / 1000)
    assert all(0 <= step.roofline <= 1 for step in found.steps)
    kernels = [step.kernel for step in found.steps]
    assert kernels.count("attention_u8") == 2
    assert kernels[0] == "embed"
    with engine.compile(quantized, 1) as model:
        assert [step.name for step in found.steps] == [step.name for step in model.steps]
        assert [step.microseconds > 0 for step in found.steps].count(True) == len(model.steps)
    text = explanation_text(found)
    assert "attention_u8" in text
    assert all(total.why for total in found.totals if total.share > 0.01)


def test_products_and_sparsity_are_those_of_the_weight() -> None:
    rng = np.random.default_rng(0)
    weight = sparsify(rng, rng.integers(-127, 128, (24, 64)), 0.75).astype(np.int8)
    b = Builder("ids")
    program = cost_model.choose(b.done(y=b.linear_u8(b.bytes(rng.integers(0, 255, (5, 64))), weight)), "scalar")
    with CompiledModel.from_plan(plan.encode(program), 1) as model:
        (step,) = (s for s in model.steps if s.k)
        assert (step.kernel, step.k, step.n) == ("spmm_s8", 64, 24)
        kept = np.count_nonzero(weight.reshape(-1, 4).any(axis=1)) * 4
        assert kept <= step.weight_bytes <= kept + 4 * 24


def test_profiling_changes_no_result_and_ends(quantized: Path) -> None:
    with engine.compile(quantized, 2) as model:
        feed = {name: np.ones((2, 20), np.int64) for name in model.input_names}
        before = model.run(feed)
        times = model.profile(feed)
        assert times.shape == (len(model.steps),)
        assert int(times.sum()) > 0
        after = model.run(feed)
        assert all(np.array_equal(before[name], after[name]) for name in before)
        with pytest.raises(engine.InputError):
            model.profile({name: np.full((1, 3), 10**6) for name in model.input_names})
        assert model.run(feed).keys() == before.keys()


def test_peaks_are_possible(quantized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for isa in usable_isas():
        monkeypatch.setenv("SPARROW_ISA", isa)
        with engine.compile(quantized, 1) as model:
            peaks = model.peaks()
        # 8 GHz with two fused multiply-adds of 16 lanes a cycle, and a TB/s, are beyond any core
        assert 1e6 < peaks.f32_products_per_s < 256e9
        assert 1e6 < peaks.s8_products_per_s < 1024e9
        assert 1e8 < peaks.bytes_per_s < 1e12


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"runs": 0}, {"sequence_length": 0}])
def test_explain_refuses_wrong_numbers(quantized: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(PipelineError):
        explain(quantized, **wrong)


def test_comparison_with_onnxruntime_on_the_same_inputs(tmp_path: Path) -> None:
    folder = question_answering_model(tmp_path / "qa")
    turns: list[tuple[int, int]] = []
    found = compare(
        folder,
        [peer("onnxruntime", {}, {}), peer("openvino", {"openvino": "/nowhere/python"}, {})],
        batch_size=2,
        sequence_length=24,
        num_cores=1,
        seconds=0.2,
        warmup=0,
        rounds=2,
        progress=lambda done, total: turns.append((done, total)),
    )
    ours, theirs = found.rows
    assert (ours.engine, theirs.engine) == ("sparrow", "onnxruntime")
    assert ours.agreement is None
    assert theirs.agreement is not None
    assert theirs.agreement.max_difference < 1e-4
    assert theirs.agreement.same_argmax == 1
    assert ours.time_over_ours == 1
    assert list(ours.percentiles_ms.values()) == sorted(ours.percentiles_ms.values())
    assert "pip install openvino" in found.missing["openvino"]
    assert turns == [(1, 2), (2, 2)]
    assert "onnxruntime" in comparison_text(found)


def test_compared_engines_run_in_as_many_streams(quantized: Path) -> None:
    options = {"sequence_length": 8, "num_cores": 2, "num_streams": 2, "warmup": 0, "rounds": 2}
    found = compare(quantized, [peer("onnxruntime", {}, {})], batch_size=3, seconds=0.2, **options)
    assert found.num_streams == 2
    assert [row.engine for row in found.rows] == ["sparrow", "onnxruntime"]
    for row in found.rows:
        assert row.iterations >= 4
        assert row.items_per_second * row.mean_ms / 1000 == pytest.approx(2 * 3)
    assert "2 cores, 2 streams" in comparison_text(found)


def test_a_wrong_output_of_a_peer_shows() -> None:
    ours = np.array([[0.0, 1.0, 0.5], [2.0, 1.0, 0.0]], np.float32)
    theirs = np.array([[0.0, 1.0, 0.5], [2.0, 4.0, 0.0]], np.float32)
    found = agreement([ours], [theirs])
    assert found is not None
    assert (found.max_difference, found.same_argmax) == (3.0, 0.5)
    assert agreement([ours], [ours[:1]]) is None


def test_an_unknown_peer_is_named() -> None:
    with pytest.raises(PipelineError, match="'tensorrt'"):
        peer("tensorrt", {}, {})


def test_streams_are_measured_together(quantized: Path) -> None:
    found = benchmark(quantized, sequence_length=8, num_cores=2, num_streams=2, scenario="async", seconds=0.1, warmup=0)
    assert found.num_streams == 2
    assert found.iterations >= 2
    with pytest.raises(PipelineError, match="sync has one stream"):
        benchmark(quantized, num_streams=2)


@pytest.mark.parametrize("text", ["[1,384]", "[1,384],[1,384]", " [1, 384] , [1,384],[1,384]"])
def test_shapes_of_the_originals_are_read(text: str) -> None:
    assert parse_shapes(text) == (1, 384)


@pytest.mark.parametrize("text", ["", "1,384", "[1]", "[0,3]", "[1,2],[1,3]", "[1,true]", "[[1,2]]", "x"])
def test_other_shapes_are_refused(text: str) -> None:
    with pytest.raises(PipelineError, match="input_shapes"):
        parse_shapes(text)


def test_the_best_instruction_set_is_the_one_taken_however_they_are_named() -> None:
    best, second = usable_isas()[:2]
    found = benchmark_kernels(quick=True, isas=[second, best], kinds=["s8"], num_cores=1)
    assert list(found.peaks) == [best, second]
    assert {row.taken for row in found.steps} == {best}
    assert {row.isa for row in found.rows} == {best, second}


def test_kernels_are_measured_both_ways() -> None:
    isa = usable_isas()[0]
    found = benchmark_kernels(quick=True, isas=[isa], kinds=["s8"], num_cores=1)
    assert [row.sparsity for row in found.rows] == [0.0, 0.5, 0.8]
    assert all(row.dense_us > 0 and row.sparse_us > 0 and row.peak_share > 0 for row in found.rows)
    assert found.rows[0].sparse_us > found.rows[2].sparse_us
    for row in found.rows:
        us = {"dense": row.dense_us, "sparse": row.sparse_us, "code": row.code_us}
        times = {layout: time for layout, time in us.items() if time is not None}
        assert ("code" in times) == (runs_code() and isa == "avx512vnni")
        assert row.loss == pytest.approx(times[row.taken] / min(times.values()) - 1)
        assert row.is_fastest == (row.loss <= TOLERANCE)
    assert set(found.break_even) == {"s8"}
    measured = {row.kernel for row in found.steps}
    assert measured >= {
        "attention_u8",
        "attention_f32",
        "layernorm",
        "quantize",
        "dequantize",
        "activate",
        "add",
        "embed",
    }
    assert all(row.us[isa] > 0 and row.taken == isa for row in found.steps)
    assert all(0 < row.roofline <= 1 for row in found.steps if row.kernel.startswith("attention"))
    assert "768 to 768" in kernels_text(found)


def test_a_slower_choice_makes_the_report_unsound() -> None:
    row = KernelRow("s8", "scalar", 8, 8, 16, 0.5, 10.0, 20.0, None, 0.5, "sparse", 1.0, False)
    report = KernelReport((row,), (), {}, {}, 0.0)
    assert not report.is_sound
    assert "SLOWER by 100%" in kernels_text(report)
    peaks = {isa: Peaks(1e9, 1e9, 1e9) for isa in ("avx2", "scalar")}
    step = StepRow("layernorm", "768", 128, {"avx2": 30.0, "scalar": 20.0}, 0.5, "avx2", 0.5, False)
    report = KernelReport((), (step,), peaks, {}, 0.0)
    assert not report.is_sound
    assert "SLOWER by 50%" in kernels_text(report)


def test_the_cost_model_knows_dense_from_sparse_and_keeps_a_choice_that_was_made() -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(1, 100, (16, 30)).astype(np.int8)
    assert cost_model.fill(weight) == 1
    assert cost_model.layout(weight) == "dense"
    few = sparsify(rng, rng.integers(1, 100, (16, 32)), 0.9).astype(np.int8)
    assert cost_model.layout(few) == "sparse"
    assert cost_model.layout(np.zeros((4, 4), np.float32)) == "sparse"
    b = Builder("ids")
    program = b.done(y=b.linear_u8(b.bytes(np.ones((3, 32))), few))
    (chosen,) = (s for s in cost_model.choose(program, "scalar").steps if isinstance(s, LinearU8))
    assert chosen.layout == "sparse"
    assert cost_model.layout(few, "avx512vnni", code=True) == "code"
    assert cost_model.layout(few, "avx2", code=True) == "sparse"
    assert cost_model.layout(weight, "avx512vnni", code=True) == "dense"


def test_the_commands_print_one_json_document(quantized: Path, tmp_path: Path) -> None:
    def zoo(*arguments: str) -> dict[str, object]:
        done = subprocess.run(
            [sys.executable, "-m", "cli", "--json", *arguments], capture_output=True, text=True, check=True
        )
        document: dict[str, object] = json.loads(done.stdout)
        return document

    steps = zoo("explain", str(quantized), "--runs", "2", "--sequence_length", "16")["steps"]
    assert isinstance(steps, list)
    assert sum(step["share"] for step in steps) == pytest.approx(1)
    exported = tmp_path / "out.json"
    # the originals' flags, as their users type them
    flags = ["-b", "1", "-i", "[1,16],[1,16]", "-ncores", "1", "-s", "sync", "-t", "0.1", "-w", "0", "-q"]
    document = zoo("benchmark", str(quantized), *flags, "-x", str(exported), "-pin", "core", "-e", "deepsparse")
    assert json.loads(exported.read_text()) == document
    result = document["benchmark_result"]
    assert isinstance(result, dict)
    assert {"items_per_sec", "median", "mean", "std", "99.0%", "99.9%", "iterations", "seconds_ran"} <= set(result)
