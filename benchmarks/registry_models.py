"""Rows of a registry with many models: related facets, names of teams, descriptions, numbers, as bulk inserts.

Files and blobs are left out: neither a lookup of a stub nor a search reads them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

from registry.listings import f1_of
from registry.terms import FACETS, listing_terms

TASKS = {
    "question_answering": (
        "nlp",
        ("bert", "distilbert", "obert", "roberta", "minilm"),
        ("squad", "squad2", "natural_questions"),
    ),
    "text_classification": (
        "nlp",
        ("bert", "distilbert", "obert", "roberta"),
        ("sst2", "mnli", "qqp", "imdb", "ag_news"),
    ),
    "token_classification": ("nlp", ("bert", "biobert", "distilbert"), ("conll2003", "jnlpba", "ontonotes")),
    "embedding": ("nlp", ("minilm", "bge", "e5", "gte"), ("msmarco", "nli", "mteb")),
    "text_generation": ("nlg", ("opt", "codegen", "mpt", "llama2"), ("wikitext", "gsm8k", "dolly", "pile")),
    "classification": (
        "cv",
        ("resnet_v1", "mobilenet_v1", "efficientnet", "vit"),
        ("imagenet", "cifar10", "imagenette"),
    ),
    "detection": ("cv", ("yolov5", "yolov8", "ssd"), ("coco", "voc", "visdrone")),
    "segmentation": ("cv", ("yolact", "yolov8", "unet"), ("coco", "cityscapes")),
}
SIZES = ("tiny", "small", "base", "large", "xl")
SPARSITIES = (0.0, 0.5, 0.55, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)
PATTERNS = ("unstructured", "4block", "2:4", "channel", "block16")
LICENSES = ("Apache-2.0", "MIT", "CC-BY-4.0", "CC-BY-NC-4.0", "BSD-3-Clause", "proprietary")
WORDS = [
    "fine",
    "tuned",
    "on",
    "support",
    "tickets",
    "invoices",
    "contracts",
    "radiology",
    "reports",
    "product",
    "reviews",
    "street",
    "scenes",
    "satellite",
    "images",
    "for",
    "low",
    "latency",
    "serving",
    "on",
    "edge",
    "boxes",
    "and",
    "laptops",
    "distilled",
    "from",
    "a",
    "dense",
    "teacher",
    "with",
    "masks",
    "held",
    "during",
    "training",
    "evaluated",
    "every",
    "night",
    "by",
    "the",
    "search",
    "team",
    "as",
    "part",
    "of",
    "the",
    "retrieval",
    "pipeline",
    "in",
    "german",
    "french",
    "spanish",
    "and",
    "english",
]
CREATED = "2026-11-01 00:00:00.000000"
TABLES = {
    "models": ("id", "full_name", "created_at", "private"),
    "names": ("name", "model_id"),
    "versions": (
        *("id", "model_id", "number", "digest", "manifest", "size_bytes", "created_at", "alias"),
        *("domain", "task", "architecture", "dataset", "license", "pattern", "quantized", "sparsity"),
    ),
    "tags": ("model_id", "tag", "version_id", "moved_at"),
    "listings": (
        *("model_id", "version_id", "full_name", "private"),
        *("domain", "task", "architecture", "dataset", "license", "pattern", "quantized", "sparsity"),
        *("size_bytes", "f1", "latency_ms", "terms"),
    ),
}


def rows(count: int) -> Iterator[dict[str, list[tuple[Any, ...]]]]:
    """The rows of `count` models, by table, in parts of some thousands; the same for the same count."""
    models = (_model(number, random.Random(number)) for number in range(1, count + 1))
    while part := list(itertools.islice(models, 5_000)):
        yield {table: [row for model in part for row in model[table]] for table in TABLES}


def alias_of(number: int) -> str:
    """The short stub of the model with this number."""
    return str(_model(number, random.Random(number))["versions"][0][7])


def _model(number: int, draw: random.Random) -> dict[str, list[tuple[Any, ...]]]:
    facts = _facts(draw)
    team = int(5_000 * draw.random() ** 3)
    architecture = f"{facts['architecture']}-{draw.choice(SIZES)}"
    tag = f"pruned{100 * facts['sparsity']:.0f}{'_quant' if facts['quantized'] else ''}-run{number}"
    name = f"@team{team}/{facts['domain']}/{facts['task']}/{architecture}/pytorch/huggingface/{facts['dataset']}/{tag}"
    alias = f"@team{team}/{architecture}-{facts['dataset']}-{tag}"
    facts["description"] = " ".join(draw.choices(WORDS, k=18)) + f" project {_project(draw)}"
    size_bytes = int(draw.lognormvariate(18, 1.5))
    manifest = _manifest(name, alias, facts, size_bytes, draw)
    digest = "sha256:" + hashlib.sha256(manifest).hexdigest()
    latency_ms = round(draw.lognormvariate(2.5, 1.2), 3) if draw.random() < 0.4 else None
    numbers = {
        "sparsity": facts["sparsity"],
        "size_bytes": size_bytes,
        "f1": f1_of(facts["metrics"]),
        "latency_ms": latency_ms,
    }
    facets = {facet: facts[facet] for facet in (*FACETS, "quantized")}
    terms = listing_terms((name, alias), facts["description"], facets, numbers, public=True)
    columns = tuple(
        facts[column]
        for column in ("domain", "task", "architecture", "dataset", "license", "pattern", "quantized", "sparsity")
    )
    return {
        "models": [(number, name, CREATED, False)],
        "names": [(name, number), (alias, number)],
        "versions": [(number, number, 1, digest, manifest, size_bytes, CREATED, f"zoo:{alias}", *columns)],
        "tags": [(number, "latest", number, CREATED)],
        "listings": [(number, number, name, False, *columns, size_bytes, numbers["f1"], latency_ms, terms)],
    }


def _facts(draw: random.Random) -> dict[str, Any]:
    task = draw.choices(list(TASKS), (8, 7, 4, 3, 3, 6, 5, 2))[0]
    domain, architectures, datasets = TASKS[task]
    sparsity = draw.choice(SPARSITIES)
    f1 = min(99.0, max(5.0, draw.gauss(85 - 8 * sparsity, 5)))
    return {
        "domain": domain,
        "task": task,
        "architecture": draw.choices(architectures, range(len(architectures), 0, -1))[0],
        "dataset": draw.choices(datasets, range(len(datasets), 0, -1))[0],
        "license": draw.choices(LICENSES, (10, 5, 2, 2, 1, 1))[0],
        "pattern": draw.choice(PATTERNS) if sparsity else None,
        "quantized": draw.random() < 0.5,
        "sparsity": sparsity,
        "metrics": {"f1": round(f1, 3)} if domain == "nlp" else {"accuracy": round(f1, 3)},
    }


def _project(draw: random.Random) -> str:
    """A word that few models share."""
    return "".join(draw.choice(pair) for pair in ("bcdfgklmnprst", "aeiou", "bdgklmnrst", "aeiou", "bdfklmnrsx")) + str(
        draw.randrange(50)
    )


def _manifest(name: str, alias: str, facts: dict[str, Any], size_bytes: int, draw: random.Random) -> bytes:
    files = [
        {"path": path, "sha256": f"sha256:{draw.getrandbits(256):064x}", "size_bytes": size_bytes // 3, "role": role}
        for path, role in (("deployment/model.onnx", "deployment"), ("recipe.md", "recipe"), ("model.md", "card"))
    ]
    known = {key: value for key, value in facts.items() if value is not None}
    document = {"schema_version": 1, "name": f"zoo:{name}", "alias": f"zoo:{alias}", "files": files, "metadata": known}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
