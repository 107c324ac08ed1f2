"""Training with recipes. Only this package and `zoo.export` import torch; nothing is imported until it is used.

`RecipeSession` brings a recipe into any PyTorch loop; `ModelTeacher` makes a model the teacher of one.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.train.distillation import ModelTeacher
    from zoo.train.session import RecipeSession

__all__ = ["ModelTeacher", "RecipeSession"]

_HOMES = {"ModelTeacher": "zoo.train.distillation", "RecipeSession": "zoo.train.session"}

# Threads that spin at OpenMP barriers starve each other, and everyone else, on shared cores; torch reads this once,
# when it is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo.train' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
