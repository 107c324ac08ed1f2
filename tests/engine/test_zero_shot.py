"""Zero-shot text classification: against transformers' pipeline on a random model, and as the originals had it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ModelError, PipelineError
from engine.pipelines import Pipeline
from tests.engine.random_models import RandomModel, random_model
from tests.engine.tiny_models import ENGINES, text_classification_model

NAMES = ["contradiction", "neutral", "entailment"]
LABELS = ["cat", "mat in paris", "spring", "the \u00fc"]
TEXTS = ["The cat sat on the mat in Paris.", "it was lovely, in spring", " ", "where? who? " * 9]
TEMPLATE = "it is {}."


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> RandomModel:
    return random_model(tmp_path_factory.mktemp("random"), "BertForSequenceClassification", NAMES, seed=2)


def renamed(drawn: RandomModel, folder: Path, names: list[str]) -> Path:
    """The same model under other names of its outputs."""
    for name in ("model.onnx", "tokenizer.json", "config.json"):
        (folder / name).write_bytes((drawn.folder / name).read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": dict(enumerate(names))}))
    return folder


def ask(folder: Path, options: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    with Pipeline.create("zero-shot-text-classification", folder, batch_size=None, **options or {}) as pipeline:
        return dict(pipeline(**fields).model_dump())


@pytest.mark.parametrize("engine_type", ENGINES)
@pytest.mark.parametrize("labels", [LABELS, LABELS[:1]], ids=len)
@pytest.mark.parametrize("multi_class", [False, True])
def test_it_ranks_as_transformers_does(
    drawn: RandomModel, engine_type: str, labels: list[str], multi_class: bool
) -> None:
    asked = drawn.pipeline("zero-shot-classification")
    told = asked(TEXTS, candidate_labels=labels, hypothesis_template=TEMPLATE, multi_label=multi_class)
    options = {"engine_type": engine_type, "max_seq_length": 96, "hypothesis_template": TEMPLATE}
    found = ask(drawn.folder, options, sequences=TEXTS, labels=labels, multi_class=multi_class)
    assert found["sequences"] == TEXTS == [row["sequence"] for row in told]
    assert found["labels"] == [row["labels"] for row in told]
    assert found["scores"] == [pytest.approx(row["scores"], abs=1e-4) for row in told]


def test_one_text_has_one_list(drawn: RandomModel) -> None:
    every = ask(drawn.folder, sequences=TEXTS[:1], labels=LABELS)
    one = ask(drawn.folder, sequences=TEXTS[0], labels=LABELS)
    assert one == {"sequences": TEXTS[0], "labels": every["labels"][0], "scores": every["scores"][0]}
    assert sum(one["scores"]) == pytest.approx(1)
    assert one["scores"] == sorted(one["scores"], reverse=True)
    assert len(ask(drawn.folder, sequences="", labels=LABELS)["scores"]) == len(LABELS)
    assert ask(drawn.folder, sequences=[], labels=LABELS) == {"sequences": [], "labels": [], "scores": []}


def test_labels_come_as_a_list_or_with_commas_or_by_option(drawn: RandomModel) -> None:
    wanted = ask(drawn.folder, sequences=TEXTS[0], labels=LABELS)
    assert ask(drawn.folder, sequences=TEXTS[0], labels=" , ".join([*LABELS, ""])) == wanted
    assert ask(drawn.folder, {"labels": LABELS}, sequences=TEXTS[0]) == wanted
    assert ask(drawn.folder, {"labels": ",".join(LABELS)}, sequences=TEXTS[0]) == wanted


def test_options_hold_unless_a_request_says_otherwise(drawn: RandomModel) -> None:
    options = {"hypothesis_template": TEMPLATE, "multi_class": True}
    fields = {"sequences": TEXTS[0], "labels": LABELS}
    assert ask(drawn.folder, options, **fields) == ask(drawn.folder, **fields, **options)
    assert ask(drawn.folder, {"model_scheme": "mnli", "model_config": options}, **fields) == ask(
        drawn.folder, **fields, **options
    )
    plain = ask(drawn.folder, **fields)
    assert ask(drawn.folder, options, **fields, multi_class=False, hypothesis_template="This text is about {}") == plain


def test_outputs_are_found_by_name_else_as_the_originals_had_them(drawn: RandomModel, tmp_path: Path) -> None:
    fields = {"sequences": TEXTS[0], "labels": LABELS, "multi_class": True}
    wanted = ask(drawn.folder, **fields)
    bare = renamed(drawn, tmp_path, ["LABEL_0", "LABEL_1", "LABEL_2"])
    turned = ask(bare, **fields)
    assert dict(zip(turned["labels"], turned["scores"], strict=True)) == pytest.approx(
        {label: 1 - score for label, score in zip(wanted["labels"], wanted["scores"], strict=True)}
    )
    assert ask(bare, {"entailment_index": 2, "contradiction_index": 0}, **fields) == wanted
    with pytest.raises(PipelineError, match="both 2"):
        ask(bare, {"model_config": {"entailment_index": 2}}, **fields)


def test_a_long_text_is_cut_and_a_label_never(drawn: RandomModel) -> None:
    options = {"max_seq_length": 32, "hypothesis_template": "{}"}
    long = "the cat sat " * 50
    whole = ask(drawn.folder, options, sequences=long, labels=LABELS)
    assert whole["scores"] == ask(drawn.folder, options, sequences=long[:300], labels=LABELS)["scores"]
    with pytest.raises(PipelineError, match="can't be cut to 32 tokens"):
        ask(drawn.folder, options, sequences=long, labels=["mat " * 40])


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        ({}, {"sequences": "a"}, "labels is empty"),
        ({}, {"sequences": "a", "labels": " , "}, "labels is empty"),
        ({}, {"sequences": "a", "labels": []}, "labels is empty"),
        ({"labels": ["b"]}, {"sequences": "a", "labels": ["b"]}, "may not give others"),
        ({}, {"sequences": "a", "labels": ["b"], "hypothesis_template": "about it"}, "needs {} where the label goes"),
        ({}, {"sequences": 1, "labels": ["b"]}, "sequences"),
        ({"hypothesis_template": "{0.__class__}"}, {}, "needs {} where the label goes"),
        ({"model_scheme": "bart"}, {}, "model_scheme"),
        ({"model_config": {"template": ""}}, {}, "template: Extra"),
        ({"entailment_index": 7}, {"sequences": "a", "labels": ["b"]}, "no logits of entailment"),
    ],
)
def test_what_is_refused(drawn: RandomModel, options: dict[str, Any], fields: dict[str, Any], message: str) -> None:
    with pytest.raises((PipelineError, ModelError), match=message):
        ask(drawn.folder, options, **fields)


def test_a_template_is_text_and_no_program(drawn: RandomModel) -> None:
    fields = {"sequences": "a", "labels": ["cat"]}
    assert ask(drawn.folder, **fields, hypothesis_template="{0.__class__} {} {x}")["labels"] == ["cat"]


def test_a_model_of_two_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no logits of entailment"):
        ask(text_classification_model(tmp_path), sequences="a", labels=["b"])
