"""The HTTP server: a real process on a loopback port, asked by a real client."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import PipelineError
from engine.server import ServerSettings, SettingsError, create_app, serve
from engine.server.errors import BusyError
from engine.server.workers import Workers
from tests.engine.tiny_models import ENGINES, question_answering_model, text_classification_model

ENGINE = ENGINES[-1]
ASK = {"question": "where was it?", "context": "It was in Paris in Spring."}
# With windows of 16 tokens about 3,000 of them: a second or so of work in one request.
SLOW = {"question": "where?", "context": "the cat sat on a mat " * 3_000}
SHORT_WINDOWS = {"engine_type": ENGINE, "sequence_length": 16}
_PROGRAM = "import sys; from engine.server import read_config, serve; sys.exit(serve(read_config(sys.argv[1])))"


class Server:
    """A server process, and a client for it."""

    def __init__(self, config: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(config)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.said: list[str] = []
        self.url = self._wait_for(r"listening on (http://\S+)/ ")
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def _wait_for(self, pattern: str) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(pattern, line):
                return found.group(1)
        raise AssertionError(f"the server ended: {self.said}")

    def wait_until_ready(self) -> Server:
        self._wait_for(r"(ready: .*)")
        # Keeps the pipe from filling up.
        threading.Thread(target=lambda: self.said.extend(self.process.stderr or []), daemon=True).start()
        return self


@contextmanager
def running(path: Path, endpoints: list[dict[str, Any]], **values: Any) -> Iterator[Server]:
    config = path / "server.yaml"
    config.write_text(json.dumps({"port": 0, "drain_delay_s": 0.3, "endpoints": endpoints, **values}))
    server = Server(config)
    try:
        yield server
    finally:
        server.client.close()
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait(10)
        for pipe in (server.process.stdout, server.process.stderr):
            assert pipe is not None


def endpoint(folder: Path, **values: Any) -> dict[str, Any]:
    return {"task": "question-answering", "model": str(folder), "kwargs": {"engine_type": ENGINE}, **values}


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


def assert_error(response: httpx.Response, *statuses: int) -> dict[str, Any]:
    assert response.status_code in statuses, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error["status"] == response.status_code
    assert error["message"]
    return error


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


def test_several_models_have_no_bare_predict(two: Server) -> None:
    assert_error(two.client.post("/predict", json=ASK), 404)
    assert 'href="/?model=reviews"' in two.client.get("/").text
    assert "Sequences" in two.client.get("/?model=reviews").text


def test_row_103_while_loading_a_request_is_told_to_come_again(folder: Path) -> None:
    app = create_app(ServerSettings.checked({"endpoints": [endpoint(folder)]}, "test"))

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            assert (await client.get("/v2/health/ready")).status_code == 503
            assert (await client.get("/v2/health/live")).status_code == 200
            return await client.post("/predict", json=ASK)

    response = asyncio.run(ask())  # the application's start, which loads the model, hasn't run
    assert_error(response, 503)
    assert int(response.headers["retry-after"]) >= 1


# load and shutdown


def test_workers_are_the_streams_of_the_engine(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    limits = {"num_cores": 1, "num_workers": 2}
    settings = ServerSettings.checked({"endpoints": [endpoint(folder)], **limits}, "test")
    service = create_app(settings).state.service
    for served in service.endpoints.values():
        served.load()
    assert service.ready
    service.close()
    assert "num_streams is 2, but there are 1 cores" in caplog.text


def test_row_104_full_queue_and_deadline(folder: Path, tmp_path: Path) -> None:
    limits = {"num_workers": 1, "queue_limit": 0, "request_timeout_s": 0.1}
    with running(tmp_path, [endpoint(folder, kwargs=SHORT_WINDOWS)], **limits) as server:
        server.wait_until_ready()
        slow: list[httpx.Response] = []

        def ask_slowly() -> None:
            """Asked again when a quick question held the one place."""
            while not slow or slow[-1].status_code == 503:
                slow.append(httpx.post(f"{server.url}/predict", json=SLOW, timeout=60))

        thread = threading.Thread(target=ask_slowly)
        thread.start()
        refused = server.client.post("/predict", json=ASK)
        for _ in range(100):
            if refused.status_code == 503:
                break
            time.sleep(0.02)
            refused = server.client.post("/predict", json=ASK)
        assert_error(refused, 503)
        assert int(refused.headers["retry-after"]) >= 1
        assert server.client.get("/health").status_code == 200
        thread.join()
        assert_error(slow[-1], 504)
        for _ in range(200):  # its place is free again once the worker saw the deadline
            if server.client.post("/predict", json=ASK).status_code == 200:
                break
            time.sleep(0.05)
        else:
            pytest.fail("the abandoned request still holds its place")


def test_row_104_a_call_that_nobody_waits_for_is_stopped_and_its_place_freed() -> None:
    async def scenario() -> None:
        workers = Workers(count=1, queue_limit=1)
        begun, ended, started_late = threading.Event(), threading.Event(), threading.Event()

        def work(stop: Callable[[], bool]) -> None:
            begun.set()
            while not stop():
                time.sleep(0.01)
            ended.set()

        running = asyncio.create_task(workers.run(work, 60))
        await asyncio.to_thread(begun.wait, 5)
        waiting = asyncio.create_task(workers.run(lambda _stop: started_late.set(), 60))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await workers.run(work, 60)
        waiting.cancel()
        running.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
        assert await asyncio.to_thread(ended.wait, 5)
        assert await workers.run(lambda _stop: 7, 5) == 7
        assert not started_late.is_set()
        workers.close()

    asyncio.run(scenario())


def test_row_104_a_client_that_goes_away_ends_its_request(folder: Path) -> None:
    app = create_app(ServerSettings.checked({"endpoints": [endpoint(folder, kwargs=SHORT_WINDOWS)]}, "test"))
    messages = [{"type": "http.request", "body": json.dumps(SLOW).encode()}, {"type": "http.disconnect"}]
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "query_string": b""}
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def ask() -> None:
        await app.state.service.load()
        await app(scope, receive, send)

    asyncio.run(ask())
    assert sent[0]["status"] == 499
    app.state.service.close()


def test_row_105_sigterm_under_load_drains(folder: Path, tmp_path: Path) -> None:
    with running(tmp_path, [endpoint(folder, kwargs=SHORT_WINDOWS)], num_workers=1) as server:
        server.wait_until_ready()
        done: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: done.append(httpx.post(f"{server.url}/predict", json=SLOW, timeout=60))
        )
        thread.start()
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        assert server.client.get("/v2/health/ready").json() == {"ready": False}
        assert server.client.get("/health").status_code == 200
        thread.join()
        assert done[0].status_code == 200
        assert server.process.wait(20) == 0


def test_row_105_a_second_signal_ends_at_once(folder: Path, tmp_path: Path) -> None:
    with running(tmp_path, [endpoint(folder)], drain_delay_s=60) as server:
        server.wait_until_ready()
        server.process.send_signal(signal.SIGTERM)
        for _ in range(100):
            if server.client.get("/v2/health/ready").status_code == 503:
                break
            time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 128 + signal.SIGTERM


def test_nothing_on_stdout_and_the_address_on_stderr(folder: Path, tmp_path: Path) -> None:
    with running(tmp_path, [endpoint(folder)], drain_delay_s=0) as server:
        server.wait_until_ready()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 130
        assert server.process.stdout is not None
        assert server.process.stdout.read() == ""
        assert any("listening on http://127.0.0.1:" in line for line in server.said)


def test_no_model_that_loads_ends_the_server(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    assert serve(ServerSettings.checked({"endpoints": [endpoint(tmp_path)], "port": 0}, "test")) == 1
    assert "can't be served: " in capsys.readouterr().err


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
