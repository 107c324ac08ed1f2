"""Models to publish: a small one, and one like those that a registry is for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
from onnx import TensorProto, helper, numpy_helper

LONG = "zoo:nlp/question_answering/bert-base/pytorch/huggingface/squad/pruned80_quant-none-vnni"
ALIAS = "zoo:bert-base-squad_wikipedia_bookcorpus-pruned80.4block_quantized"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class Folder:
    """Files of a model in memory: path -> (role, bytes)."""

    name: str
    files: dict[str, tuple[str, bytes]]
    alias: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def manifest(self) -> dict[str, Any]:
        files = [
            {"path": path, "sha256": digest_of(data), "size_bytes": len(data), "role": role}
            for path, (role, data) in self.files.items()
        ]
        document: dict[str, Any] = {"name": self.name, "files": files, "metadata": self.metadata}
        return document | ({"alias": self.alias} if self.alias else {})

    def upload(self, client: httpx.Client) -> None:
        for _, data in self.files.values():
            answer = client.put(f"/api/v1/blobs/{digest_of(data)}", content=data)
            assert answer.status_code in (200, 201), answer.text

    def publish(self, client: httpx.Client, **more: Any) -> httpx.Response:
        self.upload(client)
        return client.post("/api/v1/versions", json={"manifest": self.manifest, **more})


def small(name: str = "zoo:tiny", text: str = "weights", **more: Any) -> Folder:
    return Folder(name, {"training/weights.txt": ("training", text.encode())}, **more)


def graph(payload: bytes = b"", nodes: int = 1) -> bytes:
    """An ONNX model that adds y = x + x, and carries the payload as a weight that nothing uses."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    names = ["x", *(f"x{n}" for n in range(1, nodes)), "y"]
    steps = [helper.make_node("Add", [a, a], [b]) for a, b in pairwise(names)]
    weights = [numpy_helper.from_array(np.frombuffer(payload, np.uint8), "payload")] if payload else []
    body = helper.make_graph(steps, "adds", [x], [y], weights)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


CARD = """---
domain: nlp
---
# BERT-base, 80 % sparse, for question answering

Answers a question from a passage. The encoder's weights are pruned in **1x4 blocks** along the input channels and
quantized to 8 bits, so that one VNNI lane eats one block.

## How good it is

| measure | dense | this model |
| --- | ---: | ---: |
| exact match | 80.8 | 79.6 |
| F1 | 88.5 | 87.4 |

## How it was made

1. Start from the pruned upstream model.
2. Hold the mask while training on SQuAD, with the dense model as the teacher.
3. Train on with fake quantization, observers frozen at epoch 25.

> The tokenizer is that of the upstream model; questions longer than the passage window are cut.

```python
from engine import Pipeline

answer = Pipeline.create("question_answering", "zoo:bert-base")(question="Who?", context="Ada wrote it.")
```

More in [the paper](https://arxiv.org/abs/2203.07259).
"""

RECIPE = """version: 1.1.0
num_epochs: 30
init_lr: 3.0e-5

training_modifiers:
  - !EpochRangeModifier
      start_epoch: 0.0
      end_epoch: eval(num_epochs)

pruning_modifiers:
  - !ConstantPruningModifier
      start_epoch: 0.0
      params:
        - re:bert.encoder.layer.*.weight

quantization_modifiers:
  - !QuantizationModifier
      start_epoch: 22.0
      disable_quantization_observer_epoch: 25.0
"""


def report(layers: int = 12) -> bytes:
    parts = ("attention.query", "attention.key", "attention.value", "attention.output", "intermediate", "output")
    rows = {
        f"encoder.layer.{n}.{part}.weight": {
            "target": 0.8,
            "sparsity": round(0.8 + 0.02 * ((n * 7 + k * 3) % 5 - 1), 4),
        }
        for n in range(layers)
        for k, part in enumerate(parts)
    }
    return json.dumps({"sparsity": rows}).encode()


def bert(name: str = LONG, alias: str | None = ALIAS, revision: int = 1) -> Folder:
    """A model with a file of every role."""
    files = {
        "model.md": ("card", CARD.encode()),
        "recipe.md": ("recipe", RECIPE.encode()),
        "training/model.safetensors": ("training", b"\x00" * 410_000 + bytes([revision])),
        "training/config.json": ("training", b'{"model_type": "bert"}'),
        "training/tokenizer.json": ("training", b"{}" * 3_000),
        "deployment/model.onnx": ("deployment", graph(b"\x08\x07" * 61_000)),
        "deployment/config.json": ("deployment", b'{"model_type":"bert"}'),
        "deployment/tokenizer.json": ("deployment", b"{}" * 3_000),
        "sample-inputs/inp-0000.npz": ("sample-inputs", b"PK" * 900),
        "sample-outputs/out-0000.npz": ("sample-outputs", b"PK" * 300),
        "report.json": ("metrics", report()),
        "benchmarks.yaml": ("benchmark", b"throughput: 100\n"),
    }
    metadata = {
        "domain": "nlp",
        "task": "question_answering",
        "architecture": "bert",
        "sub_architecture": "base",
        "framework": "pytorch",
        "repo": "huggingface",
        "dataset": "squad",
        "license": "Apache-2.0",
        "description": "BERT-base for extractive question answering, 80 % pruned in 1x4 blocks, quantized to 8 bits.",
        "sparsity": 0.8,
        "pattern": "4block",
        "quantized": True,
        "parameters": 108_893_186,
        "metrics": {"f1": 87.41, "exact_match": 79.62},
        "base": "zoo:bert-base-wikipedia_bookcorpus-pruned80.4block",
    }
    return Folder(name, files, alias, metadata)
