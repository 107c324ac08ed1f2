"""The registry as a program behind a real socket: the flow, crashes, slow clients, stopping."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from registry import admin
from registry.errors import StartError
from registry.server import listen
from registry.settings import Settings
from tests.registry.builders import ALIAS, bert, digest_of, small
from tests.registry.conftest import ROOT, Program, open_site

DATA = b"0123456789" * 1_000


def connect(program: Program) -> socket.socket:
    address = urlsplit(program.url)
    return socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=10)


def send_half(program: Program, more: str = "") -> socket.socket:
    """Starts an upload, and stops in the middle."""
    opened = connect(program)
    path = f"/api/v1/blobs/{digest_of(DATA)}"
    head = f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}Content-Length: {len(DATA)}\r\n\r\n"
    opened.sendall(head.encode() + DATA[: len(DATA) // 2])
    return opened


def wait_for(condition: object, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]  # a function
            return True
        time.sleep(0.02)
    return False


def test_publish_search_resolve_pull_and_look_over_a_socket(program: Program) -> None:
    folder = bert()
    with program.client() as client:
        digests = [digest_of(data) for _, data in folder.files.values()]
        missing = client.post("/api/v1/blobs/missing", json={"digests": digests}).json()["missing"]
        assert set(missing) == set(digests)
        assert folder.publish(client, tags=["prod"]).status_code == 201
        found = client.get("/api/v1/models", params={"q": "bert", "sparsity_min": 0.8}).json()["items"]
        assert [item["alias"] for item in found] == [ALIAS]
        view = client.get("/api/v1/resolve", params={"stub": ALIAS + "@prod", "role": "training"}).json()
        for file in view["files"]:
            half = file["size_bytes"] // 2
            parts = [
                client.get(file["url"], headers={"Range": asked, "If-Range": f'"{file["sha256"]}"'}).content
                for asked in (f"bytes=0-{half - 1}", f"bytes={half}-")
            ]
            assert digest_of(b"".join(parts)) == file["sha256"]
        page = client.get("/models/" + view["name"].removeprefix("zoo:"), headers={"Accept": "text/html"})
        assert "Sparsity by layer" in page.text
    assert program.stop() == 0


def test_row_39_kill_in_the_middle_of_an_upload_leaves_nothing_visible(tmp_path: Path) -> None:
    settings = Settings(storage=tmp_path / "storage")
    program = Program(settings, tmp_path / "first")
    with program.client() as client:
        published = small().publish(client).json()
    opened = send_half(program)
    incoming = settings.storage / "incoming"
    assert wait_for(lambda: list(incoming.iterdir()))
    program.stop(signal.SIGKILL)
    opened.close()
    with open_site(settings) as again:
        url = f"/api/v1/blobs/{digest_of(DATA)}"
        assert again.client.get(url).status_code == 404
        assert again.client.put(url, content=DATA).status_code == 201
        assert again.client.get(url).content == DATA
        assert again.client.get("/api/v1/resolve", params={"stub": "zoo:tiny"}).json() == published
        assert admin.gc(settings, timedelta(microseconds=1)).uploads_removed == 0  # a request could still be writing it
        (leftover,) = incoming.iterdir()
        two_hours_ago = leftover.stat().st_mtime - 7_200
        os.utime(leftover, (two_hours_ago, two_hours_ago))
        assert admin.gc(settings, timedelta(microseconds=1)).uploads_removed == 1


def test_row_39_a_lost_answer_is_repeated_by_the_next_try(shared_program: Program) -> None:
    folder = small()
    with shared_program.client() as client:
        folder.upload(client)
        request = client.build_request("POST", "/api/v1/versions", json={"manifest": folder.manifest})
        head = "POST /api/v1/versions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        with connect(shared_program) as opened:
            opened.sendall(f"{head}Content-Length: {len(request.content)}\r\n\r\n".encode() + request.content)
            assert wait_for(lambda: client.get("/api/v1/resolve", params={"stub": "zoo:tiny"}).status_code == 200)
        answer = client.send(request)
        assert (answer.status_code, answer.json()["version"]) == (200, 1)


def test_row_45_a_client_that_goes_away_leaves_nothing(shared_program: Program) -> None:
    opened = send_half(shared_program)
    incoming = shared_program.settings.storage / "incoming"
    assert wait_for(lambda: list(incoming.iterdir()))
    opened.close()
    assert wait_for(lambda: not list(incoming.iterdir()))
    assert wait_for(lambda: f"PUT /api/v1/blobs/{digest_of(DATA)} 499" in shared_program.log.read_text())
    assert "Traceback" not in shared_program.log.read_text()


def test_row_45_a_silent_uploader_is_sent_away(shared_program: Program) -> None:
    with send_half(shared_program) as opened:
        answer = opened.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 400")
    assert wait_for(lambda: not list((shared_program.settings.storage / "incoming").iterdir()))


OPEN_BODIES = [
    ("/api/v1/blobs/missing", "application/json"),
    ("/v2/graphql", "application/json"),
    ("/sign-in", "application/x-www-form-urlencoded"),
]


@pytest.mark.parametrize(("path", "kind"), OPEN_BODIES)
def test_row_45_a_silent_or_dripping_sender_is_sent_away(shared_program: Program, path: str, kind: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n\r\n"
    for drips in (False, True):
        with connect(shared_program) as opened:
            opened.sendall(head.encode())
            opened.settimeout(0.2)
            answer, deadline = b"", time.monotonic() + 8
            while not answer and time.monotonic() < deadline:
                try:
                    if drips:
                        opened.sendall(b" ")
                    answer = opened.recv(65_536)
                except TimeoutError:
                    continue
        assert answer.startswith(b"HTTP/1.1 400"), (path, drips)


def test_row_45_a_hostile_body_keeps_nobody_waiting(shared_program: Program) -> None:
    """Of five million empty lists each was an error, which took more than half a minute."""
    body = b'{"manifest": {"name": "zoo:x", "files": [' + b"[]," * 5_000_000 + b"[]]}}"
    with shared_program.client() as client, shared_program.client() as other, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(client.post, "/api/v1/versions", content=body, headers={"Content-Type": "application/json"})
        times = []
        while not sent.done():
            started = time.monotonic()
            assert other.get("/api/v1/health").status_code == 200
            times.append(time.monotonic() - started)
        assert sent.result().json()["code"] == "TOO_LARGE"
    assert max(times) < 3


def test_answers_come_without_waiting_for_acknowledgements(shared_program: Program) -> None:
    """Without TCP_NODELAY every answer of two parts takes 40 ms more."""
    times = []
    with shared_program.client() as client:
        for _ in range(20):
            started = time.perf_counter()
            client.get("/api/v1/health")
            times.append(time.perf_counter() - started)
    assert min(times) < 0.035


def test_row_35_the_log_holds_no_token_and_sigterm_lets_an_upload_end(tmp_path: Path) -> None:
    settings = Settings(storage=tmp_path / "storage", require_token=True)
    token = admin.create_token(settings, "writer")
    running = Program(settings, tmp_path / "log")
    try:
        with running.client(headers={"Authorization": f"Bearer {token}"}) as client:
            assert small().publish(client).status_code == 201
            client.get("/api/v1/models", params={"token": token})
            client.get(f"/models/{token}")
        with running.client() as client:  # refused, though the client is still sending
            answer = client.put(f"/api/v1/blobs/{digest_of(b'x' * 5_000_000)}", content=b"x" * 5_000_000)
            assert answer.status_code == 401
        with send_half(running, f"Authorization: Bearer {token}\r\n") as opened:
            assert wait_for(lambda: list((settings.storage / "incoming").iterdir()))
            running.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            opened.sendall(DATA[len(DATA) // 2 :])
            assert opened.recv(65_536).startswith(b"HTTP/1.1 201")
        assert running.process.wait(20) == 0
    finally:
        running.stop(signal.SIGKILL)
    log = (tmp_path / "log").read_text()
    assert "PUT /api/v1/blobs/sha256:" in log
    assert token not in log
    assert "Traceback" not in log


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port}: .*choose another"):
            listen(Settings(storage=tmp_path, port=port))
    with pytest.raises(StartError, match="no-such-host"):
        listen(Settings(storage=tmp_path, host="no-such-host.invalid"))


def test_importing_the_package_loads_no_framework() -> None:
    code = (
        "import sys, registry; heavy = {'fastapi', 'sqlalchemy', 'alembic', 'uvicorn', 'torch', 'httpx', 'jinja2'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
