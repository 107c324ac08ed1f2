"""The command as a user meets it: exit codes, streams, JSON, speed of the help, the originals' names."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CLOSED = "http://127.0.0.1:9"


@pytest.fixture
def zoo_command(tmp_path: Path):
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("ZOO_", "HF_"))}
    environment = {**inherited, "ZOO_HOME": str(tmp_path / "home"), "ZOO_ENDPOINT": CLOSED, "HOME": str(tmp_path)}

    def run(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            env={**environment, **extra},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["pull", "zoo:A"], 2, "upper-case"),
        (["pull", "minilm"], 2, "starts with 'zoo:'"),
        (["pull", "zoo:a-b"], 6, "can't be reached"),
        (["show", "zoo:a-b"], 6, "zoo registry serve"),
        (["nonsense"], 2, "No such command"),
        (["search", "--sparsty-min", "1"], 2, "--sparsity-min"),
        (["search", "--sparsity-min", "2"], 2, "--sparsity-min"),
        (["recipe", "show", "absent.yaml"], 2, "absent.yaml"),
        (["yank", "zoo:a@v1", "--reason", "--undo"], 2, "--reason needs a value"),
        (["registry", "export", "site", "--database-url", "--static"], 2, "--database-url needs a value"),
        (["run", "absent", "-q", "-c", "c"], 2, "-q needs a value"),
        (["pull", "zoo:a-b", "--role", "--help"], 2, "--role needs a value"),
        (["serve"], 2, "--model_path"),
        (["run", "absent", "-q", "q", "-c", "c"], 1, "absent"),
        (["benchmark", "absent"], 1, "absent"),
        (["publish", "absent", "zoo:a-b"], 1, "absent"),
        (["registry", "serve", "--database-url", "mysql://x"], 1, "database_url"),
    ],
)
def test_wrong_input_says_what_and_exits(zoo_command, arguments: list[str], code: int, said: str) -> None:
    done = zoo_command(*arguments)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["auth", "whoami"],
        ["search"],
        ["search", "--best-for", "this-cpu"],
        ["lineage", "zoo:a"],
        ["tag", "zoo:a@v1", "prod"],
        ["yank", "zoo:a@v1", "--undo"],
        ["delete", "zoo:a@v1", "--reason", "wrong"],
    ],
    ids=" ".join,
)
def test_offline_no_command_asks_the_registry(zoo_command, arguments: list[str]) -> None:
    done = zoo_command(*arguments, ZOO_OFFLINE="1")
    assert (done.returncode, done.stdout) == (6, "")
    assert "while offline; the variable ZOO_OFFLINE says so" in done.stderr
    assert "serve" not in done.stderr


@pytest.mark.parametrize("arguments", [["pull", "zoo:A"], ["nonsense"], ["pull", "zoo:a-b"]])
def test_an_error_is_one_json_object(zoo_command, arguments: list[str]) -> None:
    done = zoo_command(*arguments, "--json")
    error = json.loads(done.stderr)["error"]
    assert error["exit_code"] == done.returncode
    assert error["message"]


@pytest.mark.parametrize(("name", "said"), [("file", "is a file"), ("folder", "isn't empty")])
def test_a_download_looks_at_its_target_first(zoo_command, tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    done = zoo_command("legacy-download", "zoo:a-b", "--save-dir", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{name} {said}; give another folder to --save-dir" in done.stderr


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_in_the_place_of_a_folder_is_named(zoo_command, tmp_path: Path, below: str) -> None:
    path = tmp_path / "file" / below
    (tmp_path / "file").write_text("mine")
    demo = zoo_command("demo", "--folder", str(path))
    assert (demo.returncode, demo.stdout) == (1, "")
    assert f"{tmp_path / 'file'} is a file; name another folder with --folder" in demo.stderr
    cache = zoo_command("ls", ZOO_CACHE=str(path))
    assert (cache.returncode, cache.stdout) == (1, "")
    assert f"{tmp_path / 'file'} is a file; set ZOO_CACHE to a folder" in cache.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_data_goes_to_stdout_alone(zoo_command) -> None:
    done = zoo_command("version", "--json")
    assert set(json.loads(done.stdout)) == {"version"}
    assert done.stderr == ""


def test_a_closed_pipe_is_no_error(zoo_command) -> None:
    recipe = ROOT / "zoo/recipes/question-answering-dense.md"
    with subprocess.Popen(
        [sys.executable, "-m", "cli", "recipe", "show", str(recipe)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
        assert process.wait(30) in (0, 141)


@pytest.mark.parametrize("command", [[], ["pull"], ["recipe", "plan"], ["registry", "serve"], ["serve"], ["publish"]])
def test_help_has_a_line_for_everything(zoo_command, command: list[str]) -> None:
    done = zoo_command(*command, "--help")
    assert done.returncode == 0
    assert "Usage: zoo" in done.stdout


def test_help_is_quick() -> None:
    """Processor time, since others may use the machine; 0.3 s is the budget."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(3):
        subprocess.run([sys.executable, "-m", "cli", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / 3 < 0.3


def test_the_originals_command_names_are_installed() -> None:
    names = {point.name for point in entry_points(group="console_scripts") if point.value.startswith("cli:")}
    assert names == {
        "zoo",
        "sparseml.transformers.train.question_answering",
        "sparseml.transformers.train.text_classification",
        "sparseml.transformers.train.token_classification",
        "sparseml.transformers.question_answering",
        "sparseml.transformers.text_classification",
        "sparseml.transformers.token_classification",
        "sparseml.transformers.export_onnx",
        "deepsparse.server",
        "deepsparse.benchmark",
        "sparsezoo.download",
    }
    for name in names:
        assert shutil.which(name, path=str(Path(sys.executable).parent))


def test_the_cache_lists_and_prunes_plans(zoo_command, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "plans" / "0123"
    folder.mkdir(parents=True)
    (folder / "model.onnx.scalar.plan").write_bytes(bytes(1000))
    (folder / "model.onnx.json").write_text('{"model": "/models/model.onnx", "files": {}}')
    cache = str(tmp_path / "cache")
    listed = zoo_command("cache", "ls", ZOO_CACHE=cache)
    assert "plan of /models/model.onnx  1,000 bytes" in listed.stdout
    (found,) = json.loads(zoo_command("--json", "cache", "ls", ZOO_CACHE=cache).stdout)
    assert found["size_bytes"] == 1000
    pruned = zoo_command("--json", "cache", "prune", "--max-age-days", "0", ZOO_CACHE=cache)
    assert json.loads(pruned.stdout)["freed_bytes"] == 1000
    assert not folder.exists()
