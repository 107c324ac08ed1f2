"""`zoo yank`, `delete`, `lineage` and `benchmark --publish`: the command against a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry import admin
from registry.settings import Settings
from tests.engine.tiny_models import question_answering_model
from tests.registry.builders import Folder, small
from tests.zoo.live_registry import serving
from zoo.benchmark import this_hardware

ROOT = Path(__file__).parents[2]
REASON = "wrong tokenizer; use v1"
MEASURED = "zoo:nlp/question_answering/b/p/h/squad/base-none"
Command = Callable[..., Any]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A registry with two versions of a model, and one that was made from it."""
    with serving(tmp_path / "registry") as url:
        with httpx.Client(base_url=url) as client:
            for text in ("one", "two"):
                assert small(text=text).publish(client).status_code == 201
            made = {"base": "zoo:tiny@v1", "teacher": "zoo:absent"}
            child = Folder("zoo:child", {"recipe.md": ("recipe", b"modifiers: []\n")}, metadata=made)
            assert child.publish(client).status_code == 201
        yield url


@pytest.fixture
def zoo(registry: str, tmp_path: Path) -> Command:
    """Runs the command; gives its JSON document, or what it says on standard error where it must fail."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("ZOO_")}
    environment = {**inherited, "ZOO_HOME": str(tmp_path / "home"), "ZOO_ENDPOINT": registry}

    def run(*arguments: str, code: int = 0, plain: bool = False, token: str = "") -> Any:
        flags = [] if plain else ["--json"]
        command = [sys.executable, "cli.py", *flags, *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env={**environment, "ZOO_TOKEN": token}, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        if code:
            assert done.stdout == ""
            return done.stderr
        return done.stdout if plain else json.loads(done.stdout)

    return run


def test_a_yanked_version_is_passed_over_and_comes_back(zoo: Command) -> None:
    assert zoo("yank", "zoo:tiny@v2", "--reason", REASON)["yank_reason"] == REASON
    assert zoo("show", "zoo:tiny")["version"] == 1
    assert zoo("show", "zoo:tiny@v2")["yank_reason"] == REASON
    assert zoo("yank", "zoo:tiny@v2", "--undo", plain=True) == "zoo:tiny@v2 is back\n"
    assert zoo("show", "zoo:tiny")["version"] == 2


def test_a_download_of_ones_own_can_be_changed(zoo: Command, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    folder = Path(zoo("legacy-download", "zoo:tiny", "--save-dir", str(tmp_path / "own"))["path"])
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert folder == tmp_path / "own"
    assert files
    assert all(path.stat().st_mode & 0o200 for path in files)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["yank", "zoo:tiny@v2"], 2, "either --reason or --undo"),
        (["yank", "zoo:tiny@v2", "--reason", "a", "--undo"], 2, "either --reason or --undo"),
        (["yank", "zoo:tiny", "--reason", "a"], 1, "say which version"),
        (["yank", "zoo:tiny@v9", "--reason", "a"], 3, "has no v9; it has v2, v1"),
        (["yank", "zoo:nobody@v1", "--reason", "a"], 3, "no model zoo:nobody"),
        (["delete", "zoo:tiny@v2"], 2, "reason"),
        (["delete", "zoo:tiny@v1", "--reason", "a"], 1, "zoo:child@v1 were made from"),
        (["delete", "zoo:tiny", "--reason", "a"], 1, "say which version"),
        (["lineage", "zoo:nobody"], 3, "no model zoo:nobody"),
    ],
)
def test_what_can_t_be_done_is_said_and_changes_nothing(
    zoo: Command, arguments: list[str], code: int, said: str
) -> None:
    assert said in zoo(*arguments, code=code)
    assert zoo("show", "zoo:tiny")["version"] == 2
    assert "yank_reason" not in zoo("show", "zoo:tiny@v1")


def test_a_deleted_version_is_gone_and_says_why(zoo: Command) -> None:
    assert zoo("delete", "zoo:tiny@v2", "--reason", REASON) == {"stub": "zoo:tiny@v2", "reason": REASON}
    assert REASON in zoo("show", "zoo:tiny@v2", code=3)
    assert zoo("show", "zoo:tiny")["version"] == 1
    assert REASON in zoo("delete", "zoo:tiny@v2", "--reason", "again", code=3)
    zoo("delete", "zoo:tiny@v1", "--reason", REASON, "--force")
    assert "has no latest" in zoo("show", "zoo:tiny", code=3)


def test_lineage_goes_both_ways(zoo: Command) -> None:
    up = zoo("lineage", "zoo:child", plain=True)
    assert "base     zoo:tiny@v1\n" in up
    assert "teacher  zoo:absent\n" in up
    assert zoo("lineage", "zoo:tiny@v1", plain=True) == "zoo:child@v1  made from it (base)\n"
    assert zoo("lineage", "zoo:tiny@v1")["used_by"][0]["stub"] == "zoo:child@v1"
    assert zoo("lineage", "zoo:tiny@v2", plain=True) == "nothing is recorded\n"


def test_without_a_token_none_of_it_is_done_where_one_is_needed(zoo: Command, tmp_path: Path) -> None:
    admin.create_token(Settings(storage=tmp_path / "registry"), "somebody")
    for arguments in (["yank", "zoo:tiny@v2", "--reason", "a"], ["delete", "zoo:tiny@v2", "--reason", "a"]):
        assert "zoo auth login" in zoo(*arguments, code=5)
    assert zoo("lineage", "zoo:child")["made_from"]


def test_a_token_that_only_reads_is_named(zoo: Command, tmp_path: Path) -> None:
    settings = Settings(storage=tmp_path / "registry")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.md").write_text("# A model\n")
    token = admin.create_token(settings, "reader", scopes=["read:*"])
    said = zoo("publish", str(tmp_path / "model"), "zoo:new", code=5, token=token)
    assert "no files from the token 'reader', which only reads" in said
    assert "scopes    read:*\n" in zoo("auth", "whoami", plain=True, token=token)
    assert "nobody: no token is set" in zoo("auth", "whoami", plain=True)


def test_a_private_name_that_is_not_seen_gets_a_hint(zoo: Command) -> None:
    assert "only for a token that covers it" in zoo("show", "zoo:@acme/secret", code=3)


def test_a_benchmark_is_added_to_the_version_that_was_measured(zoo: Command, registry: str, tmp_path: Path) -> None:
    question_answering_model(tmp_path / "model")
    stub = f"{MEASURED}@v1"
    zoo("publish", str(tmp_path / "model"), MEASURED)
    short = ("--sequence_length", "16", "--time", "0.1", "--warmup_time", "0", "--num_cores", "1")
    said = zoo("benchmark", stub, *short, "--publish", plain=True)
    assert f"published for {stub} on {this_hardware().cpu}" in said
    (kept,) = httpx.get(f"{registry}/api/v1/benchmarks", params={"stub": stub}).json()["items"]
    record = kept["record"]
    assert (record["hardware"]["cpu"], record["threads"], record["batch_size"]) == (this_hardware().cpu, 1, 1)
    assert record["sequence_length"] == 16
    assert record["median_ms"] > 0
    best = zoo("search", "--best-for", "this-cpu")["items"]
    assert [item["name"] for item in best] == [MEASURED]
    assert len(zoo("benchmark", stub, *short, "--publish")["benchmark_result"]) > 5
    assert len(httpx.get(f"{registry}/api/v1/benchmarks", params={"stub": stub}).json()["items"]) == 2


def test_a_search_goes_on_where_the_last_page_ended(zoo: Command) -> None:
    first = zoo("search", "--limit", "1")
    assert zoo("search", "--limit", "1", plain=True).startswith(first["items"][0]["name"])
    rest = zoo("search", "--cursor", first["next_cursor"])
    assert {item["name"] for page in (first, rest) for item in page["items"]} == {"zoo:tiny", "zoo:child"}
    assert len(rest["items"]) == 1


def test_the_best_model_is_not_narrowed_by_what_would_be_ignored(zoo: Command) -> None:
    said = zoo("search", "words", "--best-for", "this-cpu", "--license", "MIT", plain=True, code=2)
    assert "can't be narrowed by text, license" in said


def test_a_stub_is_text_in_json(zoo: Command, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.md").write_text("# A model\n")
    assert zoo("publish", str(tmp_path / "model"), "zoo:new")["stub"] == "zoo:new@v1"
    assert zoo("publish", str(tmp_path / "model"), "zoo:new", plain=True) == "zoo:new@v1  (was there already)\n"


@pytest.mark.parametrize("arguments", [["folder"], ["zoo:tiny", "--compare", "onnxruntime"]])
def test_a_benchmark_is_published_for_a_stub_alone(zoo: Command, arguments: list[str]) -> None:
    assert "needs a zoo: stub" in zoo("benchmark", *arguments, "--publish", code=2)
