"""Pipelines on real, tiny ONNX models, on every engine."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import EngineError, PipelineError
from engine.pipelines import Pipeline
from engine.pipelines.question_answering import QuestionAnsweringResult
from tests.engine.tiny_models import (
    ENGINES,
    HIDDEN,
    embedding_model,
    question_answering_model,
    text_classification_model,
)
from zoo import answers

CONTEXT = "The cat sat on the mat. It was in Paris, in Spring."
LONG = "the cat sat. " * 60 + "It was in Paris in spring." + " the cat sat." * 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return question_answering_model(tmp_path_factory.mktemp("qa"))


@pytest.fixture(scope="module", params=ENGINES)
def engine_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def qa(folder: Path, engine_type: str) -> Any:
    with Pipeline.create("question_answering", folder, engine_type=engine_type, batch_size=None) as pipeline:
        yield pipeline


def copied(folder: Path, target: Path, *names: str) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        (target / name).write_bytes((folder / name).read_bytes())
    return target


# question answering


def test_answer_is_a_span_of_the_context(qa: Any) -> None:
    found = qa(question="where was it?", context=CONTEXT)
    assert isinstance(found, QuestionAnsweringResult)
    assert (found.answer, found.start, found.end) == ("Paris, in Spring", 34, 50)
    assert CONTEXT[found.start : found.end] == found.answer
    assert 0.5 < found.score <= 1
    assert found.logit > 5


def test_a_context_longer_than_the_model_is_covered_by_windows(qa: Any) -> None:
    found = qa(question="where?", context=LONG)
    assert found.answer == LONG[found.start : found.end] == "Paris in spring"


def test_requests_of_a_list_are_answered_as_one_by_one(qa: Any) -> None:
    requests = [{"question": q, "context": c} for q in ("where?", "who sat " * 9) for c in (CONTEXT, LONG, "", "a")]
    together = qa(requests)
    alone = [qa(**request) for request in requests]
    assert [a.answer for a in together] == [a.answer for a in alone]
    assert [a.score for a in together] == pytest.approx([a.score for a in alone], abs=1e-5)
    assert qa([]) == []


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_batch_size_changes_nothing_but_speed(folder: Path, engine_type: str, batch_size: int | None) -> None:
    with Pipeline.create("qa", folder, engine_type=engine_type, batch_size=batch_size) as pipeline:
        found = pipeline([{"question": "where?", "context": text} for text in (LONG, CONTEXT)])
    assert [a.answer for a in found] == ["Paris in spring", "Paris, in Spring"]


def test_engines_agree(folder: Path) -> None:
    found = []
    for kind in ENGINES:
        with Pipeline.create("qa", folder, engine_type=kind) as pipeline:
            found.append(pipeline(question="where?", context=LONG))
    for other in found[1:]:
        assert other.answer == found[0].answer
        assert other.logit == pytest.approx(found[0].logit, abs=1e-3)


@pytest.mark.parametrize(
    ("question", "context"), [("", ""), ("where?", ""), ("", CONTEXT), ("\r\n", "\t"), ("who " * 999, CONTEXT)]
)
def test_row_110_empty_and_overlong_texts_have_a_defined_answer(qa: Any, question: str, context: str) -> None:
    found = qa(question=question, context=context)
    assert found.answer == context[found.start : found.end]
    if not context.strip():
        assert (found.answer, found.score) == ("", 0.0)


@pytest.mark.parametrize(
    "text", ["\U0001f600 Paris in Spring", "\u05d0\u05d1 Paris in spring \u202e", "Paríś\r\nin Spring"]
)
def test_row_110_emoji_and_right_to_left(qa: Any, text: str) -> None:
    found = qa(question="where?", context=text)
    assert found.answer == text[found.start : found.end]
    assert found.answer.lower().endswith("spring")


def test_row_110_invalid_unicode_is_refused(qa: Any) -> None:
    with pytest.raises(PipelineError, match=r"context: .*half a surrogate pair at character 0"):
        qa(question="where?", context="\ud800")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=st.text(max_size=60), context=st.text(max_size=300), negative=st.booleans())
def test_row_110_any_text_is_answered(folder: Path, question: str, context: str, negative: bool) -> None:
    options = {"sequence_length": 16, "doc_stride": 4, "version_2_with_negative": negative}
    with Pipeline.create("qa", folder, engine_type="onnxruntime", **options) as pipeline:
        found = pipeline(question=question, context=context)
    assert found.answer == context[found.start : found.end]
    assert 0 <= found.score <= 1


def test_num_spans_caps_the_work(folder: Path) -> None:
    with Pipeline.create("qa", folder, engine_type="onnxruntime", num_spans=1) as pipeline:
        assert pipeline(question="where?", context=LONG).end < LONG.index("Paris")


def test_the_empty_answer_of_squad_2(folder: Path) -> None:
    with Pipeline.create("qa", folder, engine_type="onnxruntime", version_2_with_negative=True) as pipeline:
        assert pipeline(question="where?", context=CONTEXT).answer == "Paris, in Spring"
    options = {"version_2_with_negative": True, "null_score_diff_threshold": -100.0}
    with Pipeline.create("qa", folder, engine_type="onnxruntime", **options) as pipeline:
        found = pipeline(question="where?", context=CONTEXT)
    assert (found.answer, found.start, found.end) == ("", 0, 0)


def test_defaults_are_those_of_training(folder: Path) -> None:
    with Pipeline.create("qa", folder, engine_type="onnxruntime") as pipeline:
        options = pipeline.options
    wanted = (answers.DOC_STRIDE, answers.MAX_ANSWER_LENGTH, answers.N_BEST, answers.MAX_QUESTION_LENGTH)
    assert (options.doc_stride, options.max_answer_length, options.n_best_size, options.max_question_length) == wanted
    assert wanted == (128, 30, 20, 64)


def test_the_originals_options_are_accepted(folder: Path) -> None:
    options = {
        "sequence_length": [16, 64],
        "doc_stride": 64,
        "max_question_length": 64,
        "max_answer_length": 15,
        "n_best_size": 20,
        "pad_to_max_length": True,
        "num_spans": None,
    }
    with Pipeline.create("Question Answering", folder, engine_type="onnxruntime", **options) as pipeline:
        assert pipeline.options.max_seq_length == 64
        assert pipeline(question="where?", context=LONG).answer == "Paris in spring"


def test_threads_share_a_pipeline(qa: Any) -> None:
    wanted = {text: qa(question="where?", context=text).answer for text in (CONTEXT, LONG, "in Spring it was Paris")}
    wrong: list[str] = []

    def ask(text: str) -> None:
        found = [qa(question="where?", context=text).answer for _ in range(5)]
        wrong.extend(answer for answer in found if answer != wanted[text])

    threads = [threading.Thread(target=ask, args=(text,)) for text in list(wanted) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# creating


@pytest.mark.parametrize("name", ["question_answering", "Question-Answering", "QUESTION ANSWERING", "qa", " QA "])
def test_task_names_in_every_spelling(folder: Path, name: str) -> None:
    with Pipeline.create(name, folder, engine_type="onnxruntime") as pipeline:
        assert pipeline.task == "question_answering"


def test_an_unknown_task_names_the_known_ones(folder: Path) -> None:
    with pytest.raises(PipelineError, match=r"'yolo'; known: question_answering or qa, text_classification"):
        Pipeline.create("yolo", folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 5}, "stride: Extra inputs.*known: max_seq_length"),
        ({"doc_stride": "5"}, "doc_stride: .*integer"),
        ({"doc_stride": True}, "doc_stride"),
        ({"n_best_size": 0}, "n_best_size"),
        ({"max_seq_length": 4096}, "4096 is more than the model's 96"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_cores": 0}, "num_cores is 0"),
        ({"engine_type": "tensorrt"}, "no engine is named 'tensorrt'"),
    ],
)
def test_wrong_options_are_named(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        Pipeline.create("qa", folder, **{"engine_type": "onnxruntime", **options})


@pytest.mark.parametrize(
    "fields", [{}, {"question": "q"}, {"question": 1, "context": "c"}, {"question": "q", "context": "c", "x": 1}]
)
def test_wrong_requests_are_refused(qa: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match="request for question_answering"):
        qa(**fields)
    with pytest.raises(PipelineError, match="request for question_answering"):
        qa([{"question": "q", "context": "c"}, fields])


def test_missing_files_are_named_with_the_command_that_makes_them(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="doesn't exist; fetch a model with `zoo pull"):
        Pipeline.create("qa", tmp_path / "none")
    with pytest.raises(PipelineError, match=r"no model.onnx.*zoo export"):
        Pipeline.create("qa", tmp_path)
    bare = copied(folder, tmp_path / "bare", "model.onnx")
    with pytest.raises(PipelineError, match=r"no tokenizer.json.*zoo export"):
        Pipeline.create("qa", bare, engine_type="onnxruntime")


def test_deployment_folder_and_file_are_found(folder: Path, tmp_path: Path) -> None:
    copied(folder, tmp_path / "deployment", "model.onnx", "tokenizer.json")
    for path in (tmp_path, str(tmp_path), tmp_path / "deployment", tmp_path / "deployment" / "model.onnx"):
        with Pipeline.create("qa", path, engine_type="onnxruntime", max_seq_length=64) as pipeline:
            assert pipeline(question="where?", context=CONTEXT).answer == "Paris, in Spring"


@pytest.mark.parametrize(("name", "text"), [("config.json", "{"), ("config.json", "[]"), ("tokenizer.json", "{}")])
def test_damaged_files_are_named(folder: Path, tmp_path: Path, name: str, text: str) -> None:
    copied(folder, tmp_path, "model.onnx", "tokenizer.json", "config.json")
    (tmp_path / name).write_text(text)
    with pytest.raises(PipelineError, match=name):
        Pipeline.create("qa", tmp_path, engine_type="onnxruntime")


def test_a_damaged_model_is_refused(folder: Path, tmp_path: Path, engine_type: str) -> None:
    copied(folder, tmp_path, "tokenizer.json", "config.json")
    (tmp_path / "model.onnx").write_bytes(b"no model at all")
    with pytest.raises(EngineError, match="ONNX"):
        Pipeline.create("qa", tmp_path, engine_type=engine_type)


def test_a_model_of_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="needs start_logits and end_logits"):
        Pipeline.create("qa", embedding_model(tmp_path), engine_type="onnxruntime")


def test_a_file_of_fixed_length_is_padded_to_it(folder: Path, tmp_path: Path) -> None:
    copied(folder, tmp_path, "tokenizer.json", "config.json")
    model = onnx.load(folder / "model.onnx")
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 2
        value.type.tensor_type.shape.dim[1].dim_value = 48
    onnx.save(model, tmp_path / "model.onnx")
    with Pipeline.create("qa", tmp_path, engine_type="onnxruntime") as pipeline:
        assert pipeline(question="where?", context=LONG).answer == "Paris in spring"


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert", "mpnet"])
def test_roberta_counts_positions_from_its_padding(folder: Path, tmp_path: Path, kind: str) -> None:
    copied(folder, tmp_path, "model.onnx", "tokenizer.json")
    config = {"model_type": kind, "max_position_embeddings": 98, "pad_token_id": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with Pipeline.create("qa", tmp_path, engine_type="onnxruntime") as pipeline:
        assert pipeline.longest(None, 384) == 96


# the other tasks


def test_text_classification(tmp_path: Path, engine_type: str) -> None:
    folder = text_classification_model(tmp_path)
    with Pipeline.create("sentiment-analysis", folder, engine_type=engine_type, batch_size=None, top_k=2) as pipeline:
        found = pipeline(sequences=["it was lovely", "it was on the mat"])
        pairs = pipeline(sequences=[["it was", "lovely"]])
    assert found.labels == [["positive", "negative"], ["negative", "positive"]]
    assert [sum(row) for row in found.scores] == pytest.approx([1, 1])
    assert pairs.labels == [["positive", "negative"]]


def test_the_originals_lists_of_lengths_are_accepted(tmp_path: Path) -> None:
    folder = text_classification_model(tmp_path)
    with Pipeline.create("glue", folder, engine_type="onnxruntime", sequence_length=[16, 64]) as pipeline:
        assert pipeline.options.max_seq_length == 64
        assert pipeline(sequences="it was lovely").labels == [["positive"]]


def test_embedding(tmp_path: Path, engine_type: str) -> None:
    folder = embedding_model(tmp_path)
    with Pipeline.create("embedding", folder, engine_type=engine_type, batch_size=None, normalize=True) as pipeline:
        together = pipeline(inputs=["it was lovely", "the cat sat on the mat"]).embeddings
        alone = pipeline(inputs="it was lovely").embeddings
    assert len(together[0]) == HIDDEN
    assert sum(value * value for value in together[0]) == pytest.approx(1)
    assert together[0] == pytest.approx(alone[0], abs=1e-5)


def test_without_a_mask_padding_changes_nothing(tmp_path: Path, engine_type: str) -> None:
    folder = embedding_model(tmp_path, masked=False)
    texts = ["it was lovely", "the cat sat on the mat in spring", "it was paris"]
    with Pipeline.create("embedding", folder, engine_type=engine_type, batch_size=None) as pipeline:
        together = pipeline(inputs=texts).embeddings
        alone = [pipeline(inputs=text).embeddings[0] for text in texts]
    assert together == [pytest.approx(vector, abs=1e-5) for vector in alone]
