"""The seam between pipelines and what computes: Sparrow's engine, or ONNX Runtime on the same file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import EngineError, PipelineError

# The originals' name for their own engine keeps working in their configuration files.
_ENGINES = {"sparrow": "sparrow", "deepsparse": "sparrow", "onnxruntime": "onnxruntime", "ort": "onnxruntime"}
_INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


class Backend(Protocol):
    """A loaded model. `run` takes int64 [batch, sequence] arrays; any number of threads may call it.

    Padding stands behind a sequence's tokens, with an attention mask of 0; outputs there mean nothing.
    """

    @property
    def ignores_padding(self) -> bool:
        """Whether padding never changes the outputs of the tokens before it."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """The model's inputs, in its order."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """The model's outputs, in its order."""

    @property
    def fixed_shape(self) -> tuple[int | None, int | None]:
        """The batch and sequence that the file insists on; None where free."""

    def run(
        self, inputs: Mapping[str, NDArray[np.int64]], lengths: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Return every output by name; `lengths` [batch] counts each row's tokens, None when nothing is padded.

        Raises EngineError.
        """

    def close(self) -> None:
        """Free the model."""


def open_backend(model: Path, engine_type: str, num_cores: int | None, num_streams: int | None = None) -> Backend:
    """Load `model` on the named engine; `num_streams` calls run side by side, each on its share of the cores.

    Raises PipelineError for an unknown engine or one that isn't installed, ModelError for a bad file.
    """
    name = _ENGINES.get(engine_type.strip().lower())
    if name is None:
        raise PipelineError(f"no engine is named {engine_type!r}; known: sparrow, onnxruntime")
    if num_cores is not None and num_cores < 1:
        raise PipelineError(f"num_cores is {num_cores}; it must be 1 or more, or absent for all")
    return _Sparrow(model, num_cores, num_streams) if name == "sparrow" else _OnnxRuntime(model, num_cores)


class _Sparrow:
    ignores_padding = True
    fixed_shape = (None, None)

    def __init__(self, model: Path, num_cores: int | None, num_streams: int | None) -> None:
        from engine import compile as compile_model

        self._model = compile_model(model, num_cores, num_streams)
        self.input_names = tuple(self._model.input_names)
        self.output_names = tuple(self._model.output_names)

    def run(
        self, inputs: Mapping[str, NDArray[np.int64]], lengths: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        return dict(self._model.run(dict(inputs), lengths=lengths))

    def close(self) -> None:
        self._model.close()


class _OnnxRuntime:
    def __init__(self, model: Path, num_cores: int | None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise PipelineError("engine_type onnxruntime needs its package: pip install onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_cores or 0
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common root of their own
            raise PipelineError(f"ONNX Runtime can't load {model}: {error}") from error
        described = self._session.get_inputs()
        self._dtypes = {value.name: _INTEGERS.get(value.type, np.int64) for value in described}
        self.input_names = tuple(self._dtypes)
        self.ignores_padding = "attention_mask" in self._dtypes
        self.output_names = tuple(value.name for value in self._session.get_outputs())
        self.fixed_shape = _fixed(described[0].shape if described else [])

    def run(
        self, inputs: Mapping[str, NDArray[np.int64]], _lengths: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        feed = {name: array.astype(self._dtypes[name], copy=False) for name, array in inputs.items()}
        try:
            found = self._session.run(None, feed)
        except Exception as error:  # as above
            raise EngineError(f"ONNX Runtime failed: {error}") from error
        return dict(zip(self.output_names, found, strict=True))

    def close(self) -> None:
        self._session = None


def _fixed(shape: list[Any]) -> tuple[int | None, int | None]:
    sizes = [size if isinstance(size, int) else None for size in (*shape, None, None)]
    return sizes[0], sizes[1]
