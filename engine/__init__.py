"""Sparrow's engine: runs sparse-quantized ONNX models on the CPU.

    model = engine.compile("path/to/model.onnx")
    outputs = model.run({"input_ids": ids, "attention_mask": mask})

`Engine` and `compile_model` take DeepSparse's arguments, `InferenceSession` ONNX Runtime's.

Everything is imported when it is first used, so that `import engine` is quick and needs no compiled library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from engine.errors import (
    EngineError,
    ExecutionError,
    InputError,
    ModelError,
    PipelineError,
    PlanError,
    UnsupportedModelError,
    UnsupportedNode,
)

if TYPE_CHECKING:
    from engine.as_deepsparse import Engine, Scheduler, compile_model
    from engine.as_onnxruntime import InferenceSession
    from engine.model_source import Source
    from engine.pipelines import Pipeline
    from engine.runtime import CompiledModel

__all__ = [
    "CompiledModel",
    "Engine",
    "EngineError",
    "ExecutionError",
    "InferenceSession",
    "InputError",
    "ModelError",
    "Pipeline",
    "PipelineError",
    "PlanError",
    "Scheduler",
    "UnsupportedModelError",
    "UnsupportedNode",
    "compile",
    "compile_model",
]

_LAZY = {
    "CompiledModel": "engine.runtime",
    "Engine": "engine.as_deepsparse",
    "InferenceSession": "engine.as_onnxruntime",
    "Pipeline": "engine.pipelines",
    "Scheduler": "engine.as_deepsparse",
    "compile_model": "engine.as_deepsparse",
}


def compile(  # noqa: A001 - `engine.compile` is what callers read
    source: Source, num_cores: int | None = None, num_streams: int | None = None, *, cached: bool = True
) -> CompiledModel:
    """A model, ready to run on `num_cores` cores (None: all that the process may use).

    As many calls run side by side as there are streams (None: one), each on its share of the cores. What the model
    is compiled to is kept on disk (see `plan_cache`), unless `cached` is False.

    `source` is an .onnx file, a .plan file, a folder that holds model.onnx (or deployment/model.onnx), or a
    `zoo:` stub. Raises ModelError for a damaged file, UnsupportedModelError for one with nodes that the engine
    can't run, PlanError for a damaged plan, and for a stub what `zoo.pull` raises.
    """
    from engine.model_source import find_model
    from engine.runtime import CompiledModel

    path = find_model(source)
    if path.suffix == ".plan":
        return CompiledModel.from_plan(path, num_cores, num_streams)
    from engine.plan_cache import open_model

    return open_model(path, num_cores, num_streams, cached=cached)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
