"""One-layer BERT models as ONNX folders, small enough for a test, whose answers are known by construction.

The word table gives every word a direction, and the heads look for chosen words: the question answering model
starts an answer at `START_WORD` and ends it at `END_WORD`, the classifier finds `POSITIVE_WORD` positive.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

ENGINES = ["onnxruntime", "sparrow"]
START_WORD, END_WORD, POSITIVE_WORD = "paris", "spring", "lovely"
WORDS = ["where", "who", "sat", "the", "cat", "in", "at", "on", "it", "was", "is", "?", ".", ",", "mat"]
HIDDEN, HEADS, INNER, POSITIONS = 32, 2, 64, 96


def tiny_tokenizer() -> Tokenizer:
    letters = [chr(code) for code in range(97, 123)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokens = [*special, *WORDS, START_WORD, END_WORD, POSITIVE_WORD, *letters, *("##" + letter for letter in letters)]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return tokenizer


class _Graph:
    """Collects nodes and weights, and names every value."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.random = np.random.default_rng(7)

    def weight(self, values: Any, dtype: Any = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, op: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        name = out or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def linear(self, x: str, size_in: int, size_out: int, diagonal: float = 0.0) -> str:
        values = self.random.normal(0, 0.05, (size_in, size_out)) + diagonal * np.eye(size_in, size_out)
        return self.add("Add", self.add("MatMul", x, self.weight(values)), self.weight(np.zeros(size_out)))

    def norm(self, x: str) -> str:
        gamma, beta = self.weight(np.ones(HIDDEN)), self.weight(np.zeros(HIDDEN))
        return self.add("LayerNormalization", x, gamma, beta, axis=-1, epsilon=1e-12)


def _embeddings(graph: _Graph, words: np.ndarray) -> str:
    """Sum words, token types and positions 0..S-1, read off the shape of input_ids."""
    length = graph.add("Slice", graph.add("Shape", "input_ids"), *(graph.weight([n], np.int64) for n in (1, 2, 0)))
    starts, axes = graph.weight([0], np.int64), graph.weight([1], np.int64)
    numbers = graph.add("Slice", graph.weight([range(POSITIONS)], np.int64), starts, length, axes)
    table = graph.weight(graph.random.normal(0, 0.02, (POSITIONS, HIDDEN)))
    positions = graph.add("Gather", table, numbers, axis=0)
    types = graph.add("Gather", graph.weight(graph.random.normal(0, 0.02, (2, HIDDEN))), "token_type_ids", axis=0)
    both = graph.add("Add", graph.add("Gather", graph.weight(words), "input_ids", axis=0), types)
    return graph.norm(graph.add("Add", both, positions))


def _attention(graph: _Graph, x: str, mixing: float, *, masked: bool) -> str:
    """Mix into each token `mixing` squared of the mean of all tokens; without a mask, of padding too."""

    def heads(perm: list[int], diagonal: float = 0.0) -> str:
        shape = graph.weight([0, 0, HEADS, HIDDEN // HEADS], np.int64)
        projected = graph.linear(x, HIDDEN, HIDDEN, diagonal)
        return graph.add("Transpose", graph.add("Reshape", projected, shape), perm=perm)

    query, key, value = heads([0, 2, 1, 3]), heads([0, 2, 3, 1]), heads([0, 2, 1, 3], mixing)
    scores = graph.add("Div", graph.add("MatMul", query, key), graph.weight((HIDDEN / HEADS) ** 0.5))
    if masked:
        mask = graph.add("Cast", "attention_mask", to=TensorProto.FLOAT)
        mask = graph.add("Unsqueeze", mask, graph.weight([1, 2], np.int64))
        lowest = graph.weight(float(np.finfo(np.float32).min))
        scores = graph.add("Add", scores, graph.add("Mul", graph.add("Sub", graph.weight(1.0), mask), lowest))
    weights = graph.add("Softmax", scores, axis=-1)
    mixed = graph.add("Transpose", graph.add("MatMul", weights, value), perm=[0, 2, 1, 3])
    joined = graph.add("Reshape", mixed, graph.weight([0, 0, HIDDEN], np.int64))
    return graph.norm(graph.add("Add", graph.linear(joined, HIDDEN, HIDDEN, mixing), x))


def _feed_forward(graph: _Graph, x: str) -> str:
    inner = graph.linear(x, HIDDEN, INNER)
    erf = graph.add("Erf", graph.add("Div", inner, graph.weight(2.0**0.5)))
    gelu = graph.add("Mul", inner, graph.add("Add", erf, graph.weight(1.0)))
    gelu = graph.add("Mul", gelu, graph.weight(0.5))
    return graph.norm(graph.add("Add", graph.linear(gelu, INNER, HIDDEN), x))


def _look_for(graph: _Graph, x: str, words: np.ndarray, ids: list[int]) -> str:
    """Output k is large where the token is ids[k]: its own direction is the head's weight."""
    found = words[ids]
    return graph.add("MatMul", x, graph.weight((found / np.linalg.norm(found, axis=1, keepdims=True)).T))


def _save(folder: Path, graph: _Graph, outputs: dict[str, list[Any]], tokenizer: Tokenizer, **config: Any) -> Path:
    used = {name for node in graph.nodes for name in node.input}
    inputs = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in used]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "tiny",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.checker.check_model(model, full_check=True)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"model_type": "bert", "max_position_embeddings": POSITIONS, "vocab_size": tokenizer.get_vocab_size()}
    (folder / "config.json").write_text(json.dumps({**settings, **config}))
    return folder


def _encoder(tokenizer: Tokenizer, mixing: float = 0.1, *, masked: bool = True) -> tuple[_Graph, np.ndarray, str]:
    graph = _Graph()
    words = graph.random.normal(0, 1, (tokenizer.get_vocab_size(), HIDDEN)).astype(np.float32)
    return graph, words, _feed_forward(graph, _attention(graph, _embeddings(graph, words), mixing, masked=masked))


def question_answering_model(folder: Path) -> Path:
    """Write a model that answers with what lies between START_WORD and END_WORD."""
    tokenizer = tiny_tokenizer()
    graph, words, x = _encoder(tokenizer)
    logits = _look_for(graph, x, words, [tokenizer.token_to_id(word) for word in (START_WORD, END_WORD)])
    axis = graph.weight([-1], np.int64)
    node = helper.make_node("Split", [logits, graph.weight([1, 1], np.int64)], ["start", "end"], name="split", axis=-1)
    graph.nodes.append(node)
    graph.add("Squeeze", "start", axis, out="start_logits")
    graph.add("Squeeze", "end", axis, out="end_logits")
    shape = ["batch", "sequence"]
    return _save(folder, graph, {"start_logits": shape, "end_logits": shape}, tokenizer)


def embedding_model(folder: Path, *, masked: bool = True) -> Path:
    """Write an encoder with last_hidden_state as its output, with or without the input attention_mask."""
    tokenizer = tiny_tokenizer()
    graph, _, x = _encoder(tokenizer, mixing=1.0, masked=masked)
    graph.add("Identity", x, out="last_hidden_state")
    return _save(folder, graph, {"last_hidden_state": ["batch", "sequence", HIDDEN]}, tokenizer)


def text_classification_model(folder: Path) -> Path:
    """Write a classifier on the first token, which attention tells of the other words."""
    tokenizer = tiny_tokenizer()
    graph, words, x = _encoder(tokenizer, mixing=2.0)
    first = graph.add("Gather", x, graph.weight(0, np.int64), axis=1)
    found = words[tokenizer.token_to_id(POSITIVE_WORD)]
    head = graph.weight(np.stack([-found, found], axis=1) / np.linalg.norm(found))
    graph.add("Add", graph.add("MatMul", first, head), graph.weight([0.5, -0.5]), out="logits")
    labels = {"0": "negative", "1": "positive"}
    return _save(folder, graph, {"logits": ["batch", 2]}, tokenizer, id2label=labels)


def token_classification_model(folder: Path, labels: Mapping[str, str] | None = None) -> Path:
    """Write a model that gives each of some words its label, and O to all others."""
    named = labels or {START_WORD: "B-LOC", END_WORD: "B-TIME", "mat": "I-THING"}
    tokenizer = tiny_tokenizer()
    graph, words, x = _encoder(tokenizer)
    found = _look_for(graph, x, words, [tokenizer.token_to_id(word) for word in named])
    spread = graph.weight(np.eye(len(named), len(named) + 1, 1))
    graph.add("Add", graph.add("MatMul", found, spread), graph.weight([3.0, *(0.0 for _ in named)]), out="logits")
    names = dict(enumerate(["O", *named.values()]))
    return _save(folder, graph, {"logits": ["batch", "sequence", len(names)]}, tokenizer, id2label=names)
