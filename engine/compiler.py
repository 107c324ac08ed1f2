"""ONNX file -> graph -> passes -> program, whose residuals are folded last."""

from __future__ import annotations

import os

from engine import onnx_reader
from engine.graph import Graph
from engine.lower import lower
from engine.passes import optimise
from engine.program import Program
from engine.quantization import check_quantization
from engine.residuals import fold_residuals
from engine.shapes import annotate


def compile_onnx(path: str | os.PathLike[str]) -> Program:
    """The program of the ONNX model at `path`.

    Raises ModelError where the file is damaged or no valid model, and UnsupportedModelError, which lists every
    node in question, where the engine can't run it.
    """
    return compile_graph(onnx_reader.read(path))


def compile_graph(graph: Graph) -> Program:
    """The program of a graph as the reader made it; the graph is used up. Raises as `compile_onnx` does."""
    graph.prune()
    annotate(graph)
    check_quantization(graph)
    optimise(graph)
    return fold_residuals(lower(graph))
