"""Other people's clients, unmodified, each in a virtual environment of its own where it needs old dependencies."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sparrow-tests"
OLD_PYTHON = "3.11"  # the newest that deepsparse 1.8.0 has a wheel for
ORIGINALS = ("deepsparse==1.8.0", "sparsezoo==1.8.1", "onnxruntime==1.20.1", "protobuf<5")


def _old_python() -> str:
    if sys.version_info[:2] == tuple(int(part) for part in OLD_PYTHON.split(".")):
        return sys.executable
    found = shutil.which(f"python{OLD_PYTHON}")
    if found is None:
        pytest.skip(f"deepsparse 1.8.0 needs Python {OLD_PYTHON}; there is no python{OLD_PYTHON}")
    return found


def _environment(python: str, requirements: tuple[str, ...]) -> Path:
    """The folder of a virtual environment with these packages: made once, then kept for later runs."""
    key = hashlib.sha256("\n".join((python, *requirements)).encode()).hexdigest()[:16]
    folder = CACHE / key
    complete = folder / ".complete"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([python, "-m", "venv", folder], check=True)
            pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *requirements], check=True, timeout=280)
            complete.touch()
    return folder


@pytest.fixture(scope="session")
def originals() -> Path:
    """The bin/ folder of an environment with sparsezoo 1.8.1 and deepsparse 1.8.0."""
    return _environment(_old_python(), ORIGINALS) / "bin"
