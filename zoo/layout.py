"""Which files of a folder belong to a model, and in which role.

    training/**  deployment/**  sample-inputs/**  sample-outputs*/**      the role of that name
    recipe*.md|yaml|yml     recipe          model.md, README.md           card
    benchmark*.yaml|json    benchmark       metrics|eval|eval_results|report.json|yaml   metrics

A flat Hugging Face folder is understood too: weights, configuration and tokenizer at its top become training/, an
ONNX file with configuration and tokenizer becomes deployment/. What fits nowhere is left out, and reported with the
reason. Links are refused, for they could lead out of the folder; pickles, because loading one can run code.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from zoo.errors import ManifestError, ZooError
from zoo.manifest import Metadata, Role, check_path
from zoo.stub import Stub

MAX_TEXT_BYTES = 1 << 20

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


@dataclass(frozen=True)
class Layout:
    """What a folder holds for publishing; both lists are sorted by path."""

    files: tuple[LocalFile, ...]
    left_out: tuple[LeftOut, ...]
    metadata: Metadata


def read_layout(folder: Path, stub: Stub) -> Layout:
    """Assigns a role to each file of a folder and gathers what is known of the model.

    Raises `ZooError` for a folder that can't be published (absent, links, only pickled weights, nothing in it) and
    `ManifestError` for a path or metadata that no manifest may hold.
    """
    if not folder.is_dir():
        raise ZooError(f"{folder} is no folder; publish takes the folder that holds training/, deployment/ or both")
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
    return Layout(tuple(sorted(files, key=lambda f: f.path)), tuple(left_out), _metadata(folder, stub))


def _walk(folder: Path) -> Iterator[str]:
    """Relative paths of all files, sorted; a folder that is left out whole stands for its files, with a slash."""
    for top, folders, files in os.walk(folder):
        base = Path(top).relative_to(folder)
        folders.sort()
        for name in list(folders):
            path = (base / name).as_posix()
            if (folder / path).is_symlink() or _reason_against_part(name):
                folders.remove(name)
                yield path + "/"
        yield from ((base / name).as_posix() for name in sorted(files))


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
    top, slash, _ = name.partition("/")
    if slash:
        if top in _FOLDERS:
            yield name, _FOLDERS[top]
        return
    for pattern, role in _TOP_FILES:
        if pattern.match(name):
            yield name, role
            return
    for role in flat_roles:
        own = _WEIGHTS if role is Role.TRAINING else _ONNX
        if own.match(name) or _COMPANIONS.match(name):
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


def _metadata(folder: Path, stub: Stub) -> Metadata:
    """From the stub's segments, then the measured report, then the card, which has the last word."""
    fields = {**_from_stub(stub), **_from_report(folder), **_from_card(folder)}
    try:
        return Metadata.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ManifestError(f"the metadata of {folder} is wrong at {where}: {first['msg']}") from None


def _from_stub(stub: Stub) -> dict[str, Any]:
    if not stub.is_long:
        return {}
    domain, task, model, framework, repo, dataset, _ = stub.name.split("/")
    architecture, _, sub_architecture = model.partition("-")
    fields = {"domain": domain, "task": task, "architecture": architecture, "framework": framework, "repo": repo}
    fields["dataset"] = dataset.partition("-")[0]
    return {**fields, "sub_architecture": sub_architecture} if sub_architecture else fields


def _from_report(folder: Path) -> dict[str, Any]:
    for name in ("report.json", "training/report.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            document = json.loads(_text(path))
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{path} is no JSON file: {error}") from None
        known = ("sparsity", "pattern", "quantized", "parameters", "base", "teacher", "recipe", "metrics")
        fields = document if isinstance(document, dict) else {}
        return {key: fields[key] for key in known if fields.get(key) is not None}
    return {}


def _from_card(folder: Path) -> dict[str, Any]:
    for name in ("model.md", "README.md"):
        path = folder / name
        if path.is_file():
            return _known_fields(_front_matter(path))
    return {}


def _front_matter(path: Path) -> Mapping[str, Any]:
    match = re.match(r"---[ \t]*\r?\n(.*?)^---[ \t]*$", _text(path), re.DOTALL | re.MULTILINE)
    if not match:
        return {}
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        document = YAML(typ="safe", pure=True).load(match[1])
    except (YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(f"the front matter of {path} is no YAML: {' '.join(str(error).split())[:300]}") from None
    return document if isinstance(document, dict) else {}


def _known_fields(front: Mapping[str, Any]) -> dict[str, Any]:
    """The card's fields under our names; those of Hugging Face cards are read where ours are absent."""
    fields = {key: front[key] for key in Metadata.model_fields if front.get(key) is not None}
    for ours, theirs in (
        ("task", "sub_domain"),
        ("task", "pipeline_tag"),
        ("dataset", "datasets"),
        ("base", "base_model"),
    ):
        if ours not in fields and front.get(theirs) is not None:
            fields[ours] = front[theirs]
    for key, value in list(fields.items()):
        if key in ("dataset", "license", "base") and isinstance(value, list):
            fields[key] = ", ".join(str(item) for item in value)
    if not Stub.is_stub(str(fields.get("base", "zoo:"))):
        del fields["base"]
    return fields


def _text(path: Path) -> str:
    with path.open("rb") as stream:
        data = stream.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise ManifestError(f"{path} is larger than {MAX_TEXT_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is no UTF-8 text: {error.reason} at byte {error.start}") from None
