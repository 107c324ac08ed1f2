"""A recipe as its page shows it, read from a stranger's text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from registry.pictures import Schedule, schedule
from registry.schemas import FileView
from zoo.errors import RecipeError
from zoo.recipe import Recipe
from zoo.schedule import plan

STEPS_PER_EPOCH = 100  # of the picture alone: a recipe speaks of epochs


_NAMED = re.compile(r"(?:.*/)?recipe_(.+)\.(?:md|yaml|yml)")
_DEFAULT = re.compile(r"(?:.*/)?recipe\.(?:md|yaml|yml)")


class RecipeFile(NamedTuple):
    """A recipe of a version, and what a stub's ?recipe= says for it; None for the default."""

    name: str | None
    file: FileView


def recipes_of(files: Sequence[FileView]) -> list[RecipeFile]:
    """The recipes among a version's recipe files that a stub can name, the default first."""
    default = [RecipeFile(None, file) for file in files if _DEFAULT.fullmatch(file.path)][:1]
    named = {match[1]: file for file in reversed(files) if (match := _NAMED.fullmatch(file.path))}
    found = [*default, *(RecipeFile(name, named[name]) for name in sorted(named))]
    return found or [RecipeFile(None, file) for file in files[:1]]


def find_recipe(recipes: Sequence[RecipeFile], name: str | None) -> RecipeFile | None:
    """The recipe of that name, or whose name begins so, as the library chooses; the first one where none is named."""
    if name is None:
        return next(iter(recipes), None)
    exact = [recipe for recipe in recipes if recipe.name == name]
    return next(iter([*exact, *(recipe for recipe in recipes if (recipe.name or "").startswith(name))]), None)


class Run(NamedTuple):
    """What a recipe does: its picture, if it has a length, its modifiers with their fields, and its variables."""

    picture: Schedule | None
    epochs: float
    modifiers: list[tuple[str, list[tuple[str, str]]]]
    variables: list[tuple[str, str]]
    findings: list[str]
    error: str | None


def read_run(text: str) -> Run | None:
    """Reads a recipe's text; None without one. What is wrong with it is said, not raised."""
    if not text.strip():
        return None
    try:
        recipe = Recipe.load(text + "\n")  # with a line break it is text, never the path of a file
    except RecipeError as error:
        return Run(None, 0, [], [], [], str(error))
    try:
        picture = schedule(plan(recipe, STEPS_PER_EPOCH))
    except RecipeError:
        picture = None
    modifiers = [
        (modifier.name, [(name, _shown(value)) for name, value in modifier.model_dump(exclude_defaults=True).items()])
        for modifier in recipe.modifiers
    ]
    variables = [(name, _shown(value)) for name, value in recipe.variables.items()]
    findings = [str(finding) for finding in recipe.lint()]
    return Run(picture, recipe.max_epochs, modifiers, variables, findings, None)


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_shown(item) for item in value)[:400]
    return (f"{value:g}" if isinstance(value, float) else str(value))[:400]
