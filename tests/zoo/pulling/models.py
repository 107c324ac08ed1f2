"""Models to publish and pull."""

from __future__ import annotations

from pathlib import Path

import zoo
from tests.registry.builders import graph
from tests.zoo.fault_server import FaultServer
from zoo.settings import Patience, Settings

LONG = "zoo:nlp/question_answering/bert-large/pytorch/huggingface/squad/pruned80_quant-none-vnni"
SHORT = "zoo:bert-large-wikipedia_bookcorpus-pruned80.4block_quantized"
QUICK = Patience(connect_s=1, read_s=5, request_s=5, total_s=5, attempts=2, first_wait_s=0.01, longest_wait_s=0.05)


def build(folder: Path, seed: int = 0) -> Path:
    files = {
        "training/config.json": b"{}",
        "training/model.safetensors": bytes([seed]) * 5000,
        "deployment/model.onnx": graph(bytes([seed, 1]) * 3000),
        "deployment/tokenizer.json": b"{}",
        "recipe.md": b"modifiers: []\na: 1\n",
        "recipe_transfer.md": b"modifiers: []\nb: 1\n",
        "recipe_transfer_learn.yaml": b"modifiers: []\nc: 1\n",
        "recipe_original.yaml": b"modifiers: []\nd: 1\n",
        "model.md": b"---\nlicense: apache-2.0\n---\n# A model\n",
        "sample-inputs/inp-0000.npz": b"npz",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pull_two_versions(
    name: str, settings: Settings, proxy: FaultServer, model: Path, damaged: str | None = None
) -> tuple[Path, int]:
    """Publishes and pulls a model, then again with another recipe; how many files the second pull downloaded."""
    zoo.publish(model, name, settings=settings)
    first = zoo.pull(name, settings=settings)
    if damaged:
        flip(first / damaged)
    (model / "recipe.md").write_text("modifiers: []\nz: 1\n")
    zoo.publish(model, name, settings=settings)
    proxy.requests.clear()
    second = zoo.pull(name, settings=settings)
    return second, sum("/blobs/" in request.path for request in proxy.requests)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
