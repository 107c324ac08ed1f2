"""The HTTP server: a real process on a loopback port, asked by a real client."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import PipelineError
from engine.server import ServerSettings, SettingsError, create_app, serve
from tests.engine.serving import ASK, Server, assert_error, endpoint, running
from tests.engine.tiny_models import question_answering_model, text_classification_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return question_answering_model(tmp_path_factory.mktemp("qa"))


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("one"), [endpoint(folder)], body_limit_bytes=100_000) as started:
        yield started.wait_until_ready()


@pytest.fixture(scope="module")
def two(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("two")
    reviews = text_classification_model(path / "reviews")
    broken = path / "broken"
    broken.mkdir()
    (broken / "model.onnx").write_bytes(b"no model")
    (broken / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    endpoints = [
        endpoint(folder, name="squad", route="/ask/me"),
        {**endpoint(reviews), "task": "sentiment_analysis", "name": "reviews"},
        endpoint(broken, name="broken"),
    ]
    with running(path, endpoints) as started:
        yield started.wait_until_ready()


# answering


@pytest.mark.parametrize(
    "path",
    ["/predict", "/predict/question_answering", "/v2/models/question_answering/infer", "/invocations"],
)
def test_every_generation_of_routes_answers(server: Server, path: str) -> None:
    response = server.client.post(path, json=ASK)
    assert response.status_code == 200
    found = response.json()
    assert set(found) == {"score", "answer", "start", "end", "logit"}
    assert found["answer"] == "Paris in Spring" == ASK["context"][found["start"] : found["end"]]
    assert 0 < found["score"] <= 1


def test_a_list_of_requests_is_answered_by_a_list(server: Server) -> None:
    response = server.client.post("/predict", json=[ASK, {"question": "", "context": ""}])
    assert [row["answer"] for row in response.json()] == ["Paris in Spring", ""]


def test_offsets_count_characters(server: Server) -> None:
    context = "\U0001f600 Caf\u00e9\r\nParis in Spring"
    found = server.client.post("/predict", json={"question": "where?", "context": context}).json()
    assert context[found["start"] : found["end"]] == found["answer"] == "Paris in Spring"


def test_row_101_bad_bodies_are_refused_and_named(server: Server) -> None:
    post = server.client.post
    assert "empty" in assert_error(post("/predict", content=b""), 400)["message"]
    for body in (
        b"{",
        b"\xff\xfe",
        b"[" * 90_000,
        b'{"question": NaN}',
        b'{"a": ' * 10_000,
        b'"\\ud800"',
        b"9" * 50_000,
    ):
        assert_error(post("/predict", content=body), 400)
    for document in (
        None,
        3,
        "text",
        [],
        [[]],
        {},
        {"question": "q"},
        {**ASK, "question": 1},
        {**ASK, "context": None},
    ):
        assert_error(post("/predict", content=json.dumps(document)), 422)
    error = assert_error(post("/predict", json={**ASK, "contxt": "c"}), 422)
    assert error["problems"] == [{"field": "contxt", "problem": "Extra inputs are not permitted"}]
    error = assert_error(post("/predict", json=[ASK, {"question": "q"}]), 422)
    assert [row["field"] for row in error["problems"]] == ["1.context"]
    assert_error(post("/predict", json=[ASK] * 257), 422)
    assert post("/predict", json=ASK).status_code == 200


def test_row_101_a_body_over_the_limit(server: Server) -> None:
    large = json.dumps({**ASK, "context": "a" * 100_000}).encode()
    assert_error(server.client.post("/predict", content=large), 413)
    pieces = (large[i : i + 1000] for i in range(0, len(large), 1000))
    with httpx.Client(base_url=server.url) as client:  # a chunked body: no length is declared
        assert_error(client.post("/predict", content=pieces), 413)


def test_row_101_a_body_that_never_ends(folder: Path) -> None:
    app = create_app(ServerSettings.checked({"endpoints": [endpoint(folder)], "body_timeout_s": 0.1}, "test"))

    async def trickle() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.post("/predict", content=trickle())

    assert_error(asyncio.run(ask()), 408)


@settings(max_examples=30, deadline=None)
@given(
    body=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["question", "context", "id", "x"]), inner, max_size=4)
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
def test_row_101_no_body_makes_the_server_fail(server: Server, body: bytes) -> None:
    assert server.client.post("/predict", content=body).status_code in (200, 400, 422)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict", 405),
        ("POST", "/predict/none", 404),
        ("GET", "/nowhere", 404),
        ("POST", "/endpoints", 404),
        ("DELETE", "/endpoints", 404),
        ("GET", "/v2/models/none", 404),
    ],
)
def test_unknown_routes_and_models(server: Server, method: str, path: str, status: int) -> None:
    assert_error(server.client.request(method, path), status)


def test_concurrent_clients_get_their_own_answers(server: Server) -> None:
    wrong: list[str] = []

    def ask(number: int) -> None:
        context = "the cat " * number + "Paris in Spring."
        with httpx.Client(base_url=server.url, timeout=60) as client:
            for _ in range(5):
                found = client.post("/predict", json={"question": "where?", "context": context}).json()
                if found["start"] != 8 * number:
                    wrong.append(str(found))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# health, pages


@pytest.mark.parametrize("path", ["/ping", "/health", "/healthcheck", "/status"])
def test_health(server: Server, path: str) -> None:
    response = server.client.get(path)
    assert (response.status_code, response.json()) == (200, {"status": "healthy"})


def test_liveness_readiness_and_description(server: Server) -> None:
    get = server.client.get
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").json() == {"ready": True}
    assert get("/v2/models/question_answering/ready").json() == {"name": "question_answering", "ready": True}
    assert get("/v2").json()["models"] == ["question_answering"]
    assert get("/config").json()["host"] == "127.0.0.1"


def test_openapi_describes_requests_and_answers(server: Server) -> None:
    paths = server.client.get("/openapi.json").json()["paths"]
    schema = paths["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["question", "context"]
    example = {name: row["examples"][0] for name, row in schema["properties"].items() if "examples" in row}
    assert server.client.post("/predict", json=example).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_use_nothing_from_outside(server: Server, path: str) -> None:
    response = server.client.get(path)
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert not re.search(r"(src|href)=\"(https?:)?//", response.text)
    for asset in re.findall(r'(?:src|href)="(/static/[^"]+)"', response.text):
        assert server.client.get(asset).status_code == 200


def test_the_form_works_without_javascript(server: Server) -> None:
    page = server.client.post("/", data={"model": "question_answering", **ASK})
    assert page.status_code == 200
    assert "It was in <mark>Paris in Spring</mark>." in page.text
    hostile = server.client.post("/", data={"question": "<script>", "context": "</textarea><script>alert(1)</script>"})
    assert "<script>alert" not in hostile.text
    assert hostile.status_code == 200


def test_the_form_says_what_is_wrong(server: Server) -> None:
    page = server.client.post("/", data={"question": "where?"})
    assert page.status_code == 422
    assert "context: Field required" in page.text
    assert_error(server.client.post("/", data={"model": "none"}), 404)
    assert_error(server.client.post("/", content=b"question=%ff"), 400)
    assert_error(server.client.post("/", content="&".join(f"a{i}=1" for i in range(30))), 400)


# several models


def test_row_103_a_broken_model_leaves_the_others_serving(two: Server) -> None:
    get, post = two.client.get, two.client.post
    assert post("/predict/squad", json=ASK).json()["answer"] == "Paris in Spring"
    assert post("/ask/me", json=ASK).status_code == 200
    assert post("/predict/reviews", json={"sequences": "it was lovely"}).json()["labels"] == [["positive"]]
    assert_error(post("/predict/broken", json=ASK), 503)
    assert get("/v2/models/squad/ready").status_code == 200
    assert get("/v2/models/broken/ready").status_code == 503
    assert get("/v2/health/ready").status_code == 503
    described = get("/v2/models/broken").json()
    assert (described["state"], described["ready"]) == ("failed", False)
    assert "ONNX" in described["problem"]


@pytest.mark.parametrize(
    "document",
    [
        {"sequences": ["a"] * 257},
        {"sequences": [["a", "b"]] * 257},
        {"sequences": [1] * 20_000},
        [{"sequences": ["a"] * 129}, {"sequences": ["a"] * 128}],
    ],
)
def test_row_101_texts_within_requests_are_counted(two: Server, document: object) -> None:
    response = two.client.post("/predict/reviews", json=document)
    error = assert_error(response, 422)
    assert "send 1 to 256 at once" in error["message"]
    assert len(response.content) < 500


def test_row_101_as_many_texts_as_are_allowed(two: Server) -> None:
    assert len(two.client.post("/predict/reviews", json={"sequences": ["a"] * 256}).json()["labels"]) == 256
    assert two.client.post("/predict/reviews", json={"sequences": []}).json()["labels"] == []


def test_several_models_have_no_bare_predict(two: Server) -> None:
    assert_error(two.client.post("/predict", json=ASK), 404)
    assert 'href="/?model=reviews"' in two.client.get("/").text
    assert "Sequences" in two.client.get("/?model=reviews").text


def test_row_108_it_binds_to_this_machine_and_knows_no_admin_routes(server: Server, folder: Path) -> None:
    assert ServerSettings.checked({"endpoints": [endpoint(folder)]}, "test").host == "127.0.0.1"
    for path in ("/endpoints", "/v2/repository/models/x/load", "/predict/..%2f..%2fetc%2fpasswd"):
        assert_error(server.client.post(path, json={"model": "/etc/passwd"}), 404)


def test_a_port_that_is_taken_is_named(server: Server, folder: Path) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    with pytest.raises(SettingsError, match=f"port {port}.*choose another"):
        serve(ServerSettings.checked({"endpoints": [endpoint(folder)], "port": port}, "test"))


def test_a_wrong_folder_or_option_is_told_before_the_server_starts(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"no model.onnx"):
        create_app(ServerSettings.checked({"endpoints": [endpoint(tmp_path)]}, "test"))
    wrong = endpoint(folder, kwargs={"stride": 3})
    with pytest.raises(PipelineError, match="stride"):
        create_app(ServerSettings.checked({"endpoints": [wrong]}, "test"))


def test_two_endpoints_that_want_one_route(folder: Path) -> None:
    rows = [endpoint(folder, name="a"), endpoint(folder, name="b", route="/predict/a")]
    with pytest.raises(SettingsError, match="route /predict/a of b is already that of a"):
        create_app(ServerSettings.checked({"endpoints": rows}, "test"))
