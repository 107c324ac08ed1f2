"""Sample inputs through the model before it is published: it must give the sample outputs.

Runs where the model was made: a registry runs nobody's model. Needs ONNX Runtime; without it nothing is run, and the
version's report says so. What a difference is relative to, `zoo.agreement` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.agreement import Spread, measures
from zoo.errors import CheckError
from zoo.layout import Layout
from zoo.manifest import Role
from zoo.progress import Meter, Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL_PATH = "deployment/model.onnx"
# Relative RMS difference: float kernels differ by the order of sums; in a quantized model one rounding that falls
# differently moves later ones (zoo.export allows the same).
FLOAT_TOLERANCE, QUANTIZED_TOLERANCE = 1e-3, 0.1
_RUNTIME = "onnxruntime"
_MAX_REASON = 1_000


@dataclass(frozen=True)
class Replayed:
    """What came of it: "passed", "skipped" on demand, or "unchecked" where it can't be run."""

    state: str
    detail: str

    def as_document(self) -> dict[str, str]:
        """As a registry takes it."""
        return {"state": self.state, "detail": " ".join(self.detail.split())[:_MAX_REASON]}


def replay(layout: Layout, skip_reason: str | None = None, progress: Progress | None = None) -> Replayed | None:
    """Runs a folder's samples; None if it has none, or no deployed model.

    Sample files are .npz, the n-th inputs with the n-th outputs, arrays by name or in the model's order; the axis of
    the batch may be missing, as in SparseZoo's. Raises `CheckError` naming the sample and the output that differs.
    """
    inputs, outputs = _sources(layout, Role.SAMPLE_INPUTS), _sources(layout, Role.SAMPLE_OUTPUTS)
    model = next((file.source for file in layout.files if file.path == MODEL_PATH), None)
    if model is None or not inputs or not outputs:
        return None
    if skip_reason is not None:
        return Replayed("skipped", skip_reason)
    if find_spec(_RUNTIME) is None:
        return Replayed("unchecked", "ONNX Runtime isn't installed there; sparrow-zoo[train] brings it")
    if len(inputs) != len(outputs):
        raise CheckError(f"{len(inputs)} files of sample inputs have {len(outputs)} of outputs; each needs its own")
    tolerance = QUANTIZED_TOLERANCE if layout.metadata.quantized else FLOAT_TOLERANCE
    largest = _run(model, list(zip(inputs, outputs, strict=True)), tolerance, progress)
    told = f"{len(inputs)} in ONNX Runtime {version(_RUNTIME)}, relative difference {largest:.1e} of {tolerance:g}"
    return Replayed("passed", told)


def _sources(layout: Layout, role: Role) -> list[Path]:
    return [file.source for file in layout.files if file.role == role]


def _run(
    model: Path, samples: Sequence[tuple[Path, Path]], tolerance: float, progress: Progress | None = None
) -> float:
    """The largest relative RMS difference of all outputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no other base
        told = f"{MODEL_PATH} can't be opened by ONNX Runtime: {_first_line(error)}"
        raise CheckError(f"{told}; export it again, or publish with --skip-replay REASON") from error
    names = [output.name for output in session.get_outputs()]
    spreads = _spreads(names, [target for _, target in samples])
    sizes = [source.stat().st_size for source, _ in samples]
    meter, largest = Meter("replay", sum(sizes), progress), 0.0
    for (source, target), size_bytes, measured_by in zip(samples, sizes, spreads, strict=True):
        with meter.file(source.name, size_bytes):
            name, difference = _compare(session, source, target, measured_by)
        if not difference <= tolerance:
            raise CheckError(
                f"{target.name}: {name} isn't what {MODEL_PATH} gives for {source.name}: relative RMS difference "
                f"{difference:.2g}, at most {tolerance:g}; export again, or publish with --skip-replay REASON"
            )
        largest = max(largest, difference)
    return largest


def _spreads(names: Sequence[str], targets: Sequence[Path]) -> list[dict[str, Spread]]:
    """What each sample's outputs are measured by; read one file after the other, for together they may be large."""
    found = [{k: Spread.of(v) for k, v in _named(_load(path), names, path).items()} for path in targets]
    by_name = {name: measures(name, [spreads[name] for spreads in found]) for name in names}
    return [{name: by_name[name][number] for name in names} for number in range(len(targets))]


def _compare(session: Any, source: Path, target: Path, spreads: Mapping[str, Spread]) -> tuple[str, float]:
    """The output that differs most, and by how much."""
    feed, lacked_batch = _feed(source, session.get_inputs())
    expected = _named(_load(target), list(spreads), target)
    try:
        found = session.run(list(spreads), feed)
    except Exception as error:  # as above
        raise CheckError(f"{source.name} can't be run by {MODEL_PATH}: {_first_line(error)}") from error
    outputs = [array[0] if lacked_batch else array for array in found]
    differences = {
        name: spreads[name].relative_rms(array, expected[name]) if array.shape == expected[name].shape else float("inf")
        for name, array in zip(spreads, outputs, strict=True)
    }
    return max(differences.items(), key=lambda item: item[1])


def _feed(path: Path, wanted: Sequence[Any]) -> tuple[dict[str, NDArray[Any]], bool]:
    """The model's inputs, and whether they lacked the axis of the batch, which they then get."""
    arrays = _named(_load(path), [node.name for node in wanted], path)
    lacks_batch = all(arrays[node.name].ndim == len(node.shape) - 1 for node in wanted)
    return {name: array[None] if lacks_batch else array for name, array in arrays.items()}, lacks_batch


def _load(path: Path) -> dict[str, NDArray[Any]]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # whatever reading a file that is no archive of arrays may raise
        raise CheckError(f"{path.name} is no .npz file of arrays: {_first_line(error)}") from error


def _named(arrays: Mapping[str, NDArray[Any]], names: Sequence[str], path: Path) -> dict[str, NDArray[Any]]:
    if set(arrays) == set(names):
        return dict(arrays)
    if len(arrays) != len(names) or not set(names).isdisjoint(arrays):
        raise CheckError(f"{path.name} holds {', '.join(arrays)}; {MODEL_PATH} has {', '.join(names)}")
    return dict(zip(names, arrays.values(), strict=True))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
