"""How far two engines are from the exact result of a quantized question-answering model, and from each other.

    python -m benchmarks.agreement model.onnx --squad dev.json --tokenizer tokenizer.json

"exact" is the ONNX project's reference evaluator with float64 between the quantizers, "rounded" is that with every
result rounded to float32: what an engine would give whose float32 operators had no error but their last rounding.
Prints one JSON document: for each pair the share of questions for which both logits peak at the same tokens, and the
RMS difference of the logits. A question takes the evaluator up to a second.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.helper import make_node
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from tokenizers import Tokenizer

import engine
from zoo.squad import read_squad

Inputs = dict[str, NDArray[np.int64]]
Logits = list[NDArray[Any]]
_ERF = np.vectorize(math.erf, otypes=[np.float64])


class Gelu(OpRun):
    """GELU in float64: the evaluator's own takes erf in float32."""

    op_domain = ""

    def _run(self, x: NDArray[np.float64], approximate: str = "none") -> tuple[NDArray[np.float64]]:
        if approximate != "none":
            raise ValueError(f"the model approximates Gelu by {approximate!r}; only the exact one is evaluated")
        return (np.asarray(x * (1 + _ERF(x / math.sqrt(2))) / 2),)


def in_float64(path: Path, rounded: bool) -> onnx.ModelProto:
    """The model with float64 for float32; `rounded` rounds each result to float32 and keeps it as float64."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = onnx.TensorProto.DOUBLE
        model.graph.node.extend(_rounding(node) if rounded and node.op_type in _FLOAT else [node])
    return model


_FLOAT = ("Add", "DequantizeLinear", "Gelu", "LayerNormalization", "MatMul", "Mul", "Softmax", "Sub")
"""Operators whose results are rounded. None of them may work on integers in the model."""


def _rounding(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    name = node.output[0]
    wide, narrow = f"{name}/wide", f"{name}/narrow"
    node.output[0] = wide
    single, double = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
    return [node, make_node("Cast", [wide], [narrow], to=single), make_node("Cast", [narrow], [name], to=double)]


def engines(path: Path) -> dict[str, Callable[[Inputs], Logits]]:
    """Each way of running the model, by name."""
    compiled = engine.compile(path)

    def sparrow(feed: Inputs) -> Logits:
        return list(compiled.run({name: feed[name] for name in compiled.input_names}).values())

    def reference(rounded: bool) -> Callable[[Inputs], Logits]:
        evaluator = ReferenceEvaluator(in_float64(path, rounded), new_ops=[Gelu])
        return lambda feed: list(evaluator.run(None, {name: feed[name] for name in evaluator.input_names}))

    def peer(level: onnxruntime.GraphOptimizationLevel) -> Callable[[Inputs], Logits]:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        return lambda feed: list(session.run(None, {name: feed[name] for name in names}))

    levels = onnxruntime.GraphOptimizationLevel
    return {
        "exact": reference(rounded=False),
        "rounded": reference(rounded=True),
        "onnxruntime": peer(levels.ORT_ENABLE_ALL),
        "onnxruntime, not optimised": peer(levels.ORT_DISABLE_ALL),
        "sparrow": sparrow,
    }


def questions(squad: Path, tokenizer: Path, count: int, longest: int) -> Iterator[Inputs]:
    """`count` random questions of the file, the same at each call, each a batch of one."""
    encode = Tokenizer.from_file(str(tokenizer))
    encode.no_padding()
    encode.enable_truncation(longest, strategy="only_second")
    examples = read_squad(squad)
    for number in np.random.default_rng(0).permutation(len(examples))[:count]:
        row = encode.encode(examples[number].question, examples[number].context)
        named = {"input_ids": row.ids, "attention_mask": row.attention_mask, "token_type_ids": row.type_ids}
        yield {name: np.array([numbers], np.int64) for name, numbers in named.items()}


def compare(left: list[Logits], right: list[Logits]) -> dict[str, float]:
    """How often all logits of a question peak at the same place, and their RMS difference."""
    pairs = list(zip(left, right, strict=True))
    same = [all(a.argmax() == b.argmax() for a, b in zip(*pair, strict=True)) for pair in pairs]
    apart = np.concatenate([(a - b).ravel() for pair in pairs for a, b in zip(*pair, strict=True)])
    return {"same": round(float(np.mean(same)), 4), "rms": round(float(np.sqrt(np.mean(apart**2))), 4)}


def main() -> None:
    """Reads the command line and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--squad", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--longest", type=int, default=384)
    given = parser.parse_args()
    ways = engines(given.model)
    found: dict[str, list[Logits]] = {name: [] for name in ways}
    feeds = questions(given.squad, given.tokenizer, given.questions, given.longest)
    for done, feed in enumerate(feeds, 1):
        for name, run in ways.items():
            found[name].append(run(feed))
        print(f"question {done} of {given.questions}", end="\r", file=sys.stderr)
    pairs = {f"{a} - {b}": compare(found[a], found[b]) for a, b in itertools.combinations(ways, 2)}
    print(json.dumps({"model": str(given.model), "questions": given.questions, **pairs}, indent=1))


if __name__ == "__main__":
    main()
