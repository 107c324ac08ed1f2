"""The engine as ONNX Runtime's users call it.

from engine import InferenceSession
start, end = InferenceSession("model.onnx").run(None, {"input_ids": ids, "attention_mask": mask})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from engine import compile as compile_plan
from engine.errors import InputError

if TYPE_CHECKING:
    from engine.model_source import Source

_PROVIDER = "CPUExecutionProvider"


@dataclass(frozen=True)
class NodeArg:
    """An input or output: free dimensions are words."""

    name: str
    shape: list[int | str]
    type: str


class InferenceSession:
    """A compiled model. Of `sess_options`, `intra_op_num_threads` is followed, where it isn't 0.

    `providers`: the CPU's, or None. Raises what `engine.compile` does, and InputError for other providers alone.
    """

    def __init__(
        self, path_or_bytes: Source, sess_options: Any = None, providers: Sequence[Any] | None = None, **_: Any
    ) -> None:
        names = [one if isinstance(one, str) else one[0] for one in providers or [_PROVIDER]]
        if _PROVIDER not in names:
            raise InputError(f"providers are {', '.join(map(str, names))}; this engine runs on {_PROVIDER}")
        if isinstance(path_or_bytes, bytes | bytearray):
            raise InputError("a model's bytes can't be compiled; give the path of its file, or a stub")
        threads = getattr(sess_options, "intra_op_num_threads", 0) or None
        self._model = compile_plan(path_or_bytes, threads)

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: Any = None,  # noqa: ARG002
    ) -> list[NDArray[Any]]:
        """The outputs of these names, or all of them in the model's order.

        Raises InputError for arrays that don't fit the model, and for unknown outputs.
        """
        wanted = list(self._model.output_names if output_names is None else output_names)
        unknown = [name for name in wanted if name not in self._model.output_names]
        if unknown:
            raise InputError(f"there are no outputs {unknown}; there are {list(self._model.output_names)}")
        found = self._model.run(input_feed)
        return [found[name] for name in wanted]

    def get_inputs(self) -> list[NodeArg]:
        """In the model's order; int32 is taken too."""
        return [NodeArg(name, ["batch", "sequence"], "tensor(int64)") for name in self._model.input_names]

    def get_outputs(self) -> list[NodeArg]:
        """In the model's order."""
        return [
            NodeArg(
                output.name,
                ["batch", *["sequence"] * output.per_token, *([output.channels] if output.channels else [])],
                "tensor(float)",
            )
            for output in self._model.outputs
        ]

    def get_providers(self) -> list[str]:
        """What the model runs on, in ONNX Runtime's words."""
        return [_PROVIDER]
