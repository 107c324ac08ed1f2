"""The tasks that a pipeline can be made for, by name and alias."""

from __future__ import annotations

import re
from typing import Any

from engine.errors import PipelineError
from engine.pipelines.embedding import EmbeddingPipeline
from engine.pipelines.pipeline import Pipeline
from engine.pipelines.question_answering import QuestionAnsweringPipeline
from engine.pipelines.text_classification import TextClassificationPipeline
from engine.pipelines.token_classification import TokenClassificationPipeline
from engine.pipelines.zero_shot_text_classification import ZeroShotPipeline

TASKS: tuple[type[Pipeline[Any, Any, Any]], ...] = (
    QuestionAnsweringPipeline,
    TextClassificationPipeline,
    TokenClassificationPipeline,
    ZeroShotPipeline,
    EmbeddingPipeline,
)


def find_task(name: str) -> type[Pipeline[Any, Any, Any]]:
    """Return the pipeline of a task; case, `-`, `_` and spaces don't matter.

    Raises PipelineError naming the known tasks.
    """
    wanted = re.sub(r"[-_\s]+", "_", name.strip()).lower()
    for kind in TASKS:
        if wanted in (kind.task, *kind.aliases):
            return kind
    known = ", ".join(" or ".join((kind.task, *kind.aliases)) for kind in TASKS)
    raise PipelineError(f"no task is named {name!r}; known: {known}")
