"""What a folder tells of its model.

First the stub's segments, over them the measured report, over both the card, which has the last word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zoo.errors import ManifestError, RecipeError
from zoo.manifest import Metadata
from zoo.recipe_reader import Node, read_yaml
from zoo.stub import Stub

MAX_TEXT_BYTES = 1 << 20
SPARSITY_DIGITS = 4  # a mask of 80 % drops whole weights or blocks, so it has 79.9999 %: who asks for 0.8 means it
_CARDS = ("model.md", "README.md")
_REPORTS = ("report.json", "training/report.json")
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_OTHER_NAMES = (("task", "sub_domain"), ("task", "pipeline_tag"), ("dataset", "datasets"), ("base", "base_model"))
_NO_METRIC = {"runtime", "samples"}
_PLAIN = ("pattern", "quantized", "parameters", "base", "teacher", "recipe", "data_fingerprint")


def read_metadata(folder: Path, stub: Stub) -> Metadata:
    """Gathers metadata from a folder that is to be published; raises `ManifestError` naming file and field."""
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
    """From the trainer's report: metrics, and the sparsity of the pruned weights together."""
    path = next((folder / name for name in _REPORTS if (folder / name).is_file()), None)
    if path is None:
        return {}
    try:
        document = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path} is no JSON file: {error}") from None
    report = document if isinstance(document, dict) else {}
    fields = {key: report[key] for key in _PLAIN if report.get(key) is not None}
    metrics = {name.removeprefix("eval_"): value for name, value in _mapping(report.get("metrics")).items()}
    fields["metrics"] = {name: value for name, value in metrics.items() if _is_number(value) and name not in _NO_METRIC}
    if _is_number(report.get("sparsity")):
        fields["sparsity"] = report["sparsity"]
    fields |= _of_layers([_mapping(facts) for facts in _mapping(report.get("sparsity")).values()])
    linear = _mapping(_mapping(report.get("quantization")).get("linear"))
    return fields | ({"quantized": linear["quantized"] > 0} if _is_number(linear.get("quantized")) else {})


def _of_layers(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One sparsity for all pruned weights, by their elements, and their pattern if they share one."""
    pruned = [facts for facts in layers if _is_number(facts.get("sparsity")) and _is_number(facts.get("elements"))]
    elements = sum(facts["elements"] for facts in pruned)
    if not elements:
        return {}
    sparsity = sum(facts["sparsity"] * facts["elements"] for facts in pruned) / elements
    patterns = {str(facts["mask_type"]) for facts in pruned if facts.get("mask_type")}
    return {"sparsity": round(sparsity, SPARSITY_DIGITS), **({"pattern": patterns.pop()} if len(patterns) == 1 else {})}


def _from_card(folder: Path) -> dict[str, Any]:
    """The card's fields under our names; those of Hugging Face cards are read where ours are absent."""
    path = next((folder / name for name in _CARDS if (folder / name).is_file()), None)
    front = read_front_matter(path) if path else {}
    fields = {key: front[key] for key in Metadata.model_fields if front.get(key) is not None}
    for ours, theirs in _OTHER_NAMES:
        if front.get(theirs) is not None:
            fields.setdefault(ours, front[theirs])
    for key in ("dataset", "license", "base"):
        if isinstance(fields.get(key), list):
            fields[key] = ", ".join(str(item) for item in fields[key])
    if not isinstance(fields.get("metrics"), dict):
        fields.pop("metrics", None)  # a hub's card lists their names there, without values
    if not Stub.is_stub(str(fields.get("base", ""))):
        fields.pop("base", None)  # a name on another hub, which no registry of ours can resolve
    return fields


def read_front_matter(path: Path) -> Mapping[str, Any]:
    """The fields at the top of a Markdown file, none if it has no front matter; raises `ManifestError`."""
    match = _FRONT_MATTER.match(_text(path))
    if not match:
        return {}
    try:
        return _mapping(_plain(read_yaml(match[1].replace("\r\n", "\n"))))
    except RecipeError as error:
        raise ManifestError(f"the front matter of {path} can't be read: {error}") from None


def _plain(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: _plain(child) for key, child in node.value.items()}
    return [_plain(child) for child in node.value] if isinstance(node.value, list) else node.value


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(path: Path) -> str:
    with path.open("rb") as stream:
        data = stream.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise ManifestError(f"{path} is larger than {MAX_TEXT_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is no UTF-8 text: {error.reason} at byte {error.start}") from None
