"""What an import found, before anything is written: files and their places in the model folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from zoo.importing.hub import PREFIX, Snapshot

COMPANIONS = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
_CARD = "README.md"


@dataclass
class Source:
    """`files` maps a place in the new folder to a file here; `pickles` are weights that no place may take as they are.

    `origin` says where the model comes from, and `notes` what its importer should know.
    """

    origin: str
    name: str
    files: dict[str, Path] = field(default_factory=dict)
    pickles: list[Path] = field(default_factory=list)
    card: Path | None = None
    notes: list[str] = field(default_factory=list)

    def below(self, folder: str, suffix: str) -> list[Path]:
        """The files of a folder with a suffix."""
        return [path for place, path in self.files.items() if place.startswith(folder) and place.endswith(suffix)]


def of_snapshot(snapshot: Snapshot) -> Source:
    """A hub's repository: ONNX belongs to deployment, everything else to training, and what both need to both."""
    source = Source(f"{PREFIX}{snapshot.repo_id}@{snapshot.commit}", snapshot.repo_id)
    for name in snapshot.names:
        path = snapshot.folder / name
        place = PurePosixPath(name).name
        if name == _CARD:
            source.card = path
        elif place.startswith("pytorch_model"):
            source.pickles += [path] if place.endswith(".bin") else []
        elif ".onnx" in place:
            source.files[f"deployment/{place}"] = path
        else:
            source.files[f"training/{place}"] = path
    add_companions(source, (f"training/{name}" for name in COMPANIONS))
    return source


def add_companions(source: Source, places: Iterable[str]) -> None:
    """Gives a deployment that has a graph the configuration and tokenizer beside it."""
    if not source.below("deployment/", ".onnx"):
        return
    for place in places:
        if place in source.files:
            source.files.setdefault(f"deployment/{PurePosixPath(place).name}", source.files[place])
