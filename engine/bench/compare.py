"""Several engines on the same model and inputs: each in a process of its own, in turns, with outputs compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

import engine
from engine.bench.inputs import check_length, random_inputs, vocabulary
from engine.bench.run_times import RunTimes
from engine.cores import default_cores
from engine.errors import PipelineError
from engine.pipelines.model_folder import find_model_folder

OURS = "sparrow"
INSTALL = {
    "onnxruntime": "pip install onnxruntime",
    "openvino": "pip install openvino",
    "deepsparse": "make an environment of Python 3.8 to 3.11, `pip install deepsparse==1.8.0` there, and name its "
    "Python: --peer-python deepsparse=/path/to/bin/python",
}
_WORKER = Path(__file__).with_name("peer_worker.py")


@dataclass(frozen=True)
class Agreement:
    """How an engine's outputs differ from ours: the largest difference, and the share of rows with equal argmax."""

    max_difference: float
    same_argmax: float


@dataclass(frozen=True, slots=True)
class ComparisonRow(RunTimes):
    """One engine. `time_over_ours` is the median, over the rounds, of its time over ours in the same round."""

    engine: str
    version: str
    model_path: str
    time_over_ours: float
    load_s: float
    peak_mb: float
    others_share: float
    agreement: Agreement | None


@dataclass(frozen=True)
class Comparison:
    """Engines in turns on the same inputs. `missing` says, for engines that didn't run, why or how to get them."""

    model_path: str
    batch_size: int
    sequence_length: int
    num_cores: int
    num_streams: int
    rounds: int
    rows: tuple[ComparisonRow, ...]
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """An engine to compare with: the Python that has it, and the form of the model that it likes, None for ours."""

    name: str
    python: str
    model: Path | None = None


def peer(name: str, pythons: Mapping[str, str], models: Mapping[str, str]) -> Peer:
    """The peer of that name; its Python is given, or in ZOO_PEER_PYTHON_<NAME>, or this one.

    Raises PipelineError for a name that isn't known.
    """
    if name not in INSTALL:
        raise PipelineError(f"no engine {name!r} to compare with; known: {', '.join(INSTALL)}")
    python = pythons.get(name) or os.environ.get(f"ZOO_PEER_PYTHON_{name.upper()}") or sys.executable
    return Peer(name, python, Path(models[name]) if name in models else None)


def compare(
    model_path: Path | str,
    peers: Sequence[Peer],
    *,
    batch_size: int = 1,
    sequence_length: int = 128,
    num_cores: int | None = None,
    num_streams: int = 1,
    seconds: float = 10.0,
    warmup: float = 2.0,
    rounds: int = 7,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Runs our engine and the peers in turns, `rounds` times, for `seconds` each in all.

    With several streams each engine has so many runs going at a time, which share its cores.

    Raises PipelineError when our own engine can't run the model; a peer that can't run is listed as missing.
    """
    folder = find_model_folder(model_path)
    check_length(folder, sequence_length)
    cores = num_cores or default_cores()
    with engine.compile(folder.model, 1) as model:
        names = model.input_names
    inputs = random_inputs(names, vocabulary(folder), batch_size, sequence_length)
    missing: dict[str, str] = {}
    with ExitStack() as opened:
        place = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        np.savez(place / "inputs.npz", **inputs)  # type: ignore[arg-type]
        ours = opened.enter_context(_Worker(Peer(OURS, sys.executable), folder.model, cores, num_streams, place))
        if ours.problem:
            raise PipelineError(f"{folder.model} can't be run: {ours.problem}")
        workers = [ours]
        for wanted in peers:
            worker = opened.enter_context(_Worker(wanted, wanted.model or folder.model, cores, num_streams, place))
            if worker.problem:
                missing[wanted.name] = worker.problem
            else:
                workers.append(worker)
        _take_turns(workers, warmup, seconds / rounds, rounds, progress)
        rows = tuple(worker.row(ours, batch_size) for worker in workers)
    return Comparison(str(folder.model), batch_size, sequence_length, cores, num_streams, rounds, rows, missing)


def _take_turns(
    workers: Sequence[_Worker], warmup: float, seconds: float, rounds: int, progress: Callable[[int, int], None] | None
) -> None:
    for worker in workers:
        worker.measure(warmup)
        worker.samples.clear()
    for done in range(rounds):
        for worker in workers:
            worker.measure(seconds)
        if progress is not None:
            progress(done + 1, rounds)


class _Worker:
    """An engine's process. `problem` says why it can't run, or is empty. A context manager."""

    def __init__(self, peer: Peer, model: Path, cores: int, streams: int, place: Path) -> None:
        self.peer, self.model = peer, model
        self.samples: list[dict[str, Any]] = []
        self._outputs = place / f"{peer.name}.npz"
        spec = {
            "engine": peer.name,
            "model": str(model.absolute()),
            "inputs": str(place / "inputs.npz"),
            "outputs": str(self._outputs),
            "threads": cores,
            "streams": streams,
        }
        self.problem, self.loaded = "", {}
        self._process: subprocess.Popen[str] | None = None
        try:
            self._process = subprocess.Popen(
                [peer.python, str(_WORKER), json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self.loaded = self._answer()
        except (OSError, ValueError) as error:
            self.loaded = {"error": str(error)}
        if "error" in self.loaded:
            self.problem = self._explained(self.loaded["error"])

    def _explained(self, error: str) -> str:
        absent = error.startswith(("ModuleNotFoundError", "ImportError", "[Errno"))
        how = INSTALL.get(self.peer.name, "")
        return f"not installed for {self.peer.python}: {how}" if absent and how else error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        try:
            self._process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None  # noqa: S101 - for the type checker: only called when it runs
        assert self._process.stdout is not None  # noqa: S101
        line = self._process.stdout.readline()
        if not line:
            return {"error": f"its process ended with code {self._process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def measure(self, seconds: float) -> None:
        """Runs for so long. Raises PipelineError when the process ends."""
        assert self._process is not None  # noqa: S101
        assert self._process.stdin is not None  # noqa: S101
        try:
            self._process.stdin.write(f"{seconds}\n")
            self._process.stdin.flush()
        except OSError as error:
            raise PipelineError(f"the process of {self.peer.name} ended while it was measured") from error
        answer = self._answer()
        if "error" in answer:
            raise PipelineError(f"{self.peer.name}: {answer['error']}")
        self.samples.append(answer)

    def outputs(self) -> list[NDArray[Any]]:
        """The outputs of the first run."""
        with np.load(self._outputs) as saved:
            return [saved[name] for name in saved.files]

    def row(self, ours: _Worker, batch: int) -> ComparisonRow:
        """What was measured of this engine."""
        times_s = np.concatenate([sample["times_s"] for sample in self.samples])
        ratios = [
            np.median(mine["times_s"]) / np.median(base["times_s"])
            for mine, base in zip(self.samples, ours.samples, strict=True)
        ]
        wall = sum(sample["wall_s"] for sample in self.samples)
        others = sum(sample["others_s"] for sample in self.samples)
        ran = sum(sample["ran_s"] for sample in self.samples)
        return ComparisonRow(
            engine=self.peer.name,
            version=str(self.loaded["version"]),
            model_path=str(self.model),
            time_over_ours=float(np.median(ratios)),
            load_s=float(self.loaded["load_s"]),
            peak_mb=max(sample["peak_mb"] for sample in self.samples),
            others_share=min(1.0, others / (wall * (os.cpu_count() or 1))),
            agreement=None if self is ours else agreement(ours.outputs(), self.outputs()),
            **asdict(RunTimes.of(times_s, batch, ran)),
        )


def agreement(ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> Agreement | None:
    """Compares outputs in the model's order; None where shapes don't fit each other."""
    if [a.shape for a in ours] != [b.shape for b in theirs]:
        return None
    differences = [float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)]
    same = np.concatenate([(a.argmax(-1) == b.argmax(-1)).reshape(-1) for a, b in zip(ours, theirs, strict=True)])
    return Agreement(max(differences), float(same.mean()))
