"""Which files of a folder belong to a model, and in which role.

    training/**  deployment/**  sample-inputs/**  sample-outputs*/**      the role of that name; samples may also lie
                                                                          within deployment/
    recipe*.md|yaml|yml     recipe          model.md, README.md           card
    benchmark*.yaml|json    benchmark       metrics|eval|eval_results|report.json|yaml   metrics

A flat Hugging Face folder is understood too: weights, configuration, tokenizer and recipe.yaml at its top become
training/, an ONNX file with configuration and tokenizer becomes deployment/. What fits nowhere is left out, and
reported with the reason. Links are refused, for they could lead out of the folder; pickles, because loading one can
run code.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

from zoo.card import read_metadata
from zoo.errors import ManifestError, ZooError
from zoo.manifest import Metadata, Role, check_path
from zoo.stub import Stub

_FOLDERS = {
    "training": Role.TRAINING,
    "deployment": Role.DEPLOYMENT,
    "sample-inputs": Role.SAMPLE_INPUTS,
    "sample-outputs": Role.SAMPLE_OUTPUTS,
    "sample-outputs_onnxruntime": Role.SAMPLE_OUTPUTS,
    "sample-outputs_deepsparse": Role.SAMPLE_OUTPUTS,
}
_TOP_FILES = (
    (re.compile(r"recipe[^/]*\.(md|yaml|yml)\Z"), Role.RECIPE),
    (re.compile(r"(model|README)\.md\Z"), Role.CARD),
    (re.compile(r"benchmark[^/]*\.(yaml|yml|json)\Z"), Role.BENCHMARK),
    (re.compile(r"(metrics|eval|eval_results|report)\.(yaml|yml|json)\Z"), Role.METRICS),
)
_WEIGHTS = re.compile(r"[^/]+\.safetensors(\.index\.json)?\Z")
_ONNX = re.compile(r"[^/]+\.onnx([._]data)?\Z|model\.data\Z")
_TRAINED_BY = "recipe.yaml"
_COMPANIONS = re.compile(
    r"(config|generation_config|preprocessor_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens"
    r"|vocab|trainer_state)\.json\Z|(vocab|merges)\.txt\Z|(spiece|tokenizer|sentencepiece[^/]*)\.model\Z"
    r"|chat_template\.jinja\Z"
)
_TRAINER_STATE = re.compile(r"(optimizer|scheduler|scaler|rng_state[^/]*)\.(pt|pth|bin)\Z|training_args\.bin\Z")
_PICKLE = re.compile(r"[^/]+\.(bin|pt|pth|pkl|pickle|ckpt|joblib)\Z")
_LOG = re.compile(r"[^/]+\.log\Z|events\.out\.tfevents[^/]*\Z")


@dataclass(frozen=True)
class LocalFile:
    """A file on this disk and its place in the model."""

    source: Path
    path: str
    role: Role


@dataclass(frozen=True)
class LeftOut:
    """A file that isn't published, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Layout:
    """What a folder holds for publishing; both lists are sorted by path."""

    files: tuple[LocalFile, ...]
    left_out: tuple[LeftOut, ...]
    metadata: Metadata


def read_layout(folder: Path, stub: Stub) -> Layout:
    """Assigns a role to each file of a folder and gathers what is known of the model.

    Raises `ZooError` for a folder that can't be published (absent, unreadable, links, only pickled weights, nothing
    in it) and `ManifestError` for a path or metadata that no manifest may hold.
    """
    if not folder.is_dir():
        raise ZooError(f"{folder} is no folder; publish takes the folder that holds training/, deployment/ or both")
    try:
        return _read(folder, stub)
    except OSError as error:
        raise ZooError(f"{error.filename} can't be read: {error.strerror}; run: chmod -R u+rX {folder}") from error


def _read(folder: Path, stub: Stub) -> Layout:
    names = list(_walk(folder))
    flat_roles = _flat_roles(names)
    files: list[LocalFile] = []
    left_out: list[LeftOut] = []
    for name in names:
        reason = _reason_against(folder, name)
        roles = () if reason else tuple(_roles_of(name, flat_roles))
        if not roles:
            left_out.append(LeftOut(name, reason or "not a file of a model folder"))
        files += [LocalFile(folder / name, _checked(path), role) for path, role in roles]
    _refuse_lost_weights(files, left_out)
    if not files:
        raise ZooError(f"{folder} has nothing to publish: no training/, deployment/, recipe.md, model.md, ...")
    return Layout(tuple(sorted(files, key=lambda f: f.path)), tuple(left_out), read_metadata(folder, stub))


def _walk(folder: Path) -> Iterator[str]:
    """Relative paths of all files, sorted; a folder that is left out whole stands for its files, with a slash."""
    for top, folders, files in os.walk(folder, onerror=_raise):
        base = Path(top).relative_to(folder)
        folders.sort()
        for name in list(folders):
            path = (base / name).as_posix()
            if (folder / path).is_symlink() or _reason_against_part(name):
                folders.remove(name)
                yield path + "/"
        yield from ((base / name).as_posix() for name in sorted(files))


def _raise(error: OSError) -> NoReturn:
    raise error


def _reason_against(folder: Path, name: str) -> str | None:
    path = PurePosixPath(name)
    against_part = _reason_against_part(path.name)
    if against_part:
        return against_part
    mode = (folder / name.rstrip("/")).lstat().st_mode
    if stat.S_ISLNK(mode):
        raise ZooError(f"{folder / name} is a link, which is not published; make a real copy with `cp -rL` first")
    if not stat.S_ISREG(mode):
        return "not a regular file"
    if _TRAINER_STATE.match(path.name):
        return "the trainer's state, which a finished model doesn't need"
    if _PICKLE.match(path.name):
        return "a pickle, which can run code when it is loaded; save the weights as safetensors"
    return "a log" if _LOG.match(path.name) else None


def _reason_against_part(name: str) -> str | None:
    if name.startswith("."):
        return "hidden"
    if re.match(r"checkpoint-\d+\Z", name):
        return "a checkpoint of a training run"
    return "logs" if name in ("runs", "logs") else "compiled code" if name == "__pycache__" else None


def _flat_roles(names: list[str]) -> tuple[Role, ...]:
    """The roles that files at the folder's top have for lack of a sub-folder."""
    folders = {name.partition("/")[0] for name in names if "/" in name}
    roles = []
    if "training" not in folders and any(_WEIGHTS.match(name) for name in names):
        roles.append(Role.TRAINING)
    if "deployment" not in folders and any(_ONNX.match(name) for name in names):
        roles.append(Role.DEPLOYMENT)
    return tuple(roles)


def _roles_of(name: str, flat_roles: tuple[Role, ...]) -> Iterator[tuple[str, Role]]:
    """Path and role in the model; a flat folder's configuration and tokenizer belong to training and deployment."""
    top, slash, rest = name.partition("/")
    if slash:
        samples = _FOLDERS.get(rest.partition("/")[0]) if top == Role.DEPLOYMENT else None
        if top in _FOLDERS:
            yield name, samples or _FOLDERS[top]
        return
    yield from [(name, role) for pattern, role in _TOP_FILES if pattern.match(name)]
    for role in flat_roles:
        own = _WEIGHTS if role is Role.TRAINING else _ONNX
        # a quantized checkpoint can be loaded only with the recipe that made it
        if own.match(name) or _COMPANIONS.match(name) or (role is Role.TRAINING and name == _TRAINED_BY):
            yield f"{role}/{name}", role


def _checked(path: str) -> str:
    try:
        return check_path(path)
    except ValueError as error:
        raise ManifestError(f"{path!a} can't be published under that name: {error}") from None


def _refuse_lost_weights(files: list[LocalFile], left_out: list[LeftOut]) -> None:
    pickled = [item.path for item in left_out if item.reason.startswith("a pickle")]
    if pickled and not any(file.path.endswith((".safetensors", ".onnx")) for file in files):
        raise ZooError(
            f"the weights {', '.join(pickled[:3])} are pickles, which can run code when they are loaded; save them "
            "as safetensors (transformers: model.save_pretrained does) and publish again"
        )
