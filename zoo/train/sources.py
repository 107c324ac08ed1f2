"""What a flag names: a local folder, or a `zoo:` stub to be pulled."""

from __future__ import annotations

from pathlib import Path

from zoo.errors import TrainingError
from zoo.recipe import Recipe

_STUB = "zoo:"


def training_folder(name: str) -> Path:
    """Return the local folder of a model to train or to learn from.

    Raises TrainingError when it is neither a folder nor a stub; for a stub, what `zoo.resolver.pull` raises.
    """
    if name.startswith(_STUB):
        from zoo.resolver import pull

        return pull(name, "training")
    folder = Path(name)
    if not folder.is_dir():
        raise TrainingError(
            f"{name} is no folder; name a folder with config.json and model.safetensors, or a zoo: stub"
        )
    return folder


def recipe_of(source: str | None, variables: str | None) -> Recipe:
    """Return the recipe that the flags name, an empty one for none. Raises RecipeError; see Recipe.load."""
    if source is None:
        if variables:
            raise TrainingError("--recipe_args replaces variables of a recipe; give --recipe too")
        return Recipe(modifiers=())
    return Recipe.load(source, variables)
