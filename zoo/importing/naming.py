"""The stubs that an imported model could have, from its configuration, its card and its weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from zoo.importing.weights import Measured
from zoo.stub import Stub

_TASKS = (
    ("ForQuestionAnswering", "nlp", "question_answering"),
    ("ForSequenceClassification", "nlp", "text_classification"),
    ("ForTokenClassification", "nlp", "token_classification"),
    ("ForMaskedLM", "nlp", "masked_language_modeling"),
    ("ForPreTraining", "nlp", "masked_language_modeling"),
    ("ForCausalLM", "nlg", "text_generation"),
    ("ForImageClassification", "cv", "classification"),
    ("ForObjectDetection", "cv", "detection"),
)
_SIZES = {(12, 768): "base", (24, 1024): "large"}
_DATASETS = ("squad", "sst2", "mnli", "qqp", "qnli", "mrpc", "conll2003", "imdb", "imagenet", "wikipedia", "bookcorpus")
_SAID = ("domain", "task", "architecture", "sub_architecture", "dataset")
_UPSTREAM = ("wikipedia", "bookcorpus")


class Naming(NamedTuple):
    """What a model is called: its long stub, its short one, and the parts that the card repeats."""

    stub: Stub
    alias: Stub
    facts: Mapping[str, str]


def propose(repo_id: str, config: Mapping[str, Any], card: Mapping[str, Any], measured: Measured) -> Naming:
    """Names after the long form's rules, short form with it: tags say the measured sparsity and pattern."""
    said = {key: _segment(str(card[key])) for key in (*_SAID, "sub_domain") if isinstance(card.get(key), str)}
    domain, task = _task(config)
    architecture, size = _architecture(config)
    domain, task = said.get("domain", domain), said.get("task", said.get("sub_domain", task))
    architecture, size = said.get("architecture", architecture), said.get("sub_architecture", size)
    named = _datasets(repo_id, card)
    tuned = [name for name in named if name not in _UPSTREAM]
    dataset = said.get("dataset") or (tuned[0] if tuned else "") or "_".join(named) or "custom"
    model = f"{architecture}-{size}"
    percent = f"pruned{round(100 * measured.sparsity)}" if measured.pattern else ""
    is_block = measured.pattern == "block4"
    tag = "_".join(part for part in (percent, "quant" if measured.is_quantized else "") if part) or "base"
    long = f"zoo:{domain}/{task}/{model}/pytorch/huggingface/{dataset}/{tag}-none" + ("-vnni" if is_block else "")
    words = [percent + (".4block" if is_block else ""), "quantized" if measured.is_quantized else ""]
    short = f"zoo:{model}-{'_'.join(dict.fromkeys([dataset, *named]))}-{'_'.join(filter(None, words)) or 'base'}"
    facts = {"domain": domain, "task": task, "architecture": architecture, "sub_architecture": size, "dataset": dataset}
    return Naming(Stub.parse(long), Stub.parse(short), {**facts, "framework": "pytorch", "repo": "huggingface"})


def _task(config: Mapping[str, Any]) -> tuple[str, str]:
    listed = config.get("architectures")
    classes = [str(name) for name in listed] if isinstance(listed, list) else []
    for ending, domain, task in _TASKS:
        if any(name.endswith(ending) for name in classes):
            return domain, task
    return "nlp", "feature_extraction"


def _architecture(config: Mapping[str, Any]) -> tuple[str, str]:
    architecture = _segment(str(config.get("model_type") or "model"))
    layers = config.get("num_hidden_layers", config.get("n_layers"))
    hidden = config.get("hidden_size", config.get("dim"))
    if architecture == "distilbert" and (layers, hidden) == (6, 768):
        return architecture, "none"
    if not isinstance(layers, int) or not isinstance(hidden, int):
        return architecture, "none"
    return architecture, _SIZES.get((layers, hidden), f"l{layers}_h{hidden}")


def _datasets(repo_id: str, card: Mapping[str, Any]) -> list[str]:
    """Known data sets that the card lists, or that the repository's name holds."""
    listed = card.get("datasets")
    texts: Iterable[object] = listed if isinstance(listed, list) else [listed] if listed else []
    joined = "_".join(_segment(str(text)) for text in texts)
    found = [name for name in _DATASETS if name in joined] or [name for name in _DATASETS if name in repo_id.lower()]
    return list(dict.fromkeys(found))


def _segment(text: str) -> str:
    """A text as a part of a stub's segment, without the dash that joins parts."""
    return re.sub(r"[^a-z0-9._]+", "_", text.lower()).strip("._")[:60] or "model"
