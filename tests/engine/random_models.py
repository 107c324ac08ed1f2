"""A tiny BERT of random weights twice: for transformers' own pipelines, and as an ONNX folder for ours."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tests.engine.tiny_models import POSITIONS, tiny_tokenizer

_INPUTS = ["input_ids", "attention_mask", "token_type_ids"]


@dataclass(frozen=True)
class RandomModel:
    """The folder, and what `transformers.pipeline` takes."""

    folder: Path
    model: Any
    tokenizer: Any

    def pipeline(self, task: str, **options: Any) -> Any:
        import transformers

        return transformers.pipeline(task, model=self.model, tokenizer=self.tokenizer, **options)


def word_pieces() -> Tokenizer:
    """The tiny models' tokenizer, with a decoder."""
    tokenizer = tiny_tokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def byte_pairs(texts: Sequence[str]) -> Tokenizer:
    """A tokenizer as RoBERTa's, of the special tokens of the other: pieces of bytes, spaces kept before words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2), add_prefix_space=False)
    return tokenizer


def random_model(
    folder: Path, architecture: str, labels: Sequence[str], seed: int, tokenizer: Tokenizer | None = None
) -> RandomModel:
    """Make a model of one of transformers' BERT classes that classify; its logits lie far apart."""
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokenizer = tokenizer or word_pieces()
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=POSITIONS,
        initializer_range=0.4,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        attn_implementation="eager",
    )
    model = getattr(transformers, architecture)(config).eval()
    config.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    _export(model, folder / "model.onnx")
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    limits = {"model_max_length": POSITIONS, "model_input_names": _INPUTS}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **limits, **names)
    return RandomModel(folder, model, fast)


def _export(model: Any, path: Path) -> None:
    """By torch's older exporter, which takes a tenth of the newer one's time."""
    import torch

    ids = torch.ones((2, 7), dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(ids for _ in _INPUTS),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=_INPUTS,
            output_names=["logits"],
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in _INPUTS},
        )
