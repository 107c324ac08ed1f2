"""From what an import found to a folder that `zoo publish` takes: files, recipe, card, report; whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo.card import SPARSITY_DIGITS, read_front_matter
from zoo.disk import clone_or_copy
from zoo.errors import ManifestError, ZooError
from zoo.importing.graph_weights import measure_graph
from zoo.importing.naming import Naming, propose
from zoo.importing.pickles import convert, refuse
from zoo.importing.source import Source
from zoo.importing.weights import Counting, Measured, measure
from zoo.modifiers import ConstantPruningModifier, EpochRangeModifier, LearningRateFunctionModifier
from zoo.recipe_writer import write_yaml

EPOCHS, LEARNING_RATE = 3.0, 3e-5
_MAX_CONFIG_BYTES = 1 << 20
_MAX_CARD_BYTES = 1 << 20
_KEPT = ("license", "license_name", "license_link", "language", "description", "domain", "sub_domain", "task", "base")
_LINEAGE = ("teacher", "recipe", "data_fingerprint")  # in another's card these may be anything
_NAME = re.compile(r"[A-Za-z0-9_.]+")
_FRONT = re.compile(r"\s*---[ \t]*\r?\n.*?^---[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Imported:
    """A folder ready to publish, and what was found out about the model."""

    folder: Path
    origin: str
    naming: Naming
    license: str | None
    measured: Measured
    notes: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """Everything found, in plain JSON types."""
        return {
            "folder": str(self.folder),
            "origin": self.origin,
            "stub": str(self.naming.stub),
            "alias": str(self.naming.alias),
            "license": self.license,
            "sparsity": self.measured.sparsity,
            "pattern": self.measured.pattern,
            "quantized": self.measured.is_quantized,
            "layers": {name: asdict(layer) for name, layer in self.measured.layers.items()},
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        found = self.measured
        sparse = f"{100 * found.sparsity:.1f} % zeros ({found.pattern}) in {len(found.sparse)} weights"
        rows = [
            f"  {100 * layer.sparsity:5.1f} %  {layer.pattern or 'dense':<12}  {name}"
            for name, layer in found.layers.items()
        ]
        return "\n".join(
            [
                *rows,
                f"folder   {self.folder}",
                f"licence  {self.license or 'unknown'}",
                f"weights  {sparse if found.pattern else 'dense'}{', quantized' if found.is_quantized else ''}",
                f"publish  zoo publish {self.folder} {self.naming.stub} --alias {self.naming.alias}",
            ]
        )


def write_folder(source: Source, target: Path, *, convert_pickles: bool, counting: Counting) -> Imported:
    """Writes the model folder; raises `PickleError` where weights are pickles and may not be converted."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ZooError(f"{target} is there already; name another folder with --out")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        imported = _fill(source, staging, convert_pickles=convert_pickles, counting=counting)
        staging.chmod(0o755)
        staging.replace(target)
    except ManifestError as error:  # it names the copy, which is gone when the message is read
        raise type(error)(str(error).replace(f"{staging}/", "")) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Imported(target, *imported)


def _fill(
    source: Source, staging: Path, *, convert_pickles: bool, counting: Counting
) -> tuple[str, Naming, str | None, Measured, tuple[str, ...]]:
    notes = list(source.notes)
    for place, path in source.files.items():
        (staging / place).parent.mkdir(parents=True, exist_ok=True)
        clone_or_copy(path, staging / place)
    if source.pickles:
        _convert(source, staging, convert_pickles=convert_pickles, notes=notes)
    for place in ("training", "deployment"):
        notes += _clean_config(staging / place / "config.json")
    weights = sorted((staging / "training").glob("*.safetensors"))
    measured = measure(weights, counting) if weights else _measure_graph(staging, notes)
    card = _read_card(source.card, notes)
    naming = propose(source.name, _config(staging), card, measured)
    if weights and measured.sparse and not any(staging.glob("recipe*")):
        (staging / "recipe.md").write_text(_recipe(source, measured), "utf-8")
    if measured.layers and not (staging / "report.json").exists():
        (staging / "report.json").write_text(json.dumps(_report(source, measured), indent=1), "utf-8")
    license_name = str(card["license"]) if card.get("license") else None
    if license_name is None:
        notes.append("the card names no licence: find out what it is, and write `license:` into model.md")
    (staging / "model.md").write_text(_card(source, card, naming, measured), "utf-8")
    return source.origin, naming, license_name, measured, tuple(notes)


def _measure_graph(staging: Path, notes: list[str]) -> Measured:
    """What the graph tells, where there is no checkpoint; what can't be measured is noted, and can be published."""
    for path in sorted((staging / "deployment").glob("*.onnx")):
        try:
            return measure_graph(path)
        except ManifestError as error:
            notes.append(f"deployment/{path.name} isn't measured: {error}")
    return measure([])


def _convert(source: Source, staging: Path, *, convert_pickles: bool, notes: list[str]) -> None:
    names = [path.name for path in source.pickles]
    if source.below("training/", ".safetensors"):
        notes.append(f"{', '.join(names)} left out: a pickle, and the weights are there as safetensors")
        return
    if not convert_pickles:
        raise refuse(names)
    (staging / "training").mkdir(exist_ok=True)
    convert(source.pickles, staging / "training/model.safetensors")
    notes.append(f"{', '.join(names)} converted to model.safetensors")


def _clean_config(path: Path) -> list[str]:
    """Takes out what could make a library load code, or is another machine's; returns what was taken."""
    if not path.is_file():
        return []
    config = _json_object(path)
    dropped = [key for key in config if key.startswith("_") or key in ("auto_map", "custom_pipelines")]
    if dropped:
        cleaned = {key: value for key, value in config.items() if key not in dropped}
        path.write_text(json.dumps(cleaned, indent=2) + "\n", "utf-8")
    return [f"{path.parent.name}/{path.name}: dropped {', '.join(dropped)}"] if dropped else []


def _config(staging: Path) -> Mapping[str, Any]:
    paths = [staging / place / "config.json" for place in ("training", "deployment")]
    return next((_json_object(path) for path in paths if path.is_file()), {})


def _json_object(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ManifestError(f"{path} is larger than {_MAX_CONFIG_BYTES} bytes")
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path} is no JSON file: {error}") from None
    if not isinstance(found, dict):
        raise ManifestError(f"{path} holds no JSON object")
    return found


def _read_card(path: Path | None, notes: list[str]) -> Mapping[str, Any]:
    if path is None:
        return {}
    try:
        return read_front_matter(path)
    except ManifestError as error:
        notes.append(f"{error}; its fields are not taken over")
        return {}


def _card(source: Source, card: Mapping[str, Any], naming: Naming, measured: Measured) -> str:
    """The model's own card under a front matter that the registry reads; JSON is YAML on one line."""
    fields: dict[str, Any] = {**naming.facts, **{key: card[key] for key in _KEPT if card.get(key) is not None}}
    fields |= {key: card[key] for key in _LINEAGE if str(card.get(key)).startswith(("zoo:", "sha256:"))}
    fields |= {"imported_from": source.origin, "quantized": measured.is_quantized}
    if measured.parameters:
        fields["parameters"] = measured.parameters
    if measured.pattern:
        fields |= {"sparsity": round(measured.sparsity, SPARSITY_DIGITS), "pattern": measured.pattern}
    body = f"# {source.name}\n"
    if source.card is not None and source.card.stat().st_size <= _MAX_CARD_BYTES:
        body = _FRONT.sub("", source.card.read_bytes().decode("utf-8-sig", "replace"), count=1)
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---", "", body.lstrip("\n")])


def _report(source: Source, measured: Measured) -> dict[str, Any]:
    """The trainer's form of report, as far as weights alone tell."""
    layers = {
        name: {
            "target": round(layer.sparsity, 6) if layer.pattern else None,
            "sparsity": round(layer.sparsity, 6),
            "elements": layer.elements,
            **({"mask_type": layer.pattern} if layer.pattern else {}),
        }
        for name, layer in measured.sparse.items()
    }
    return {"format": 1, "imported_from": source.origin, "quantized": measured.is_quantized, "sparsity": layers}


def _recipe(source: Source, measured: Measured) -> str:
    """Trains on without losing a zero: the sparse weights' masks are held, everything else learns."""
    modifiers = (
        EpochRangeModifier(start_epoch=0.0, end_epoch=EPOCHS),
        LearningRateFunctionModifier(
            lr_func="linear", init_lr=LEARNING_RATE, final_lr=0.0, start_epoch=0.0, end_epoch=EPOCHS
        ),
        ConstantPruningModifier(start_epoch=0.0, params=tuple(recipe_params(measured))),
    )
    pattern = {"block4": "blocks of 1x4"}.get(measured.pattern or "", measured.pattern)
    text = (
        f"# Train on, and keep every zero\n\nMeasured on `{source.origin}`: {len(measured.sparse)} weights have "
        f"{100 * measured.sparsity:.1f} % zeros together ({pattern}). Their masks are held while the model is trained "
        f"on other data; {EPOCHS:g} epochs from a learning rate of {LEARNING_RATE:g} suit a model of BERT's size.\n"
    )
    return f"---\nversion: 1.1.0\n{write_yaml({}, modifiers, {})}---\n\n{text}"


def recipe_params(measured: Measured) -> list[str]:
    """The sparse weights, those of all layers of a kind as one pattern where every layer of the kind is sparse."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in measured.layers:
        groups[_kind(name)].append(name)
    params: list[str] = []
    for kind, names in groups.items():
        sparse = [name for name in names if name in measured.sparse]
        params += [kind] if len(sparse) == len(names) > 1 else sparse
    return params


def _kind(name: str) -> str:
    """A pattern for a weight and its like in other layers: re:bert.encoder.layer.[0-9]+.output.dense.weight$"""
    return "re:" + re.sub(r"(?<=\.)\d+(?=\.)", "[0-9]+", name) + "$" if _NAME.fullmatch(name) else name
