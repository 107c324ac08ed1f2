"""Pickled weights become safetensors in a process of their own, without network."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from zoo.errors import ManifestError, ZooError

TIMEOUT_S = 900
_PROGRAM = Path(__file__).with_name("unpickle.py")
_NO_ISOLATION = 3


class PickleError(ManifestError):
    """A pickle was refused: it holds more than tensors, or may not be opened here."""


def refuse(names: Sequence[str]) -> PickleError:
    """The refusal of weights that only a pickle holds."""
    return PickleError(
        f"the weights {', '.join(names[:3])} are pickles, which can run code when they are loaded; "
        "--convert-pickles reads them in a process without network, and takes tensors alone"
    )


def convert(sources: Sequence[Path], target: Path) -> None:
    """Writes the tensors of pickles into one safetensors file; raises `PickleError`, or `ZooError` for a time-out."""
    command = [sys.executable, "-I", str(_PROGRAM), str(target.absolute()), *(str(path.resolve()) for path in sources)]
    env = {"PATH": os.environ.get("PATH", os.defpath), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ZooError(f"converting {sources[0].name} took more than {TIMEOUT_S} s") from None
    if done.returncode == 0:
        return
    reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
    if done.returncode == _NO_ISOLATION:
        raise PickleError(f"{reason}; convert the model elsewhere: transformers' save_pretrained writes safetensors")
    raise PickleError(f"{', '.join(path.name for path in sources)} can't be read as tensors alone: {reason}")
