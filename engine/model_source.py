"""Where a model comes from: a file, a folder, or a stub. The one place in which the engine asks `zoo`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import ModelError

if TYPE_CHECKING:
    from zoo import Stub

    Source = str | os.PathLike[str] | Stub

MODEL_NAME = "model.onnx"
_STUB_PREFIX = "zoo:"


def find_model(source: Source) -> Path:
    """The .onnx or .plan file that `source` names.

    `source` is that file, a folder that holds model.onnx (or has it in deployment/), or a `zoo:` stub, whose
    deployment files are fetched. Raises ModelError where nothing is there, and what `zoo.pull` raises.
    """
    if isinstance(source, str) and not source.startswith(_STUB_PREFIX):
        return _in_folder(Path(source))
    if isinstance(source, os.PathLike):
        return _in_folder(Path(source))
    from zoo import Stub, pull

    stub = source if isinstance(source, Stub) else Stub.parse(source)
    return _in_folder(pull(stub, "deployment"))


def plan_folder(model: Path) -> Path:
    """The cache's folder for plans of a model whose own folder can't be written. Raises SettingsError."""
    from zoo import Settings

    name = hashlib.sha256(os.fsencode(model)).hexdigest()[:32]
    return Settings.load().cache / "plans" / name


def _in_folder(path: Path) -> Path:
    for candidate in (path, path / MODEL_NAME, path / "deployment" / MODEL_NAME):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise ModelError(f"{path} holds no {MODEL_NAME}, nor does its deployment folder; run `zoo export` first")
    raise ModelError(f"{path} does not exist; give a model file, its folder, or a stub that starts with 'zoo:'")
