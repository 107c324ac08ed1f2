"""Sparrow's library: pull, publish and find sparse models under `zoo:` stubs.

>>> import zoo
>>> folder = zoo.pull("zoo:bert-large-wikipedia_bookcorpus-pruned80.4block_quantized", "deployment")

Every public name is loaded when it is first used, so that `import zoo` costs almost nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.errors import (
        AccessError,
        CacheError,
        CheckError,
        ConflictError,
        IntegrityError,
        ManifestError,
        NotFoundError,
        RecipeError,
        StubError,
        TrainingError,
        UnavailableError,
        ZooError,
    )
    from zoo.manifest import Manifest, Role
    from zoo.progress import ProgressEvent, ZooWarning
    from zoo.publish import publish, publish_benchmark
    from zoo.recipe import Recipe
    from zoo.resolver import pull, resolve, search
    from zoo.settings import Settings, SettingsError
    from zoo.stub import Stub

_HOMES = {
    "AccessError": "zoo.errors",
    "CacheError": "zoo.errors",
    "CheckError": "zoo.errors",
    "ConflictError": "zoo.errors",
    "IntegrityError": "zoo.errors",
    "Manifest": "zoo.manifest",
    "ManifestError": "zoo.errors",
    "NotFoundError": "zoo.errors",
    "ProgressEvent": "zoo.progress",
    "Recipe": "zoo.recipe",
    "RecipeError": "zoo.errors",
    "Role": "zoo.manifest",
    "Settings": "zoo.settings",
    "SettingsError": "zoo.settings",
    "Stub": "zoo.stub",
    "StubError": "zoo.errors",
    "TrainingError": "zoo.errors",
    "UnavailableError": "zoo.errors",
    "ZooError": "zoo.errors",
    "ZooWarning": "zoo.progress",
    "publish": "zoo.publish",
    "publish_benchmark": "zoo.publish",
    "pull": "zoo.resolver",
    "resolve": "zoo.resolver",
    "search": "zoo.resolver",
}

__all__ = [
    "AccessError",
    "CacheError",
    "CheckError",
    "ConflictError",
    "IntegrityError",
    "Manifest",
    "ManifestError",
    "NotFoundError",
    "ProgressEvent",
    "Recipe",
    "RecipeError",
    "Role",
    "Settings",
    "SettingsError",
    "Stub",
    "StubError",
    "TrainingError",
    "UnavailableError",
    "ZooError",
    "ZooWarning",
    "publish",
    "publish_benchmark",
    "pull",
    "resolve",
    "search",
]


class _Package(ModuleType):
    """Keeps `zoo.publish` the function: importing the module of that name would put the module there."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


sys.modules[__name__].__class__ = _Package
