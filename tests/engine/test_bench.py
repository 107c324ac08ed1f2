"""The benchmark and the SQuAD evaluation on a real, tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.bench import benchmark, evaluate_squad
from engine.errors import PipelineError
from engine.pipelines import Pipeline
from tests.engine.tiny_models import ENGINES, embedding_model, question_answering_model
from zoo.answers import Example


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return question_answering_model(tmp_path_factory.mktemp("qa"))


@pytest.mark.parametrize("engine_type", ENGINES)
def test_benchmark_times_real_runs(folder: Path, engine_type: str) -> None:
    found = benchmark(
        folder, batch_size=2, sequence_length=32, seconds=0.2, warmup=0, num_cores=1, engine_type=engine_type
    )
    assert found.iterations >= 1
    assert found.seconds == pytest.approx(found.iterations * found.mean_ms / 1000, rel=0.01)
    assert found.items_per_second == pytest.approx(2 * found.iterations / found.seconds)
    assert found.percentiles_ms["50.0%"] == found.median_ms
    ranks = list(found.percentiles_ms.values())
    assert ranks == sorted(ranks)


def test_benchmark_runs_at_least_once(folder: Path) -> None:
    assert benchmark(folder, sequence_length=8, seconds=0, warmup=0, engine_type="onnxruntime").iterations == 1


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"sequence_length": 0}, {"sequence_length": 97}, {"seconds": float("nan")}]
)
def test_benchmark_refuses_wrong_numbers(folder: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(PipelineError):
        benchmark(folder, **{"sequence_length": 8, "engine_type": "onnxruntime", **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("engine_type", ENGINES)
def test_evaluation_scores_the_pipelines_own_answers(folder: Path, engine_type: str) -> None:
    context = "It was in Paris in Spring."
    examples = [
        Example("right", "where?", context, (("Paris in Spring", 10),)),
        Example("half", "where?", context, (("Spring", 19),)),
        Example("wrong", "who?", context, (("It", 0),)),
    ]
    seen: list[tuple[int, int]] = []
    with Pipeline.create("qa", folder, engine_type=engine_type, batch_size=None) as pipeline:
        metrics = evaluate_squad(pipeline, examples, progress=lambda done, total: seen.append((done, total)))
    assert metrics == {"exact_match": pytest.approx(100 / 3), "f1": pytest.approx((100 + 50) / 3)}
    assert seen == [(3, 3)]


def test_evaluation_needs_questions_and_a_fitting_task(folder: Path, tmp_path: Path) -> None:
    with Pipeline.create("qa", folder, engine_type="onnxruntime") as pipeline, pytest.raises(PipelineError):
        evaluate_squad(pipeline, [])
    with (
        Pipeline.create("embedding", embedding_model(tmp_path), engine_type="onnxruntime") as pipeline,
        pytest.raises(PipelineError, match="not embedding"),
    ):
        evaluate_squad(pipeline, [Example("1", "q", "c", ())])
