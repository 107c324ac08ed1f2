"""The gate: what must be true of a version's files before it becomes visible.

    layout    a deployment has its deployment/model.onnx, and sample inputs have as many outputs
    onnx      each graph of the deployment opens, names inputs and outputs, and finds its external data in the version
    recipe    each recipe can be read as one
    samples   the graph gives the sample outputs for the sample inputs: said by the publisher, who ran it

The files are a stranger's: none is run, loaded or unpacked here (ARCHITECTURE.md).
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from functools import partial

from pydantic import TypeAdapter

from registry.errors import CheckError
from registry.onnx_outline import Outline, read_outline
from registry.schemas import CheckView, SamplesIn
from registry.wire import WireError
from zoo.errors import RecipeError
from zoo.manifest import FileEntry, Manifest, Role
from zoo.recipe import Recipe

MODEL_PATH = "deployment/model.onnx"
MAX_GRAPHS = 16
MAX_RECIPE_BYTES = 1 << 20  # far more than the reader takes
_REPORT = TypeAdapter(list[CheckView])

ReadBlob = Callable[[str, int, int], bytes]


def check_version(manifest: Manifest, read: ReadBlob, samples: SamplesIn | CheckView | None) -> list[CheckView]:
    """Checks a version whose blobs are all here; `read(digest, start, stop)` gives any part of one.

    Raises `CheckError` for everything that is wrong with it, at once.
    """
    findings = [*_layout(manifest), *_graphs(manifest, read), *_recipes(manifest, read), *_samples(manifest, samples)]
    failures = [finding for finding in findings if finding.state == "failed"]
    if failures:
        raise CheckError(
            "; ".join(f"{failure.path}: {failure.detail}" for failure in failures[:5])
            + ". Nothing was published; mend the files and publish again",
            failures=[failure.model_dump(mode="json") for failure in failures],
        )
    return findings


def write_report(findings: list[CheckView]) -> str:
    """A report as it is kept with the version."""
    return _REPORT.dump_json(findings).decode()


def read_report(text: str | None) -> list[CheckView]:
    """A kept report; empty for a version that was published before there was a gate."""
    return _REPORT.validate_json(text) if text else []


def _layout(manifest: Manifest) -> Iterator[CheckView]:
    deployment = manifest.with_role(Role.DEPLOYMENT)
    if deployment:
        is_there = any(entry.path == MODEL_PATH for entry in deployment)
        wrong = f"it isn't there, and {deployment[0].path} claims a deployment"
        yield _finding("layout", MODEL_PATH, None if is_there else wrong, "the deployment has its graph")
    inputs, outputs = manifest.with_role(Role.SAMPLE_INPUTS), manifest.with_role(Role.SAMPLE_OUTPUTS)
    if inputs and outputs and len(inputs) != len(outputs):
        wrong = f"{len(inputs)} files of sample inputs have {len(outputs)} of outputs; each needs its own"
        yield _finding("layout", inputs[0].path, wrong)


def _graphs(manifest: Manifest, read: ReadBlob) -> Iterator[CheckView]:
    graphs = [entry for entry in manifest.with_role(Role.DEPLOYMENT) if entry.path.endswith(".onnx")]
    sizes = {entry.path: entry.size_bytes for entry in manifest.files}
    for count, entry in enumerate(graphs):
        if count == MAX_GRAPHS:
            yield _finding("onnx", entry.path, f"a deployment has {MAX_GRAPHS} graphs at most")
            return
        try:
            outline = read_outline(partial(read, entry.sha256), entry.size_bytes)
        except WireError as error:
            yield _finding("onnx", entry.path, f"it is no ONNX model that can be opened: {error}; export it again")
            continue
        yield _finding("onnx", entry.path, _lost_data(entry, outline, sizes), _told(outline))


def _lost_data(entry: FileEntry, outline: Outline, sizes: dict[str, int]) -> str | None:
    for location, needed_bytes in outline.external.items():
        path = posixpath.join(posixpath.dirname(entry.path), location)
        if posixpath.normpath(path) != path or sizes.get(path, -1) < needed_bytes:
            return (
                f"its weights lie in {location[:200]!a}, of which the version has no {needed_bytes} bytes beside it; "
                "publish them with the model"
            )
    return None


def _told(outline: Outline) -> str:
    return (
        f"IR {outline.ir_version}, {outline.nodes} nodes, inputs {', '.join(outline.inputs)}; "
        f"outputs {', '.join(outline.outputs)}"
    )[:500]


def _recipes(manifest: Manifest, read: ReadBlob) -> Iterator[CheckView]:
    for entry in manifest.with_role(Role.RECIPE):
        try:
            text = read(entry.sha256, 0, min(entry.size_bytes, MAX_RECIPE_BYTES)).decode()
            recipe = Recipe.load(text + "\n")  # with a line break it is text, never the path of a file
        except (RecipeError, UnicodeDecodeError) as error:
            yield _finding("recipe", entry.path, f"it can't be read: {error}; see `zoo recipe lint`"[:1_000])
        else:
            yield _finding("recipe", entry.path, None, f"{len(recipe.modifiers)} modifiers")


def _samples(manifest: Manifest, said: SamplesIn | CheckView | None) -> Iterator[CheckView]:
    inputs = manifest.with_role(Role.SAMPLE_INPUTS)
    if not (inputs and manifest.with_role(Role.SAMPLE_OUTPUTS) and manifest.with_role(Role.DEPLOYMENT)):
        return
    path = posixpath.dirname(inputs[0].path) or inputs[0].path
    state, detail = (said.state, said.detail) if said else ("unchecked", "the publisher didn't say what they give")
    yield CheckView(check="samples", path=path, state=state, detail=detail, by="publisher")


def _finding(check: str, path: str, wrong: str | None, right: str = "") -> CheckView:
    return CheckView(check=check, path=path, state="failed" if wrong else "passed", detail=wrong or right)
