"""The folder that a pipeline serves: model.onnx, tokenizer.json and, where it says more, config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from engine.errors import PipelineError
from zoo.answers import load_tokenizer

MODEL, TOKENIZER, CONFIG = "model.onnx", "tokenizer.json", "config.json"


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """Where a model's deployment files lie, and what its config.json says (empty without one)."""

    path: Path
    model: Path
    config: Mapping[str, Any]

    @property
    def longest_sequence(self) -> int | None:
        """Tokens that the position table holds, or None when config.json doesn't say."""
        rows = self.config.get("max_position_embeddings")
        if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
            return None
        kind, padding = str(self.config.get("model_type")), self.config.get("pad_token_id")
        counts_from_padding = "roberta" in kind or kind in ("camembert", "mpnet")
        return rows - padding - 1 if counts_from_padding and isinstance(padding, int) else rows

    def label(self, index: int) -> str:
        """Return what config.json calls a classifier's output `index`, or LABEL_index."""
        return self.labels().get(index, f"LABEL_{index}")

    def labels(self) -> dict[int, str]:
        """Return the names of a classifier's outputs that config.json gives."""
        names = self.config.get("id2label")
        rows = names.items() if isinstance(names, dict) else ()
        return {int(index): str(name) for index, name in rows if str(index).isdecimal()}

    def tokenizer(self) -> Tokenizer:
        """Read tokenizer.json. Raises PipelineError naming what to do when it is missing or damaged."""
        path = self.path / TOKENIZER
        try:
            return load_tokenizer(path)
        except FileNotFoundError:
            raise PipelineError(
                f"{self.path} has no {TOKENIZER}; write it again with `zoo export`, or copy the trained model's"
            ) from None
        except (OSError, ValueError) as error:
            raise PipelineError(f"{path} can't be used: {error}") from error


def find_model_folder(source: Path | str) -> ModelFolder:
    """Find the files of `source`: a folder, a folder with them in `deployment/`, its model.onnx itself, or a
    `zoo:` stub, which is fetched.

    Raises PipelineError that names what is missing and the command that makes it; for a stub ZooError.
    """
    if isinstance(source, str) and source.startswith("zoo:"):
        # Here, so that a local folder needs neither the registry's client nor the network.
        from engine.model_source import find_model

        path = find_model(source)
    else:
        path = Path(source)
    if path.is_file():
        return ModelFolder(path.parent, path, _read_config(path.parent / CONFIG))
    if not path.is_dir():
        raise PipelineError(f"{path} doesn't exist; fetch a model with `zoo pull STUB --role deployment`")
    for folder in (path, path / "deployment"):
        if (folder / MODEL).is_file():
            return ModelFolder(folder, folder / MODEL, _read_config(folder / CONFIG))
    raise PipelineError(f"{path} has no {MODEL}, nor has its deployment/; make it with `zoo export {path}`")


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PipelineError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise PipelineError(f"{path} holds no JSON object")
    return config
