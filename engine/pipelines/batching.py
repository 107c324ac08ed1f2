"""Token rows of any length through a model: grouped by length, padded to the longest of their batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import EngineError, PipelineError
from engine.pipelines.backend import Backend

# Padded tokens of one run where no batch size is given: bounds memory whatever the request holds.
_TOKENS_A_RUN = 8192
_FIELDS = {
    "input_ids": "input_ids",
    "attention_mask": "attention_mask",
    "token_type_ids": "type_ids",
}


class StoppedError(EngineError):
    """The caller asked for the run to stop before it was done."""


class TokenRow(Protocol):
    """One sequence of n tokens without padding: int64 [n] each. `zoo.answers.Window` is one."""

    @property
    def input_ids(self) -> NDArray[np.int64]:
        """Rows of the word table."""

    @property
    def attention_mask(self) -> NDArray[np.int64]:
        """1 for each token."""

    @property
    def type_ids(self) -> NDArray[np.int64]:
        """Which text of a pair the token belongs to."""


class BatchRunner:
    """Runs rows on a backend in batches of at most `batch_size` (None: as many as fit a fixed memory)."""

    def __init__(self, backend: Backend, batch_size: int | None, padding_id: int) -> None:
        unknown = [name for name in backend.input_names if name not in _FIELDS]
        if unknown:
            raise PipelineError(f"the model wants inputs {unknown}; a text pipeline can give {list(_FIELDS)}")
        if batch_size is not None and batch_size < 1:
            raise PipelineError(f"batch_size is {batch_size}; it must be 1 or more, or None for any")
        self._backend, self._padding_id = backend, padding_id
        self._fixed_batch, self._fixed_length = backend.fixed_shape
        self._batch_size = self._fixed_batch or batch_size
        # A file of fixed length was made for padded rows, and gets the same ones in every batch.
        self._mixes_lengths = backend.ignores_padding or self._fixed_length is not None

    def run(
        self, rows: Sequence[TokenRow], outputs: Sequence[str], stop: Callable[[], bool] | None = None
    ) -> list[tuple[NDArray[np.float32], ...]]:
        """Return for each row the named outputs, without the batch axis and perhaps with padding behind.

        Raises StoppedError instead of starting another batch once `stop()` is true.
        """
        results: list[tuple[NDArray[np.float32], ...]] = [()] * len(rows)
        for batch in self._batches(rows):
            if stop is not None and stop():
                raise StoppedError("stopped before all of it was computed")
            found = self._backend.run(*self._padded([rows[index] for index in batch]))
            for place, index in enumerate(batch):
                results[index] = tuple(found[name][place] for name in outputs)
        return results

    def _batches(self, rows: Sequence[TokenRow]) -> Iterator[list[int]]:
        """Group row numbers, longest first: neighbours in length share a batch, so little is padded; nothing is
        where padding would change results.
        """
        lengths = [len(row.input_ids) for row in rows]
        order = sorted(range(len(rows)), key=lambda index: -lengths[index])
        start = 0
        while start < len(order):
            longest = lengths[order[start]]
            size = self._batch_size or max(1, _TOKENS_A_RUN // max(1, longest))
            batch = order[start : start + size]
            if not self._mixes_lengths:
                batch = [index for index in batch if lengths[index] == longest]
            yield batch
            start += len(batch)

    def _padded(self, rows: Sequence[TokenRow]) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]:
        """Return the model's inputs [batch, sequence], and each row's tokens [batch], at least 1 as engines want."""
        longest = max(len(row.input_ids) for row in rows)
        shape = (self._fixed_batch or len(rows), self._fixed_length or longest)
        if longest > shape[1]:
            raise PipelineError(f"{longest} tokens for a model of fixed length {shape[1]}")
        fills = {"input_ids": self._padding_id}
        lengths = np.ones(shape[0], np.int64)
        lengths[: len(rows)] = [max(1, len(row.input_ids)) for row in rows]
        names = self._backend.input_names
        return {name: _pad(rows, _FIELDS[name], shape, fills.get(name, 0)) for name in names}, lengths


def _pad(rows: Sequence[TokenRow], field: str, shape: tuple[int, int], fill: int) -> NDArray[np.int64]:
    padded = np.full(shape, fill, np.int64)
    for place, row in enumerate(rows):
        values = getattr(row, field)
        padded[place, : len(values)] = values
    return padded
