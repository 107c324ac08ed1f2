"""What a flag names: a local folder, or a `zoo:` stub to be pulled."""

from __future__ import annotations

from pathlib import Path

from zoo.errors import TrainingError
from zoo.recipe import Recipe
from zoo.settings import Settings
from zoo.terminal import transfer_bars

_STUB = "zoo:"


def pulled(stub: str, role: str, cache: str | None = None) -> Path:
    """Pull into the cache that the settings name, or `cache`, with a bar. Raises what `zoo.resolver.pull` raises."""
    from zoo.resolver import pull

    with transfer_bars() as progress:
        return pull(stub, role, progress=progress, settings=Settings.load(cache=cache))


def training_folder(name: str, cache: str | None = None) -> Path:
    """Return the local folder of a model to train or to learn from; a stub is pulled into `cache`.

    Raises TrainingError when it is neither a folder nor a stub; for a stub, what `zoo.resolver.pull` raises.
    """
    if name.startswith(_STUB):
        return pulled(name, "training", cache)
    folder = Path(name)
    if not folder.is_dir():
        raise TrainingError(
            f"{name} is no folder; name a folder with config.json and model.safetensors, or a zoo: stub"
        )
    return folder


def recipe_of(source: str | None, variables: str | None, cache: str | None = None) -> Recipe:
    """Return the recipe that the flags name, an empty one for none. Raises RecipeError; see Recipe.load."""
    if source is None:
        if variables:
            raise TrainingError("--recipe_args replaces variables of a recipe; give --recipe too")
        return Recipe(modifiers=())
    is_stub = source.startswith(_STUB) and "\n" not in source
    return Recipe.load(pulled(source, "recipe", cache) if is_stub else source, variables)
