"""Errors of the engine.

EngineError
├── ModelError            the file is no valid ONNX model, or damaged
│   └── UnsupportedModelError   valid, but some nodes can't be run; `.nodes` lists every one
├── PlanError             a plan file is damaged or of another format version
├── InputError            a caller's array has the wrong name, dtype, shape or value
├── ExecutionError        the C library reported a failure while running (memory, threads)
└── PipelineError         a pipeline's task, folder or request is wrong
"""

from __future__ import annotations

from dataclasses import dataclass


class EngineError(Exception):
    """Root of every error that the engine raises on purpose."""


class ModelError(EngineError):
    """The model file can't be read as ONNX: what is wrong with it and where."""


@dataclass(frozen=True)
class UnsupportedNode:
    """One node that the engine can't run: its name, its operator and the reason."""

    name: str
    op_type: str
    reason: str


class UnsupportedModelError(ModelError):
    """The graph holds nodes that the engine can't run; all of them are listed, once."""

    def __init__(self, nodes: list[UnsupportedNode]) -> None:
        self.nodes = nodes
        listed = "\n".join(f"  {n.name or '(unnamed)'} [{n.op_type}]: {n.reason}" for n in nodes)
        super().__init__(f"the engine can't run {len(nodes)} node(s) of this model:\n{listed}")


class PlanError(EngineError):
    """A plan is damaged, or was written for another format version."""


class InputError(EngineError):
    """An input array is missing, unknown, or of the wrong dtype, shape or range."""


class ExecutionError(EngineError):
    """The C library could not finish a run."""


class PipelineError(EngineError):
    """A pipeline can't be made, or a request to it is malformed."""
