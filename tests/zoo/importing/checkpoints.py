"""Checkpoints of the form that Prune-OFA and oBERT models have on a hub, small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

LAYERS, HIDDEN = 2, 16
PARTS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
CARD = """---
language: en
license: apache-2.0
tags:
- question-answering
datasets:
- squad
- wikipedia
- bookcorpus
metrics:
- f1
---
# 80% 1x4 Block Sparse BERT (uncased) Fine Tuned on SQuADv1.1

A model of the form that this test is about.
"""
CONFIG = {
    "_name_or_path": "/somebody/else/disk",
    "architectures": ["BertForQuestionAnswering"],
    "auto_map": {"AutoModel": "evil.EvilModel"},
    "model_type": "bert",
    "hidden_size": HIDDEN,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": LAYERS,
    "vocab_size": 20,
}


def pruned(shape: tuple[int, int], pattern: str, sparsity: float, seed: int) -> NDArray[np.float32]:
    """A random matrix with exactly so many zeros in the pattern."""
    random = np.random.default_rng(seed)
    weight = (1 + np.abs(random.normal(size=shape))).astype(np.float32)
    if pattern == "2:4":
        for block in weight.reshape(-1, 4):
            block[random.choice(4, 2, replace=False)] = 0
        return weight
    size = 4 if pattern == "block4" else 1
    blocks = weight.reshape(-1, size)
    blocks[random.choice(len(blocks), round(sparsity * len(blocks)), replace=False)] = 0
    return weight


def tensors(pattern: str = "block4", sparsity: float = 0.8) -> dict[str, NDArray[np.float32]]:
    """A BERT's tensors; only the encoder's matrices are sparse."""
    found: dict[str, NDArray[np.float32]] = {}
    for layer in range(LAYERS):
        for number, part in enumerate(PARTS):
            columns = 32 if part == "output.dense" else HIDDEN
            rows = 32 if part == "intermediate.dense" else HIDDEN
            name = f"bert.encoder.layer.{layer}.{part}"
            found[f"{name}.weight"] = pruned((rows, columns), pattern, sparsity, 10 * layer + number)
            found[f"{name}.bias"] = np.zeros(rows, np.float32)
    found["bert.embeddings.word_embeddings.weight"] = np.zeros((20, HIDDEN), np.float32)
    found["bert.encoder.layer.0.output.LayerNorm.weight"] = np.ones(HIDDEN, np.float32)
    found["qa_outputs.weight"] = np.ones((2, HIDDEN), np.float32)
    return found


def repository(folder: Path, **more: Any) -> Path:
    """A folder as a hub's repository holds it."""
    folder.mkdir(parents=True)
    save_file(tensors(**more), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "README.md").write_text(CARD)
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    return folder
