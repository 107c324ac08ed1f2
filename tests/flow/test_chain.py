"""The whole chain on a tiny model: the real command, a real registry over HTTP, the real C library."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import zoo.demo
from zoo.demo.chain import model_figures

ANIMALS = Path(zoo.demo.__file__).parent
BASE = "zoo:nlp/masked_language_modeling/bert-tiny/pytorch/huggingface/words/base-none"
STUDENT = "zoo:nlp/question_answering/bert-tiny/pytorch/huggingface/animals/pruned80_quant-none-vnni"
SHORT = "zoo:bert-tiny-animals-pruned80.4block_quantized"
RECIPE = """---
num_epochs: 3
training_modifiers:
  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: eval(num_epochs)}
  - !LearningRateFunctionModifier
      lr_func: linear
      init_lr: 1e-3
      final_lr: 0.0
      start_epoch: 0.0
      end_epoch: eval(num_epochs)
pruning_modifiers:
  - !GMPruningModifier
      params: ['re:bert.encoder.layer.*.dense.weight', 're:bert.encoder.layer.*.attention.self.*.weight']
      init_sparsity: 0.2
      final_sparsity: 0.8
      start_epoch: 0.0
      end_epoch: 1.0
      update_frequency: 0.25
      mask_type: block4
quantization_modifiers:
  - !QuantizationModifier
      start_epoch: 1.0
      disable_quantization_observer_epoch: 2.0
      quantize_embeddings: 1
      quantize_linear_activations: 0
      exclude_module_types: [LayerNorm]
      submodules: [bert.embeddings, bert.encoder, qa_outputs]
distillation_modifiers:
  - !DistillationModifier {hardness: 0.5, temperature: 2.0, distill_output_keys: [start_logits, end_logits]}
---
A short recipe for a tiny model.
"""

pytestmark = pytest.mark.slow


class Zoo:
    """Runs zoo commands with a home of their own."""

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        self.url = f"http://127.0.0.1:{port}"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("ZOO_", "HF_"))}
        self.environment = {
            **inherited,
            "ZOO_HOME": str(home),
            "ZOO_ENDPOINT": self.url,
            "HOME": str(home),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *arguments: str, expect: int = 0, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == expect, f"zoo {' '.join(arguments)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        assert "Traceback" not in done.stderr
        return done.stdout

    @contextmanager
    def serving(self, url: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        log = self.home / f"{arguments[0]}.log"
        with (
            log.open("wb") as out,
            subprocess.Popen([sys.executable, "-m", "cli", *arguments], env=self.environment, stderr=out) as process,
        ):
            try:
                _wait_for(url, process, log)
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0, log.read_text()[-2000:]


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"{url} did not answer: {log.read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tiny_base(folder: Path) -> Path:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = sorted(set(re.findall(r"[a-z]+", (ANIMALS / "animals-train.json").read_text("utf-8").lower())))[:1500]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"?.,", *words]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    config = BertConfig(
        vocab_size=len(tokens), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=192,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "training")
    fast.save_pretrained(folder / "training")
    (folder / "recipe.md").write_text(RECIPE, "utf-8")
    (folder / "model.md").write_text("---\nlicense: apache-2.0\n---\n# A tiny encoder\n", "utf-8")
    return folder


def test_stub_to_served_sparse_model(tmp_path: Path) -> None:
    port, server_port = _free_port(), _free_port()
    zoo_command = Zoo(tmp_path, port)
    serve = ("registry", "serve", "--folder", str(tmp_path / "registry"), "--port", str(port))
    with zoo_command.serving(f"{zoo_command.url}/api/v1/health", *serve):
        base = _tiny_base(tmp_path / "base")
        zoo_command.run("publish", str(base), BASE)
        student = _train(zoo_command, tmp_path)
        _check_report(student)
        figures = model_figures(lambda *a: json.loads(zoo_command.run(*a, "--json")), student / "deployment")
        assert figures["latency_ms"] > 0 < figures["items_per_s"]
        zoo_command.run("publish", str(student), STUDENT, "--alias", SHORT, "--tag", "prod")
        fresh = {"ZOO_CACHE": str(tmp_path / "fresh")}
        pulled = Path(json.loads(zoo_command.run("pull", SHORT, "--role", "deployment", "--json", **fresh))["path"])
        assert (pulled / "model.onnx").read_bytes() == (student / "deployment" / "model.onnx").read_bytes()
        assert not any(path.is_symlink() for path in pulled.rglob("*"))
        zoo_command.run("cache", "verify", **fresh)
        _check_engine(pulled)
        _check_server(zoo_command, server_port)
        page = urllib.request.urlopen(f"{zoo_command.url}/models/{STUDENT.removeprefix('zoo:')}", timeout=10).read()
        assert b"pruned80_quant-none-vnni" in page
    offline = zoo_command.run("pull", SHORT, "--role", "deployment", "--json", ZOO_OFFLINE="1", **fresh)
    assert json.loads(offline)["path"] == str(pulled)
    zoo_command.run("pull", "zoo:never-heard-of-it", expect=6)


def _train(zoo_command: Zoo, folder: Path) -> Path:
    shared = (
        *("--train_file", str(ANIMALS / "animals-train.json"), "--validation_file", str(ANIMALS / "animals-dev.json")),
        *("--do_train", "--do_eval", "--per_device_train_batch_size", "8", "--per_device_eval_batch_size", "16"),
        *("--max_train_samples", "48", "--max_eval_samples", "24", "--max_seq_length", "160", "--doc_stride", "64"),
    )
    teacher = ("--output_dir", str(folder / "teacher"), "--model_name_or_path", BASE, "--num_train_epochs", "1")
    zoo_command.run("train", "question-answering", *teacher, *shared)
    student = ("--output_dir", str(folder / "student"), "--model_name_or_path", str(folder / "teacher"))
    taught = ("--distill_teacher", str(folder / "teacher"), "--recipe", BASE)
    zoo_command.run("train", "question-answering", *student, *taught, *shared)
    return folder / "student"


def _check_report(student: Path) -> None:
    for name in ("model.onnx", "config.json", "tokenizer.json", "recipe.yaml", "report.json"):
        assert (student / "deployment" / name).is_file(), name
    report = json.loads((student / "deployment" / "report.json").read_text())
    assert not report["missed"]
    assert "eval_f1" in report["metrics"]


def _check_engine(folder: Path) -> None:
    """The pulled model, sparse and INT8, gives what ONNX Runtime gives, at other shapes than it was traced with."""
    import onnxruntime

    import engine

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    random = np.random.default_rng(3)
    with engine.compile(folder) as model:
        for batch, sequence in ((1, 7), (3, 33), (5, 96)):
            inputs = {
                "input_ids": random.integers(5, 900, (batch, sequence)),
                "attention_mask": np.ones((batch, sequence), np.int64),
                "token_type_ids": np.zeros((batch, sequence), np.int64),
            }
            expected = session.run(["start_logits", "end_logits"], inputs)
            actual = model.run(inputs)
            for name, logits in zip(("start_logits", "end_logits"), expected, strict=True):
                assert actual[name].shape == (batch, sequence)
                span = float(np.ptp(logits))
                assert np.abs(actual[name] - logits).max() <= 0.1 * span + 1e-3


def _check_server(zoo_command: Zoo, port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    paragraph = json.loads((ANIMALS / "animals-dev.json").read_text("utf-8"))["data"][0]["paragraphs"][0]
    question, context = paragraph["qas"][0]["question"], paragraph["context"]
    serve = ("serve", "--task", "question_answering", "--batch_size", "1", "--model_path", SHORT, "--port", str(port))
    with zoo_command.serving(f"{url}/v2/health/ready", *serve):
        body = json.dumps({"question": question, "context": context}).encode()
        request = urllib.request.Request(f"{url}/predict", data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
        assert set(answer) >= {"score", "answer", "start", "end"}
        assert answer["answer"] == context[answer["start"] : answer["end"]]
        for path in ("/health", "/docs", "/openapi.json"):
            assert urllib.request.urlopen(url + path, timeout=10).status == 200
    told = zoo_command.run("run", SHORT, "--question", question, "--context", context, "--json")
    assert json.loads(told)["answer"] == answer["answer"]
