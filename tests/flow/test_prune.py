"""`zoo cache prune` beside a pull, and beside a server that runs a cached model. Rows are of the list of faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import zoo
from tests.engine.serving import running
from tests.engine.tiny_models import ENGINES, question_answering_model
from tests.zoo.fault_server import Exchange, FaultServer, well
from tests.zoo.live_registry import serving
from zoo import housekeeping
from zoo.cache import Cache
from zoo.disk import hash_file
from zoo.manifest import Manifest

ROOT = Path(__file__).parents[2]
STUB = "zoo:nlp/question_answering/b/p/h/squad/base-none"
ASK = {"question": "where was it?", "context": "It was in Paris in Spring."}
LONG_AGO = (1_000, 1_000)


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A registry with a model, behind a server that can hold answers back; this process's settings lead there."""
    for name in [name for name in os.environ if name.startswith("ZOO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    with serving(tmp_path / "registry") as url, FaultServer(upstream=url).running() as running:
        monkeypatch.setenv("ZOO_ENDPOINT", running.url)
        zoo.publish(question_answering_model(tmp_path / "model"), STUB)
        yield running


def start(*arguments: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "cli.py", "--json", *arguments], cwd=ROOT, text=True, **pipes)


def prune() -> list[str]:
    """What the command removes of all that wasn't used within the last hour."""
    said, errors = start("cache", "prune", "--max-age-days", "0").communicate(timeout=60)
    assert not errors
    return list(json.loads(said)["versions"])


def age(folder: Path) -> None:
    """As if the version had been used last long ago."""
    os.utime(folder.with_name(f"{folder.name}.json"), LONG_AGO)


def digests(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in folder.rglob("*") if path.is_file()}


@contextmanager
def pull_held(proxy: FaultServer) -> Iterator[tuple[Manifest, Callable[[], Path]]]:
    """A pull that waits for the last of its files; gives the manifest, and what lets it go on and gives its folder."""
    manifest, reached, going_on = zoo.resolve(STUB).manifest, threading.Event(), threading.Event()

    def held(exchange: Exchange) -> None:
        if exchange.path.endswith(manifest.files[-1].sha256):
            reached.set()
            assert going_on.wait(60)
        well(exchange)

    def completed() -> Path:
        going_on.set()
        said, errors = pull.communicate(timeout=60)
        assert pull.returncode == 0, errors
        return Path(json.loads(said)["path"])

    proxy.always = held
    pull = start("pull", STUB)
    assert reached.wait(60)
    yield manifest, completed
    going_on.set()


def test_row_28_prune_during_a_pull_leaves_what_has_come(proxy: FaultServer) -> None:
    with pull_held(proxy) as (manifest, completed):
        folder = Cache(zoo.Settings.load().cache).model_folder(manifest)
        files = digests(folder)
        assert len(files) == len(manifest.files) - 1
        age(folder)
        assert prune() == []
        assert digests(folder) == files
        assert completed() == folder
    assert digests(folder) == {entry.path: entry.sha256 for entry in manifest.files}


def test_row_28_what_is_removed_during_a_pull_comes_again(proxy: FaultServer) -> None:
    with pull_held(proxy) as (manifest, completed):
        assert housekeeping.rm(STUB).freed_bytes > 0
        folder = completed()
    assert digests(folder) == {entry.path: entry.sha256 for entry in manifest.files}
    assert [item.path for item in housekeeping.ls()] == [folder]


def test_row_28_prune_during_serve_leaves_the_model_that_is_mapped(proxy: FaultServer, tmp_path: Path) -> None:
    folder = zoo.pull(STUB)
    endpoint = {"task": "question-answering", "model": STUB, "kwargs": {"engine_type": ENGINES[-1]}}
    with running(tmp_path, [endpoint]) as server:
        server.wait_until_ready()
        before = server.client.post("/predict", json=ASK).json()
        files = digests(folder)
        age(folder)
        assert prune() == []
        assert digests(folder) == files
        assert server.client.post("/predict", json=ASK).json() == before
    age(folder)
    assert len(prune()) == 1
    assert not folder.exists()
