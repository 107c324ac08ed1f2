"""Random tokens for a model, the same for every engine that runs it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from engine.errors import PipelineError
from engine.pipelines.model_folder import CONFIG, TOKENIZER, ModelFolder

_UNKNOWN_VOCABULARY = 16
"""Ids that every model's table has: which ones are read makes no difference to the time."""


def vocabulary(folder: ModelFolder) -> int:
    """Rows of the model's token table, as its config.json or tokenizer say."""
    stated = folder.config.get("vocab_size")
    if isinstance(stated, int) and not isinstance(stated, bool) and stated > 0:
        return stated
    return folder.tokenizer().get_vocab_size() if (folder.path / TOKENIZER).exists() else _UNKNOWN_VOCABULARY


def random_inputs(names: Iterable[str], tokens: int, batch: int, sequence: int) -> dict[str, NDArray[np.int64]]:
    """Arrays [batch, sequence] by input name: random ids below `tokens`, none of them padding, in two segments.

    Raises PipelineError for an input that no BERT has.
    """
    makers = {
        "input_ids": np.random.default_rng(0).integers(0, tokens, (batch, sequence), np.int64),
        "attention_mask": np.ones((batch, sequence), np.int64),
        "token_type_ids": np.tile((np.arange(sequence) >= sequence // 4).astype(np.int64), (batch, 1)),
    }
    unknown = [name for name in names if name not in makers]
    if unknown:
        raise PipelineError(f"the model wants inputs {unknown}; a benchmark can make {list(makers)}")
    return {name: makers[name] for name in names}


def check_length(folder: ModelFolder, sequence: int) -> None:
    """Raises PipelineError for more tokens than config.json allows."""
    reach = folder.longest_sequence
    if reach is not None and sequence > reach:
        raise PipelineError(f"sequence length {sequence} is more than the model's {reach}; see {CONFIG}")
