"""How the HTTP server starts, is busy, and ends: a real process on a loopback port, asked by a real client."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from fastapi import Request

from engine.server import ServerSettings, create_app, serve
from engine.server.errors import BusyError
from engine.server.workers import Workers
from tests.engine.serving import ASK, SHORT_WINDOWS, SLOW, assert_error, endpoint, running
from tests.engine.tiny_models import question_answering_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return question_answering_model(tmp_path_factory.mktemp("qa"))


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


@pytest.mark.parametrize(("path", "whole"), [("/predict", True), ("/predict", False), ("/", True), ("/", False)])
def test_row_104_a_client_that_goes_away_ends_its_request(folder: Path, path: str, whole: bool) -> None:
    app = create_app(ServerSettings.checked({"endpoints": [endpoint(folder, kwargs=SHORT_WINDOWS)]}, "test"))
    written = json.dumps(SLOW) if path == "/predict" else urlencode(SLOW)
    body = {"type": "http.request", "body": written.encode(), "more_body": not whole}
    messages = [body, {"type": "http.disconnect"}]
    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
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


def test_row_105_a_request_that_outlasts_the_drain_is_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = create_app(ServerSettings.checked({"endpoints": [endpoint(folder)]}, "test")).state.service
    begun, stopped = threading.Event(), threading.Event()

    class Slow:
        def count(self, _fields: object) -> int:
            return 1

        def run(self, _requests: object, stop: Callable[[], bool]) -> None:
            begun.set()
            while not stop():
                time.sleep(0.01)
            stopped.set()

    (served,) = service.endpoints.values()
    monkeypatch.setattr(served, "pipeline", Slow)
    messages = [{"type": "http.request", "body": json.dumps(ASK).encode()}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else await asyncio.Event().wait()

    async def cancelled_as_uvicorn_does_at_the_limit() -> None:
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "query_string": b""}
        answer = asyncio.create_task(service.answer(served, Request(scope, receive)))
        await asyncio.to_thread(begun.wait, 5)
        answer.cancel()
        await asyncio.wait({answer})
        assert await asyncio.to_thread(stopped.wait, 5)

    asyncio.run(cancelled_as_uvicorn_does_at_the_limit())
    service.close()


def test_row_105_a_model_that_loads_too_long_is_left_when_the_server_ends(folder: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time; from engine.server import endpoint, read_config, serve\n"
        "endpoint.Endpoint.load = lambda model: (print(model.name, file=sys.stderr, flush=True), time.sleep(15))\n"
        "sys.exit(serve(read_config(sys.argv[1])))"
    )
    endpoints = [endpoint(folder, name=name) for name in ("model-one", "model-two")]
    with running(tmp_path, endpoints, program=program, drain_delay_s=0, drain_limit_s=0.5) as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert server.process.stderr is not None
        assert "model-two" not in server.process.stderr.read()


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
