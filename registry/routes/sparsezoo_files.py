"""A version's files as `sparsezoo` 1.x lists them: under the names and types that its model folder has.

Files of training and deployment keep their folder in their name, so that the client puts them there, external data
beside its model; samples come as tars, the only form in which the client takes them. `model.onnx` comes alone too, for
the client opens nothing without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from registry.routes.archives import SUFFIX, archive_size, files_of_folder
from registry.schemas import FileView, VersionView
from zoo.manifest import Role
from zoo.stub import PREFIX

_ARCHIVED = {
    "sample-inputs": "inputs",
    "deployment/sample-inputs": "inputs",
    "sample-outputs": "outputs",
    "deployment/sample-outputs": "outputs",
    "sample-outputs_onnxruntime": "outputs",
    "sample-outputs_deepsparse": "outputs",
}
_FOLDERS = (Role.TRAINING, Role.DEPLOYMENT)
_ONNX = "deployment/model.onnx"
_EXTERNAL_DATA = re.compile(r"deployment/([^/]+\.onnx[._]data|model\.data)\Z")
_REPORTS = {
    "metrics.yaml": "metrics",
    "eval.yaml": "metrics",
    "benchmark.yaml": "benchmark",
    "benchmarks.yaml": "benchmarking",
    "analysis.yaml": "benchmarking",
}


def list_files(view: VersionView, endpoint: str) -> list[dict[str, Any]]:
    """The version's files under the client's names, with absolute URLs; it can't download empty ones."""
    address = quote(f"{view.name.removeprefix(PREFIX)}@v{view.version}", safe="/@")

    def entry(name: str, kind: str, route: str, path: str, size_bytes: int) -> dict[str, Any]:
        return {
            "modelId": view.digest.removeprefix("sha256:"),
            "displayName": name,
            "fileType": kind,
            "fileSize": size_bytes,
            "downloadUrl": f"{endpoint}/{route}/{address}/{path}",
        }

    found = [
        entry(name, kind, "files", quote(file.path), file.size_bytes)
        for name, kind, file in _single_files(view)
        if file.size_bytes
    ]
    taken = set[str]()
    for folder, kind in _ARCHIVED.items():
        files = files_of_folder(view, folder)
        name = folder.rpartition("/")[2]
        if files and name not in taken:
            taken.add(name)
            size_bytes = archive_size(files, folder)
            found.append(entry(f"{name}.tar.gz", kind, "archives", folder + SUFFIX, size_bytes))
    if any(_EXTERNAL_DATA.match(file.path) for file in view.files):
        files = files_of_folder(view, "deployment")
        size_bytes = archive_size(files, "deployment")
        found.append(entry("model.onnx.tar.gz", "onnx_gz", "archives", "deployment" + SUFFIX, size_bytes))
    return found


def _single_files(view: VersionView) -> Iterator[tuple[str, str, FileView]]:
    for file in view.files:
        name = file.path.rpartition("/")[2]
        if file.path == _ONNX:
            yield "model.onnx", "onnx", file
        if file.role in _FOLDERS and file.path.startswith(f"{file.role}/"):
            yield file.path, file.role, file
        elif file.role == Role.RECIPE:
            yield name, "recipe", file
        elif file.role in (Role.METRICS, Role.BENCHMARK) and name in _REPORTS:
            yield name, _REPORTS[name], file
    cards = [file for file in view.files if file.role == Role.CARD]
    if cards:
        yield "model.md", "card", next((file for file in cards if file.path == "model.md"), cards[0])
