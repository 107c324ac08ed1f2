"""Who may import whom: the rules of ARCHITECTURE.md, held by a walk over every import statement."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for package in ("zoo", "registry", "engine") for p in (ROOT / package).rglob("*.py"))

# Each heavy package, and the files that may import it.
HOMES = {
    "torch": ("zoo/train/", "zoo/export.py", "zoo/importing/unpickle.py"),
    "transformers": ("zoo/train/", "zoo/export.py"),
    "onnxscript": ("zoo/train/", "zoo/export.py"),
    "onnx": (
        "engine/onnx_reader.py",
        "engine/external_data.py",
        "engine/probe.py",
        "zoo/train/",
        "zoo/export.py",
        "zoo/importing/graph_weights.py",
    ),
    "sqlalchemy": ("registry/",),
    "alembic": ("registry/",),
    "fastapi": ("registry/", "engine/server/"),
    "uvicorn": ("registry/", "engine/server/"),
    "httpx": ("zoo/connection.py",),
    "httpx2": ("zoo/importing/",),
    "huggingface_hub": ("zoo/importing/hub.py",),
    "cffi": ("engine/library.py",),
    "typer": ("zoo/commands/", "engine/commands.py", "registry/commands/"),
}
REGISTRY_MAY_TAKE = {"zoo.stub", "zoo.manifest", "zoo.recipe", "zoo.schedule", "zoo.benchmark", "zoo.errors"}
ENGINE_TAKERS = ("engine/model_source.py", "engine/pipelines/", "engine/bench/", "engine/commands.py")
ENGINE_MAY_TAKE = {
    *("zoo.answers", "zoo.squad", "zoo.labelled", "zoo.tagged", "zoo.entities", "zoo.scores", "zoo.texts"),
    *("zoo.errors", "zoo.terminal", "zoo.Settings", "zoo.Stub", "zoo.pull"),
}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module in ("zoo", "engine"))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_are_sources() -> None:
    assert len(SOURCES) > 30


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_imports(path: Path) -> None:
    name, package = _name(path), _name(path).split("/")[0]
    for module in _imports(path):
        top = module.split(".")[0]
        assert top != "cli", f"{name} imports the command"
        if package == "zoo":
            assert top not in ("registry", "engine"), f"{name} imports {module}"
        if package == "registry":
            assert top != "engine", f"{name} imports {module}"
            printing = module == "zoo.terminal" and name.startswith("registry/commands/")
            assert top != "zoo" or printing or module in REGISTRY_MAY_TAKE, f"{name} imports {module}"
        if package == "engine":
            assert top != "registry", f"{name} imports {module}"
            if top == "zoo":
                assert name.startswith(ENGINE_TAKERS), name
                allowed = module == "zoo" or any(f"{module}.".startswith(f"{m}.") for m in ENGINE_MAY_TAKE)
                assert allowed, f"{name}: {module}"
        if top in HOMES:
            assert name.startswith(HOMES[top]), f"{name} imports {module}; its home is {HOMES[top]}"


def test_alembic_folder_is_no_package() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists()


def test_importing_the_packages_is_light() -> None:
    """Importing them loads nothing heavy and opens no socket."""
    program = (
        "import json, socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('a socket was opened')\n"
        "socket.socket.connect = refuse\n"
        "import zoo, registry, engine, cli\n"
        "print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "onnx", "sqlalchemy", "fastapi", "httpx", "numpy", "pydantic"}
    assert not heavy & set(json.loads(done.stdout))
