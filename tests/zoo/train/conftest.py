from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

torch.set_num_threads(1)

WORDS = (  # noqa: SIM905
    "the a of in on who what where when wrote found built river mountain city engine sparse model "
    "weight zero north south east west red green blue old new large small ends starts near far king "
    "queen book paper note was is by and or to from with 1843 1900 2022 first second third ada alan "
    "grace lake sea hill road ? . ,"
).split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make_tokenizer(words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


def tiny_config() -> BertConfig:
    return BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )


def save_other_encoder(folder: Path, kind: str) -> None:
    """Write an encoder without a head, and its tokenizer: a distilbert or a roberta."""
    torch.manual_seed(0)
    base: PreTrainedModel
    if kind == "roberta":
        base = RobertaModel(RobertaConfig(**{**tiny_config().to_dict(), "model_type": kind, "pad_token_id": 0}))
    else:
        sizes = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64}
        base = DistilBertModel(DistilBertConfig(vocab_size=len(SPECIAL) + len(WORDS), **sizes))
    base.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def tiny_bert(seed: int = 0) -> BertForQuestionAnswering:
    torch.manual_seed(seed)
    return BertForQuestionAnswering(tiny_config()).eval()


def make_questions(count: int, seed: int = 0) -> dict[str, object]:
    """Questions on contexts of random words: the answer is the word after the questioned one."""
    chosen = random.Random(seed)  # noqa: S311 - test data
    paragraphs = []
    for number in range(count):
        words = [chosen.choice(WORDS[:50]) for _ in range(chosen.randint(8, 30))]
        place = chosen.randrange(len(words) - 1)
        context = " ".join(words)
        start = len(" ".join(words[: place + 1])) + 1
        answer = {"text": words[place + 1], "answer_start": start}
        question = {"id": f"q{number}", "question": f"what is near {words[place]} ?", "answers": [answer]}
        paragraphs.append({"context": context, "qas": [question]})
    return {"version": "1.1", "data": [{"title": "tiny", "paragraphs": paragraphs}]}


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_bert().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_reviews(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Texts of random words, each with its label: whether it speaks of the sea."""
    chosen = random.Random(seed)  # noqa: S311 - test data
    texts = [" ".join(chosen.choice(WORDS[:50]) for _ in range(chosen.randint(3, 12))) for _ in range(count)]
    return [
        (f"{text} sea" if number % 2 else text.replace("sea", "hill"), str(number % 2))
        for number, text in enumerate(texts)
    ]


def write_tsv(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("".join(f"{text}\t{label}\n" for text, label in [("sentence", "label"), *rows]))
    return path


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a head."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    BertModel(tiny_config()).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Labelled texts to train on and to evaluate with."""
    folder = tmp_path_factory.mktemp("reviews")
    return write_tsv(folder / "train.tsv", make_reviews(24)), write_tsv(folder / "dev.tsv", make_reviews(9, seed=1))


def make_sentences(count: int, seed: int = 0) -> list[list[tuple[str, str]]]:
    """Sentences of random words and their tags: somebody, of one word or two, and at the end a place of two."""
    chosen = random.Random(seed)  # noqa: S311 - test data
    sentences = []
    for _ in range(count):
        words = [(word, "O") for word in chosen.choices(WORDS[:20], k=chosen.randint(3, 9))]
        place = chosen.randrange(len(words))
        words[place:place] = [
            (chosen.choice(["ada", "alan", "grace"]), "B-PER"),
            *([("hill", "I-PER")] if chosen.random() < 0.5 else []),
        ]
        sentences.append([*words, (chosen.choice(["north", "south"]), "B-LOC"), ("sea", "I-LOC")])
    return sentences


def write_conll(path: Path, sentences: list[list[tuple[str, str]]]) -> Path:
    lines = ["-DOCSTART- -X- -X- O", ""]
    for sentence in sentences:
        lines += [*(f"{word} NN X {tag}" for word, tag in sentence), ""]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Tagged words to train on and to evaluate with."""
    folder = tmp_path_factory.mktemp("sentences")
    dev = write_conll(folder / "dev.conll", make_sentences(9, seed=1))
    return write_conll(folder / "train.conll", make_sentences(96)), dev


@pytest.fixture(scope="session")
def train_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.json"
    path.write_text(json.dumps(make_questions(24)))
    return path


@pytest.fixture(scope="session")
def dev_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "dev.json"
    path.write_text(json.dumps(make_questions(8, seed=1)))
    return path
