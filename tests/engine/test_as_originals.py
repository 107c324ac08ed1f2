"""The engine by the calls that users of DeepSparse and of ONNX Runtime know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import engine
from engine import InputError
from engine.graph import Array
from tests.engine.models import Bert, feed

NAMES = ["input_ids", "attention_mask", "token_type_ids"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "model.onnx"
    file.write_bytes(Bert("qdq", layers=1).build().SerializeToString())
    return file


def arrays(batch: int = 3, sequence: int = 9) -> list[Array]:
    return list(feed(NAMES, batch, sequence).values())


class TestEngine:
    def test_lists_in_and_out(self, path: Path) -> None:
        compiled = engine.compile_model(str(path), batch_size=3, num_cores=2)
        expected = engine.compile(path).run(feed(NAMES, 3, 9))
        assert compiled.input_names == NAMES
        for outputs in (compiled.run(arrays()), compiled(arrays()), compiled.timed_run(arrays())[0]):
            assert all(np.array_equal(o, expected[n]) for o, n in zip(outputs, compiled.output_names, strict=True))
        assert list(compiled.mapped_run(arrays())) == compiled.output_names
        assert (compiled.num_cores, compiled.num_streams, compiled.fraction_of_supported_ops) == (2, 1, 1.0)
        assert compiled.cpu_vnni == (compiled.cpu_avx_type in ("avx512vnni", "avxvnni", "neon"))

    def test_a_batched_run_takes_any_number(self, path: Path) -> None:
        compiled = engine.Engine(path, batch_size=2, num_cores=1)
        whole = engine.Engine(path, batch_size=None, num_cores=1).run(arrays(5))
        assert all(np.array_equal(a, b) for a, b in zip(compiled.batched_run(arrays(5)), whole, strict=True))

    @pytest.mark.parametrize(
        ("scheduler", "streams"), [(None, 1), ("sync", 1), ("multi_stream", 2), ("async", 2), ("elastic", 2)]
    )
    def test_schedulers(self, path: Path, scheduler: str | None, streams: int) -> None:
        assert engine.Engine(path, num_cores=2, scheduler=scheduler).num_streams == streams
        assert engine.Engine(path, num_cores=2, num_streams=1, scheduler=scheduler).num_streams == 1

    def test_random_inputs_of_the_shapes_asked_for(self, path: Path) -> None:
        compiled = engine.Engine(path, batch_size=2, num_cores=1, input_shapes=[[2, 24]])
        made = compiled.generate_random_inputs()
        assert [a.shape for a in made] == compiled.input_shapes == [(2, 24)] * 3
        assert [a.shape for a in compiled.run(made)] == compiled.output_shapes

    def test_benchmarks(self, path: Path) -> None:
        compiled = engine.Engine(path, batch_size=3, num_cores=1)
        for results in (compiled.benchmark(arrays(), 4, 1), compiled.benchmark_loader([arrays(), arrays()], 4, 1)):
            assert results.num_batches == 4
            assert min(results.batch_times) <= results.batch_times_median <= max(results.batch_times)
            assert results.items_per_second == pytest.approx(3000 / results.ms_per_batch)

    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (lambda c: c.run(np.ones((3, 9), np.int64)), "list of arrays, one for each of input_ids.*got ndarray"),
            (lambda c: c.run(arrays()[:2]), "got 2 of them"),
            (lambda c: c.run(arrays(2)), "input_ids has 2 sequences, the engine's batch_size is 3"),
            (lambda c: c.run([a.astype(np.float32) for a in arrays()]), "dtype float32"),
            (lambda c: c.benchmark(arrays(), 0), "num_iterations is 0"),
            (lambda c: c.benchmark_loader([]), "needs a batch"),
            (lambda c: engine.Engine(c.model_path, scheduler="fast"), "no scheduler is named 'fast'"),
            (lambda c: engine.Engine(c.model_path, input_shapes=[[1, 8], [1, 9]]), "of the same sequence"),
        ],
    )
    def test_wrong_arguments_are_told(self, path: Path, call: Callable[[Any], Any], words: str) -> None:
        with pytest.raises(InputError, match=words):
            call(engine.Engine(path, batch_size=3, num_cores=1))


class TestInferenceSession:
    def test_same_calls_as_onnxruntime(self, path: Path) -> None:
        theirs = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        ours = engine.InferenceSession(str(path), theirs.get_session_options(), providers=theirs.get_providers())
        given = feed(NAMES, 2, 7)
        assert [i.name for i in ours.get_inputs()] == [i.name for i in theirs.get_inputs()]
        assert [(i.shape, i.type) for i in ours.get_inputs()] == [(i.shape, i.type) for i in theirs.get_inputs()]
        assert [(o.name, o.type) for o in ours.get_outputs()] == [(o.name, o.type) for o in theirs.get_outputs()]
        for mine, other in zip(ours.run(None, given), theirs.run(None, given), strict=True):
            assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
            np.testing.assert_allclose(mine, other, atol=0.05)
        (last,) = ours.run([ours.get_outputs()[-1].name], given)
        assert np.array_equal(last, ours.run(None, given)[-1])
        assert ours.get_providers() == theirs.get_providers()

    def test_wrong_arguments_are_told(self, path: Path) -> None:
        with pytest.raises(InputError, match="CUDAExecutionProvider; this engine runs on CPU"):
            engine.InferenceSession(path, providers=["CUDAExecutionProvider"])
        with pytest.raises(InputError, match="path of its file"):
            engine.InferenceSession(path.read_bytes())  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"no outputs \['logits'\]"):
            engine.InferenceSession(path).run(["logits"], feed(NAMES, 1, 4))
