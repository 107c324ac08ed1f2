"""Tasks other than question answering behind HTTP: their JSON, their description, and their page in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe_core_python
import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from engine.server.shown import shown
from tests.engine.serving import ENGINE, Server, assert_error, running
from tests.engine.tiny_models import question_answering_model, text_classification_model, token_classification_model
from tests.registry.browser import look, open_browser, use_scripts

AXE = next(Path(axe_core_python.__file__).parent.rglob("axe.min.js")).read_text("utf-8")
TEXT = "It was in Paris, in Spring; <b>paris</b> \U0001f600 on the mat"
LOCATION = {"entity": "LOC", "word": "paris", "start": 10, "end": 15, "index": None, "is_grouped": True}
SEQUENCE = "the cat sat on the mat"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("tasks")
    reviews = text_classification_model(path / "reviews")
    entails = {"entailment_index": 1, "contradiction_index": 0}  # what it finds positive
    ner = token_classification_model(path / "ner")

    def row(task: str, folder: Path, name: str, **options: Any) -> dict[str, Any]:
        return {"task": task, "model": str(folder), "name": name, "kwargs": {"engine_type": ENGINE, **options}}

    endpoints = [
        row("ner", ner, "tokens"),
        row("token-classification", ner, "entities", aggregation_strategy="simple"),
        row("zero_shot_text_classification", reviews, "any", **entails),
        row("zero_shot_text_classification", reviews, "three", labels=["cat", "lovely", "mat"], **entails),
        row("text_classification", reviews, "reviews", top_k=2),
        row("qa", question_answering_model(path / "qa"), "squad"),
    ]
    with running(path, endpoints) as started:
        yield started.wait_until_ready()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


# JSON


def test_entities(server: Server) -> None:
    found = server.client.post("/predict/entities", json={"inputs": [TEXT, ""]}).json()
    assert set(found) == {"predictions"}
    assert [[row["entity"] for row in rows] for rows in found["predictions"]] == [["LOC", "TIME", "LOC", "THING"], []]
    first = found["predictions"][0][0]
    assert 0.5 < first.pop("score") <= 1
    assert first == LOCATION
    assert [TEXT[row["start"] : row["end"]] for row in found["predictions"][0][1:]] == ["Spring", "paris", "mat"]


def test_tokens_and_words(server: Server) -> None:
    words = ["in", "Paris", "on", "the", "mat"]
    split = {"inputs": words, "is_split_into_words": True}
    found = server.client.post("/v2/models/tokens/infer", json=[split, {"inputs": " ".join(words)}]).json()
    assert [row["entity"] for row in found[0]["predictions"][0]] == ["B-LOC", "I-THING"]
    assert found[0] == found[1]
    assert [(row["index"], row["is_grouped"]) for row in found[0]["predictions"][0]] == [(2, False), (5, False)]


def test_zero_shot(server: Server) -> None:
    fields = {"sequences": SEQUENCE, "labels": ["cat", "lovely", "mat"]}
    found = server.client.post("/predict/any", json=fields).json()
    assert found["sequences"] == SEQUENCE
    assert sorted(found["labels"]) == fields["labels"]
    assert found["labels"][0] == "lovely"
    assert sum(found["scores"]) == pytest.approx(1)
    assert server.client.post("/predict/any", json={**fields, "labels": "cat,lovely,mat"}).json() == found
    assert server.client.post("/predict/three", json={"sequences": SEQUENCE}).json() == found


def test_openapi_describes_requests_and_answers(server: Server) -> None:
    document = server.client.get("/openapi.json").json()
    for name in ("entities", "any"):
        post = document["paths"][f"/predict/{name}"]["post"]
        schema = post["requestBody"]["content"]["application/json"]["schema"]
        example = {field: row["examples"][0] for field, row in schema["properties"].items() if "examples" in row}
        assert server.client.post(f"/predict/{name}", json=example).status_code == 200
        assert "$ref" in post["responses"]["200"]["content"]["application/json"]["schema"]
    entity = document["components"]["schemas"]["Entity"]
    assert set(entity["properties"]) == {"entity", "score", "word", "start", "end", "index", "is_grouped"}


# what is refused


@pytest.mark.parametrize(
    ("path", "document", "said"),
    [
        ("tokens", {"inputs": ["a"] * 257}, "257 texts"),
        ("tokens", {"inputs": [["a"]] * 257, "is_split_into_words": True}, "257 texts"),
        ("tokens", {"inputs": [["a"]]}, "need is_split_into_words"),
        ("tokens", {"inputs": "a", "is_split_into_words": True}, "needs a list of words"),
        ("tokens", {"inputs": [1] * 20_000, "is_split_into_words": True}, "valid string"),
        ("tokens", {"inputs": [[1] * 20_000], "is_split_into_words": True}, "valid string"),
        ("any", {"sequences": ["a"] * 52, "labels": ["a"] * 5}, "260 texts"),
        ("any", {"sequences": ["a"] * 52, "labels": "a,b,c,d,e"}, "260 texts"),
        ("three", {"sequences": ["a"] * 86}, "258 texts"),
        ("any", {"sequences": "a", "labels": [1] * 20_000}, "20000 texts"),
        ("any", {"sequences": "a"}, "labels is empty"),
        ("three", {"sequences": "a", "labels": ["b"]}, "may not give others"),
        ("any", {"sequences": "a", "labels": ["b"], "hypothesis_template": "{0.real}"}, "where the label goes"),
        ("any", {"sequences": "a", "labels": ["mat " * 200]}, "can't be cut to"),
    ],
)
def test_row_101_wrong_requests_are_named_shortly(server: Server, path: str, document: Any, said: str) -> None:
    response = server.client.post(f"/predict/{path}", json=document)
    assert_error(response, 422)
    assert said in response.text
    assert len(response.content) < 800


def test_a_wrong_field_is_named_as_it_was_written(server: Server) -> None:
    wrong = [{"inputs": ["a", 1]}, {"inputs": "a", "is_split_into_words": True}]
    error = assert_error(server.client.post("/predict/tokens", json=wrong), 422)
    assert {row["field"] for row in error["problems"]} == {"0.inputs", "0.inputs.0", "0.inputs.1", "1"}


def test_a_text_of_very_many_words_is_one(server: Server) -> None:
    words = ["the", "paris"] * 10_000
    found = server.client.post("/predict/tokens", json={"inputs": words, "is_split_into_words": True}).json()
    assert len(found["predictions"][0]) == 10_000


# pages


@pytest.mark.parametrize(
    ("model", "fields", "shown"),
    [
        (
            "entities",
            {"inputs": TEXT},
            "<mark>Paris <small>LOC</small></mark>, in <mark>Spring <small>TIME</small></mark>",
        ),
        ("entities", {"inputs": "the cat"}, "nothing found"),
        ("any", {"sequences": SEQUENCE, "labels": "cat, mat"}, "<td>cat</td>"),
        ("any", {"sequences": SEQUENCE, "labels": "<i>,b"}, "<td>&lt;i&gt;</td>"),
        ("three", {"sequences": SEQUENCE}, "<td>lovely</td>"),
        ("reviews", {"sequences": "it was lovely"}, "<td>positive</td>"),
    ],
)
def test_the_form_without_scripts(server: Server, model: str, fields: dict[str, str], shown: str) -> None:
    page = server.client.post("/", data={"model": model, **fields})
    assert page.status_code == 200
    assert shown in page.text
    assert "<b>" not in page.text
    asked = re.findall(r'<textarea id="(\w+)"', server.client.get(f"/?model={model}").text)
    assert asked == list(fields)


def test_a_character_of_several_tokens_is_marked_once() -> None:
    """Pieces of bytes: an emoji may be four tokens with the same characters."""
    text = "<a> \U0001f600 b"
    found = [{"entity": f"<{n}>", "word": "&", "start": 4, "end": 5, "score": 0.5} for n in range(4)] * 200
    page = shown("token_classification", {"predictions": [found]}, {"inputs": text})
    assert "&lt;a&gt; <mark>\U0001f600 <small>&lt;0&gt;</small></mark> b" in page
    assert page.count("<mark>") == 1
    assert page.count("<td>&amp;</td>") == 500
    assert "and 300 more" in page


def test_the_form_tells_what_the_pipeline_refuses(server: Server) -> None:
    page = server.client.post("/", data={"model": "any", "sequences": "a", "labels": ","})
    assert page.status_code == 422
    assert "labels is empty" in page.text


def asked(browser: Chrome, server: Server, model: str, fields: dict[str, str]) -> str:
    """Fill in a model's form by hand, and return the text of the result."""
    browser.get(f"{server.url}/?model={model}")
    for name, text in fields.items():
        browser.find_element(By.ID, name).send_keys(text)
    browser.find_element(By.CSS_SELECTOR, "form button").click()
    patience = WebDriverWait(browser, 10, ignored_exceptions=[StaleElementReferenceException])
    return str(patience.until(lambda b: b.find_element(By.ID, "result").text))


@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize(
    ("model", "fields", "said"),
    [
        ("squad", {"question": "where?", "context": "It was in Paris in Spring."}, "Paris in Spring\nscore"),
        ("entities", {"inputs": "in Paris,\n<b>paris</b>"}, "in Paris LOC,\n<b>paris LOC</b>"),
        ("any", {"sequences": SEQUENCE, "labels": "cat, lovely"}, "label score\nlovely"),
        ("any", {"sequences": SEQUENCE, "labels": " , "}, "labels is empty"),
    ],
    ids=["squad", "entities", "any", "refused"],
)
def test_a_person_asks_in_a_browser(
    server: Server, browser: Chrome, scripts: bool, model: str, fields: dict[str, str], said: str
) -> None:
    look(browser, width=360, height=740)
    use_scripts(browser, on=scripts)
    try:
        assert said in asked(browser, server, model, fields)
        if scripts:
            assert browser.current_url == f"{server.url}/?model={model}"  # shown without leaving the page
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
            browser.execute_cdp_cmd("Runtime.evaluate", {"expression": AXE})
            found = browser.execute_async_script("axe.run().then(arguments[0])")
            assert [row["id"] for row in found["violations"]] == []
        # A refusal is an answer with a status of its own, which the browser notes.
        assert [entry for entry in browser.get_log("browser") if "status of 422" not in entry["message"]] == []
    finally:
        use_scripts(browser, on=True)
