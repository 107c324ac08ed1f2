"""Recipes: what is done to a model while it trains, as typed, frozen data.

    Recipe.load(path | text | zoo: stub, variables) -> Recipe

Reads SparseML's recipes: YAML, or Markdown with YAML front matter; `!Modifier` tags or plain `Modifier:` keys;
variables with `eval(...)`; stages. Nothing is ignored silently: what a recipe says is done, reported or refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from zoo.errors import RecipeError
from zoo.modifiers import SUPPORTED, UNSUPPORTED, Modifier
from zoo.recipe_checks import Finding, Placed, check, max_epochs
from zoo.recipe_reader import Node, read_yaml
from zoo.recipe_source import Source, read_source
from zoo.recipe_variables import Plain, Scope, near, parse_overrides
from zoo.recipe_writer import write_yaml

__all__ = ["Finding", "Recipe", "lint"]

MAX_WRITTEN_CHARS = 48 * 1024  # at 3 characters a value, within what the reader takes
METADATA = "__metadata__"
M = TypeVar("M", bound=Modifier)


@dataclass(frozen=True, eq=False)
class Recipe:
    """A recipe that was read and checked. Two recipes are equal when their canonical texts are.

    `variables` are evaluated; a stage's own stand under `stage.name`. `description` is the Markdown body.
    """

    modifiers: tuple[Modifier, ...]
    variables: dict[str, Plain] = field(default_factory=dict)
    metadata: dict[str, Plain] = field(default_factory=dict)
    description: str = ""
    source_text: str = ""
    lines: tuple[int | None, ...] = ()
    notes: tuple[Finding, ...] = ()
    overrides: Mapping[str, Node] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, source: str | Path | Recipe, variables: Mapping[str, object] | str | None = None) -> Recipe:
        """Read a recipe from a path (.yaml, .yml, .md), a `zoo:` stub, or text that holds a line break; or take one.

        `variables` override variables that the recipe has, and earlier overrides of a recipe that is taken: a mapping,
        JSON, or `name=value,name=value`. Raises RecipeError with line and column where known; for a stub, also what
        `zoo.resolver.pull` raises.
        """
        earlier: Mapping[str, Node] = {}
        if isinstance(source, Recipe):
            if not variables:
                return source
            earlier, source = source.overrides, source.source_text + "\n"
        found = read_source(source)
        recipe = _assemble(found, read_yaml(found.yaml), {**earlier, **parse_overrides(variables)})
        if len(recipe.to_yaml()) > MAX_WRITTEN_CHARS:
            raise RecipeError(f"the recipe, with its variables written out, exceeds {MAX_WRITTEN_CHARS // 1024} KiB")
        errors = [finding for finding in recipe.lint() if finding.level == "error"]
        if errors:
            raise RecipeError("; ".join(finding.message for finding in errors), errors[0].line)
        return recipe

    @property
    def max_epochs(self) -> float:
        """Length of the run in epochs, the latest start or end of all modifiers; 0 where the recipe has no say."""
        return max_epochs(self.modifiers)

    @property
    def min_epochs(self) -> float:
        """The first epoch at which any modifier starts; 0 for a recipe without modifiers."""
        return min((modifier.start for modifier in self.modifiers), default=0.0)

    @property
    def digest(self) -> str:
        """sha256 of the canonical text, 64 hexadecimal digits."""
        return hashlib.sha256(self.to_yaml().encode()).hexdigest()

    def of_type(self, kind: type[M]) -> list[M]:
        """The modifiers of one class, in the order of the recipe."""
        return [modifier for modifier in self.modifiers if isinstance(modifier, kind)]

    def lint(self) -> list[Finding]:
        """What to know about the recipe: warnings, and what was mapped or has no effect."""
        lines = self.lines or (None,) * len(self.modifiers)
        placed = [Placed(modifier, line) for modifier, line in zip(self.modifiers, lines, strict=True)]
        return [*self.notes, *check(placed)]

    def to_yaml(self) -> str:
        """The canonical text: variables and expressions evaluated, defaults left out; loads back equal."""
        return write_yaml(self.variables, self.modifiers, {METADATA: self.metadata} if self.metadata else {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.to_yaml() == other.to_yaml()

    def __hash__(self) -> int:
        return hash(self.digest)


def lint(source: str | Path | Recipe, variables: Mapping[str, object] | str | None = None) -> list[Finding]:
    """Findings about a recipe that may not even load; what stops it from loading is an error among them."""
    try:
        return Recipe.load(source, variables).lint()
    except RecipeError as error:
        return [Finding("error", error.reason, error.line)]


@dataclass
class _Stage:
    """One level of a recipe: the whole, or a named stage of it."""

    name: str | None
    variables: dict[str, Node] = field(default_factory=dict)
    groups: list[Node] = field(default_factory=list)
    metadata: Node | None = None

    def full_name(self, variable: str) -> str:
        return variable if self.name is None else f"{self.name}.{variable}"


def _assemble(source: Source, root: Node, overrides: dict[str, Node]) -> Recipe:
    stages = _stages(root)
    _override(stages, overrides)
    top = Scope(stages[0].variables)
    scopes = [top, *(Scope(stage.variables, top) for stage in stages[1:])]
    notes, built = _notes(source), []
    for stage, scope in zip(stages, scopes, strict=True):
        for group in stage.groups:
            built += [_build(name, fields, scope, notes) for name, fields in _items(group)]
    values = {
        stage.full_name(name): _checked(name, value, stage.variables[name])
        for stage, scope in zip(stages, scopes, strict=True)
        for name, value in scope.values().items()
    }
    notes += _idle_overrides(overrides, scopes)
    modifiers, lines = tuple(modifier for modifier, _ in built), tuple(line for _, line in built)
    return Recipe(modifiers, values, _metadata(stages), source.description, source.text, lines, tuple(notes), overrides)


def _notes(source: Source) -> list[Finding]:
    if source.second_block_line is None:
        return []
    return [Finding("warning", "a second front matter is description, and not read", source.second_block_line)]


def _idle_overrides(overrides: dict[str, Node], scopes: list[Scope]) -> list[Finding]:
    used = {name for scope in scopes for name in scope.used}
    return [
        Finding("warning", f"the override of {name} changes nothing: no eval(...) uses it")
        for name in overrides
        if name not in used
    ]


def _stages(root: Node) -> list[_Stage]:
    """The recipe's own level first, then its stages."""
    if not isinstance(root.value, dict) or root.tag:
        raise root.error("a recipe is a mapping with a list of modifiers, such as 'modifiers:'")
    named = {key: node for key, node in root.value.items() if _is_stage(key, node)}
    rest = {key: node for key, node in root.value.items() if key not in named}
    stages = [_stage(None, rest), *(_stage(key, dict(_entries(node))) for key, node in named.items())]
    if not any(stage.groups for stage in stages):
        raise root.error("the recipe has no list of modifiers: no key contains 'modifiers'")
    return stages


def _is_stage(key: str, node: Node) -> bool:
    return "modifiers" not in key and key != METADATA and any("modifiers" in inner for inner, _ in _entries(node))


def _entries(node: Node) -> list[tuple[str, Node]]:
    return list(node.value.items()) if isinstance(node.value, dict) else []


def _stage(name: str | None, entries: dict[str, Node]) -> _Stage:
    stage = _Stage(name)
    for key, node in entries.items():
        if key == METADATA:
            stage.metadata = node
        elif "modifiers" in key:
            stage.groups.append(node)
        elif name is not None and key == "run_type" and node.value != "train":
            raise node.error(f"run_type {ascii(node.value)[:40]} is not supported: only train is")
        else:
            stage.variables[key] = node
    return stage


def _checked(name: str, value: Plain, node: Node) -> Plain:
    """The value of a variable; RecipeError where it is a list of modifiers, or a stage, in the wrong place."""
    inner = [key for item in value if isinstance(item, dict) for key in item] if isinstance(value, list) else []
    for key in inner:
        if key in SUPPORTED or key in UNSUPPORTED:
            raise node.error(f"{key} stands in the list {ascii(name)[:60]}; the key must contain 'modifiers'")
    if isinstance(value, dict) and any("modifiers" in key for key in value):
        raise node.error(f"the variable {ascii(name)[:60]} can't be a stage with modifiers")
    return value


def _override(stages: list[_Stage], overrides: dict[str, Node]) -> None:
    known = list(dict.fromkeys(name for stage in stages for name in stage.variables))
    for name, node in overrides.items():
        if name not in known:
            listed = f"; it has {', '.join(known)}" if known else "; it has none"
            raise RecipeError(f"the recipe has no variable {ascii(name)[:60]}{near(name, known) or listed}")
        for stage in stages:
            if name in stage.variables:
                stage.variables[name] = node


def _metadata(stages: list[_Stage]) -> dict[str, Plain]:
    metadata: dict[str, Plain] = {}
    for stage in stages:
        if stage.metadata is not None:
            value = _literal(stage.metadata)
            if stage.name is not None:
                metadata[stage.name] = value
            elif isinstance(value, dict):
                metadata.update(value)
            elif value is not None:
                raise stage.metadata.error(f"{METADATA} must be a mapping")
    return metadata


def _literal(node: Node) -> Plain:
    """The value as it stands: metadata is a record, so expressions in it are text."""
    if node.tag:
        raise node.error(f"{node.tag} stands outside a list whose key contains 'modifiers'")
    if isinstance(node.value, dict):
        return {key: _literal(child) for key, child in node.value.items()}
    return [_literal(child) for child in node.value] if isinstance(node.value, list) else node.value


def _items(group: Node) -> list[tuple[str, Node]]:
    """(modifier, fields) of a group: a list of tagged or one-key mappings, or one mapping of modifiers."""
    if group.tag:
        raise group.error(f"{group.tag} must be an item of a list: write '- ' before it")
    if isinstance(group.value, dict):
        return list(group.value.items())
    if group.value is None:
        return []
    if not isinstance(group.value, list):
        raise group.error("modifiers must be a list")
    return [_item(node) for node in group.value]


def _item(node: Node) -> tuple[str, Node]:
    if node.tag:
        return node.tag.removeprefix("!"), node
    entries = _entries(node)
    if len(entries) != 1:
        raise node.error("an item of a list of modifiers is one modifier, such as - !EpochRangeModifier")
    return entries[0]


def _build(name: str, node: Node, scope: Scope, notes: list[Finding]) -> tuple[Modifier, int | None]:
    kind = _kind(name, node)
    if node.value is not None and not isinstance(node.value, dict):
        raise node.error(f"{name} needs a mapping of its fields")
    fields = {key: scope.resolve(child) for key, child in _entries(node)}
    try:
        modifier = kind.model_validate(fields)
    except ValidationError as error:
        raise _field_error(kind, node, error) from error
    if fields.get("mask_type") == "tensorrt":
        notes.append(Finding("info", f"{name} maps mask_type tensorrt to 2:4", node.line))
    return modifier, node.line


def _kind(name: str, node: Node) -> type[Modifier]:
    if name in SUPPORTED:
        return SUPPORTED[name]
    supported = f"supported are {', '.join(SUPPORTED)}"
    if name in UNSUPPORTED:
        raise node.error(f"{name} is not supported; {supported}")
    raise node.error(f"there is no modifier {ascii(name)[:80]}{near(name, SUPPORTED) or f'; {supported}'}")


def _field_error(kind: type[Modifier], node: Node, error: ValidationError) -> RecipeError:
    problems = error.errors(include_url=False)
    reasons = "; ".join(_reason(kind, problem) for problem in problems)
    return _innermost(node, problems[0]["loc"]).error(reasons)


def _reason(kind: type[Modifier], problem: Any) -> str:
    place = ".".join([kind.__name__, *(str(part) for part in problem["loc"])])
    if problem["type"] == "extra_forbidden":
        fields = list(kind.model_fields)
        unknown = str(problem["loc"][-1])
        listed = near(unknown, fields) or f"; it has {', '.join(fields)}"
        return f"{kind.__name__} has no field {ascii(unknown)[:60]}{listed if len(problem['loc']) == 1 else ''}"
    if problem["type"] == "missing":
        return f"{place} is missing"
    message = str(problem["ctx"]["error"]) if problem["type"] == "value_error" else problem["msg"]
    return f"{place} {message}" if problem["loc"] else f"{place}: {message}"


def _innermost(node: Node, path: tuple[int | str, ...]) -> Node:
    for part in path:
        children = dict(_entries(node)) or {str(index): child for index, child in enumerate(node.children)}
        if str(part) not in children:
            break
        node = children[str(part)]
    return node
