"""The model folders of SparseZoo: training/, deployment/, samples and archives of them, recipes, reports and a card."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from zoo.errors import ZooError
from zoo.importing.archives import unpack
from zoo.importing.source import COMPANIONS, Source, add_companions

_FOLDERS = (
    "training",
    "deployment",
    "sample-inputs",
    "sample-outputs",
    "sample-outputs_onnxruntime",
    "sample-outputs_deepsparse",
)
_TOP = re.compile(r"recipe[^/]*\.(md|yaml|yml)|(benchmarks?|metrics|eval)\.ya?ml|report\.json")
_PICKLE = re.compile(r"[^/]+\.(bin|pt|pth|ckpt)")
_STATE = re.compile(r"(training_args|optimizer|scheduler|scaler)\.(bin|pt)|rng_state.*\.pth|trainer_state\.json")
_ARCHIVE = ".tar.gz"
_GRAPH = "model.onnx"
_CARDS = ("model.md", "README.md")
_UNREAD = ("onnx", "logs", "sample-originals", "sample-labels", "analysis.yaml")


def read_folder(folder: Path, scratch: Path) -> Source:
    """Reads a folder in the originals' layout; its archives are unpacked into `scratch`.

    Raises `ZooError` for a folder that is none, `ArchiveError`. An archive counts where its folder is absent.
    """
    if not folder.is_dir():
        raise ZooError(f"{folder} is no folder; name a model folder, or hf:OWNER/NAME")
    source = Source(folder.name, folder.resolve().name)
    for name in _FOLDERS:
        files = list(_files_of(folder / name)) or list(_unpacked(folder / f"{name}{_ARCHIVE}", scratch / name))
        for path, place in files:
            _place(source, path, f"{name}/{place}")
    _place_graph(source, folder, scratch)
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.is_symlink() and _TOP.fullmatch(path.name):
            source.files[path.name] = path
    source.card = next((folder / name for name in _CARDS if (folder / name).is_file()), None)
    source.notes += [
        f"{name} is left out: no part of a model folder here" for name in _UNREAD if _is_there(folder, name)
    ]
    add_companions(source, (f"training/{name}" for name in COMPANIONS))
    if not source.files and not source.pickles:
        raise ZooError(f"{folder} has neither training/ nor deployment/ nor {_GRAPH}: it is no model folder")
    return source


def _place(source: Source, path: Path, place: str) -> None:
    name = path.name
    if _STATE.fullmatch(name):
        source.notes.append(f"{place} is left out: the trainer's state, which a finished model doesn't need")
    elif _PICKLE.fullmatch(name):
        source.pickles.append(path)
    elif name.startswith("."):
        source.notes.append(f"{place} is left out: hidden")
    else:
        source.files[place] = path


def _place_graph(source: Source, folder: Path, scratch: Path) -> None:
    """The graph at the top, from its archive where there is one, which alone may hold external data."""
    if source.below("deployment/", ".onnx"):
        return
    archived = list(_unpacked(folder / f"{_GRAPH}{_ARCHIVE}", scratch / "graph"))
    found = archived or [(folder / name, name) for name in (_GRAPH, "model.data") if _is_there(folder, name)]
    source.files |= {f"deployment/{place}": path for path, place in found}


def _files_of(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files of a folder with their paths in it; raises `ZooError` for a link, which could lead out."""
    if folder.is_symlink():
        raise ZooError(f"{folder} is a link, which is not imported; make a real copy with `cp -rL` first")
    for top, folders, names in os.walk(folder):
        folders.sort()
        for name in [*folders, *sorted(names)]:
            path = Path(top) / name
            if path.is_symlink():
                raise ZooError(f"{path} is a link, which is not imported; make a real copy with `cp -rL` first")
            if path.is_file():
                yield path, path.relative_to(folder).as_posix()


def _unpacked(archive: Path, into: Path) -> Iterator[tuple[Path, str]]:
    if not archive.is_file():
        return
    into.mkdir(parents=True)
    yield from ((path, path.name) for path in unpack(archive, into))


def _is_there(folder: Path, name: str) -> bool:
    return (folder / name).exists() or (folder / f"{name}{_ARCHIVE}").exists()
