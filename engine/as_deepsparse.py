"""The engine as DeepSparse's users call it: lists of arrays in, lists of arrays out.

    from engine import Engine
    logits = Engine("zoo:bert-large-squad-pruned80.4block_quantized", batch_size=1).run([ids, mask, types])

Shapes are free here, and only `batch_size` is held; `scheduler` says how many streams there are when nobody does.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine import compile as compile_plan
from engine.bench.inputs import random_inputs, vocabulary
from engine.cores import default_cores
from engine.errors import InputError
from engine.model_source import find_model
from engine.pipelines.model_folder import find_model_folder

if TYPE_CHECKING:
    from engine.model_source import Source

Arrays = list[NDArray[Any]]
_DEFAULT_SEQUENCE = 128
_VNNI = ("avx512vnni", "avxvnni", "neon")


class Scheduler(StrEnum):
    """single_stream: all cores on one call; multi_stream and elastic: a call for each core."""

    single_stream = "single_stream"
    multi_stream = "multi_stream"
    elastic = "elastic"

    @classmethod
    def of(cls, name: str | Scheduler | None) -> Scheduler:
        """The scheduler of a name or an alias of it. Raises InputError for any other."""
        known = {"sync": "single_stream", "single": "single_stream", "default": "single_stream"}
        known |= {"async": "multi_stream", "multi": "multi_stream", **{one.value: one.value for one in cls}}
        wanted = "default" if name is None else str(name).lower()
        if wanted not in known:
            raise InputError(f"no scheduler is named {name!r}; known: {', '.join(known)}")
        return cls(known[wanted])


@dataclass(frozen=True)
class BenchmarkResults:
    """Times of batches, in seconds, and what they come to."""

    batch_size: int
    batch_times: tuple[float, ...]

    @property
    def num_batches(self) -> int:
        """How many there were."""
        return len(self.batch_times)

    @property
    def batch_times_mean(self) -> float:
        """Seconds."""
        return float(np.mean(self.batch_times))

    @property
    def batch_times_median(self) -> float:
        """Seconds."""
        return float(np.median(self.batch_times))

    @property
    def batch_times_std(self) -> float:
        """Seconds."""
        return float(np.std(self.batch_times))

    @property
    def ms_per_batch(self) -> float:
        """Milliseconds, on average."""
        return 1000 * self.batch_times_mean

    @property
    def items_per_second(self) -> float:
        """Sequences."""
        return self.batch_size / self.batch_times_mean


class Engine:
    """A compiled model. `num_cores` None: all that the process may use; `batch_size` None: any.

    `input_shapes`, such as [[1, 384]] or a shape for each input, is what `generate_random_inputs` makes; runs take any.
    Raises what `engine.compile` does, and InputError for a wrong argument.
    """

    def __init__(
        self,
        model: Source,
        batch_size: int | None = 1,
        num_cores: int | None = None,
        num_streams: int | None = None,
        scheduler: str | Scheduler | None = None,
        input_shapes: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.scheduler = Scheduler.of(scheduler)
        self.batch_size = batch_size if batch_size and batch_size > 0 else None
        self._sequence = _sequence_of(input_shapes)
        if not num_streams and self.scheduler is not Scheduler.single_stream:
            num_streams = num_cores or default_cores()
        self.model_path = str(find_model(model))
        self._model = compile_plan(Path(self.model_path), num_cores or None, num_streams or None)

    @property
    def input_names(self) -> list[str]:
        """In the order in which `run` takes them."""
        return list(self._model.input_names)

    @property
    def output_names(self) -> list[str]:
        """In the order in which `run` gives them."""
        return list(self._model.output_names)

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """What `generate_random_inputs` makes; each [batch, sequence]."""
        return [(self.batch_size or 1, self._sequence)] * len(self.input_names)

    @property
    def output_shapes(self) -> list[tuple[int, ...]]:
        """What `run` gives for those."""
        return [output.shape(self.batch_size or 1, self._sequence) for output in self._model.outputs]

    @property
    def num_cores(self) -> int:
        """Threads of all streams together."""
        return self._model.num_cores

    @property
    def num_streams(self) -> int:
        """Calls that run side by side."""
        return self._model.num_streams

    @property
    def fraction_of_supported_ops(self) -> float:
        """1.0: a model with an operator that the engine can't run isn't compiled at all."""
        return 1.0

    @property
    def cpu_avx_type(self) -> str:
        """The instruction set whose kernels run."""
        return self._model.isa

    @property
    def cpu_vnni(self) -> bool:
        """Whether that multiplies bytes by an instruction of its own."""
        return self._model.isa in _VNNI

    def run(self, inp: Arrays, val_inp: bool = True) -> Arrays:  # noqa: ARG002 - the originals' signature
        """Arrays [batch, sequence] of integers, one an input in the order of `input_names`; returns the outputs.

        Inputs are always checked, whatever `val_inp` says. Raises InputError for arrays that don't fit.
        """
        return list(self._model.run(self._named(inp)).values())

    __call__ = run

    def mapped_run(self, inp: Arrays, val_inp: bool = True) -> dict[str, NDArray[Any]]:  # noqa: ARG002
        """Like `run`, by output name."""
        return dict(self._model.run(self._named(inp)))

    def timed_run(self, inp: Arrays, val_inp: bool = False) -> tuple[Arrays, float]:  # noqa: ARG002
        """Like `run`, with the seconds that it took."""
        start = time.perf_counter()
        outputs = self.run(inp)
        return outputs, time.perf_counter() - start

    def batched_run(self, inp: Arrays) -> Arrays:
        """Like `run`, of any number of sequences, `batch_size` at a time; the last may be fewer."""
        named = self._named(inp, any_batch=True)
        total = len(next(iter(named.values())))
        size = self.batch_size or total
        parts = [
            self._model.run({name: array[at : at + size] for name, array in named.items()})
            for at in range(0, total, size)
        ]
        return [np.concatenate([part[name] for part in parts]) for name in self.output_names]

    def benchmark(self, inp: Arrays, num_iterations: int = 20, num_warmup_iterations: int = 5) -> BenchmarkResults:
        """Times of runs on the same arrays, without those of the first `num_warmup_iterations`."""
        if num_iterations < 1:
            raise InputError(f"num_iterations is {num_iterations}, expected at least 1")
        for _ in range(num_warmup_iterations):
            self.run(inp)
        times = tuple(self.timed_run(inp)[1] for _ in range(num_iterations))
        return BenchmarkResults(len(inp[0]), times)

    def benchmark_loader(
        self, loader: Iterable[Arrays], num_iterations: int = 20, num_warmup_iterations: int = 5
    ) -> BenchmarkResults:
        """Like `benchmark`, on the loader's batches, again from the first when they end."""
        batches = list(loader)
        if not batches or num_iterations < 1:
            raise InputError("a benchmark needs a batch and an iteration at least")
        wanted = [batches[i % len(batches)] for i in range(num_warmup_iterations + num_iterations)]
        times = tuple(self.timed_run(batch)[1] for batch in wanted)[num_warmup_iterations:]
        return BenchmarkResults(self.batch_size or len(batches[0][0]), times)

    def generate_random_inputs(self) -> Arrays:
        """Random tokens of the model's vocabulary, of `input_shapes`, int64."""
        tokens = vocabulary(find_model_folder(self.model_path))
        named = random_inputs(self.input_names, tokens, self.batch_size or 1, self._sequence)
        return [named[name] for name in self.input_names]

    def _named(self, inp: Arrays, *, any_batch: bool = False) -> dict[str, NDArray[Any]]:
        names = self.input_names
        if not isinstance(inp, list | tuple) or len(inp) != len(names):
            given = f"{len(inp)} of them" if isinstance(inp, list | tuple) else type(inp).__name__
            raise InputError(f"inputs must be a list of arrays, one for each of {', '.join(names)}; got {given}")
        named = {name: np.asarray(array) for name, array in zip(names, inp, strict=True)}
        for name, array in named.items():
            if self.batch_size and not any_batch and array.ndim == 2 and len(array) != self.batch_size:
                raise InputError(
                    f"input {name} has {len(array)} sequences, the engine's batch_size is {self.batch_size}"
                )
        return named

    def __repr__(self) -> str:
        return (
            f"Engine(model={self.model_path!r}, batch_size={self.batch_size}, num_cores={self.num_cores}, "
            f"num_streams={self.num_streams}, scheduler={self.scheduler.value!r})"
        )


compile_model = Engine  # the originals have both names


def _sequence_of(input_shapes: Sequence[Sequence[int]] | None) -> int:
    shapes = {tuple(shape) for shape in input_shapes or ()}
    lengths = {shape[-1] for shape in shapes if len(shape) == 2 and shape[-1] > 0}
    if not shapes:
        return _DEFAULT_SEQUENCE
    if len(lengths) != 1 or any(len(shape) != 2 for shape in shapes):
        raise InputError(f"input_shapes is {input_shapes}; each input is [batch, sequence], of the same sequence")
    return int(lengths.pop())
