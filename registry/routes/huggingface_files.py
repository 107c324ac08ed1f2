"""A version's files as a Hugging Face repository holds them.

What was trained lies at the top, where `from_pretrained` looks: training/config.json is config.json. Everything else
keeps its path, deployment/model.onnx too, and so does a training file whose place at the top is taken.
The model card is README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from registry.schemas import FileView, VersionView
from zoo.manifest import Role

_TRAINING = f"{Role.TRAINING}/"
README = "README.md"


def repository_files(view: VersionView) -> Mapping[str, FileView]:
    """Every file of the version by its path in the repository, sorted."""
    placed = {file.path: file for file in view.files if not file.path.startswith(_TRAINING)}
    if README not in placed and "model.md" in placed:
        placed[README] = placed.pop("model.md")
    files = {path.lower() for path in placed}
    folders = {folder for path in files for folder in _folders(path)}
    for file in view.files:
        if file.path.startswith(_TRAINING):
            top = file.path.removeprefix(_TRAINING)
            is_taken = top.lower() in files | folders or not files.isdisjoint(_folders(top.lower()))
            placed[file.path if is_taken else top] = file
    return dict(sorted(placed.items()))


def _folders(path: str) -> set[str]:
    return {str(parent) for parent in PurePosixPath(path).parents} - {"."}
