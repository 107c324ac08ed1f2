"""Variables of a recipe: what callers override, and what `eval(...)` makes of the rest."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping

from zoo.errors import RecipeError
from zoo.expressions import evaluate, expression_in, names_in
from zoo.recipe_reader import MAX_BYTES, MAX_DEPTH, MAX_NODES, Node, node_of, scalar

Plain = str | int | float | bool | list["Plain"] | dict[str, "Plain"] | None

MAX_VALUE_DEPTH = MAX_DEPTH - 4  # a value stands in a field of an item of a list of a stage


def near(name: str, names: Iterable[str]) -> str:
    """`; did you mean X?` where a name is close, else nothing."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def parse_overrides(overrides: Mapping[str, object] | str | None) -> dict[str, Node]:
    """Override values by variable: from a mapping, a JSON object, or `name=value,name=value`.

    Integers stay integers. Raises RecipeError for text that is neither form, and for a value that YAML could not hold.
    """
    if overrides is None:
        return {}
    if isinstance(overrides, str):
        overrides = _parse_text(overrides.strip())
    return {str(name): node_of(value) for name, value in overrides.items()}


def _parse_text(text: str) -> dict[str, object]:
    if len(text) > MAX_BYTES:
        raise RecipeError("the overrides of variables are too long")
    return _parse_json(text) if text.startswith("{") else _parse_pairs(text)


def _parse_json(text: str) -> dict[str, object]:
    try:
        parsed: dict[str, object] = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"the overrides of variables are no JSON object: {error}") from error
    return parsed


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise RecipeError("the overrides name a variable twice")
    return values


def _parse_pairs(text: str) -> dict[str, object]:
    pairs: list[tuple[str, object]] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        separator = "=" if "=" in part else ":"
        name, found, value = part.partition(separator)
        if not found or not name.strip():
            raise RecipeError(f"the override {part[:60]!a} is not name=value; write values that hold a comma as JSON")
        pairs.append((name.strip(), scalar(value.strip())))
    return _unique(pairs)


class Scope:
    """The variables of a recipe or of one of its stages; a stage's own hide those of the recipe.

    `used` collects the names that expressions asked for.
    """

    def __init__(self, nodes: Mapping[str, Node], parent: Scope | None = None) -> None:
        self.nodes = nodes
        self.parent = parent
        self.used: set[str] = set()
        self._values: dict[str, Plain] = {}
        self._substituted = 0

    def values(self) -> dict[str, Plain]:
        """Every variable of this scope, evaluated."""
        return {name: self.value(name) for name in self.nodes}

    def resolve(self, node: Node, chain: tuple[str, ...] = (), depth: int = 0) -> Plain:
        """The plain value of a node, with every `eval(...)` in it evaluated.

        `chain` are the variables whose values are being made, outermost first; it finds cycles and explains errors.
        """
        if depth > MAX_VALUE_DEPTH:
            raise node.error(f"values nest more than {MAX_VALUE_DEPTH} deep{_path(chain)}")
        if node.tag is not None:
            raise node.error(f"{node.tag} stands outside a list whose key contains 'modifiers'")
        if isinstance(node.value, dict):
            return {key: self.resolve(child, chain, depth + 1) for key, child in node.value.items()}
        if isinstance(node.value, list):
            return [self.resolve(child, chain, depth + 1) for child in node.value]
        expression = expression_in(node.value) if isinstance(node.value, str) else None
        return node.value if expression is None else self._evaluate(node, expression, chain, depth)

    def _evaluate(self, node: Node, expression: str, chain: tuple[str, ...], depth: int) -> Plain:
        try:
            if self.holds(expression):
                return self._substitute(self.value(expression, chain, depth + 1), depth)
            values = {name: self.value(name, chain, depth + 1) for name in names_in(expression)}
            value = evaluate(expression, values)
        except RecipeError as error:
            raise error if error.line else node.error(error.reason) from error
        if not isinstance(value, int | float):
            raise node.error(f"eval({expression}) is no number")
        return value

    def holds(self, name: str) -> bool:
        """Whether this scope or its parent has the variable."""
        return name in self.nodes or (self.parent is not None and self.parent.holds(name))

    def value(self, name: str, chain: tuple[str, ...] = (), depth: int = 0) -> Plain:
        """A variable's value, evaluated once; RecipeError where it is unknown or refers to itself."""
        if name not in self.nodes:
            return self._inherited(name, chain, depth)
        if depth:
            self.used.add(name)
        if name in chain:
            raise RecipeError(f"the variables refer to each other: {' -> '.join((*chain[chain.index(name) :], name))}")
        if name not in self._values:
            self._values[name] = self.resolve(self.nodes[name], (*chain, name), depth)
        return self._values[name]

    def _inherited(self, name: str, chain: tuple[str, ...], depth: int) -> Plain:
        if self.parent is not None and self.parent.holds(name):
            return self.parent.value(name, (), depth)
        known = [*self.nodes, *(self.parent.nodes if self.parent else ())]
        raise RecipeError(f"there is no variable {name[:60]}{_path(chain)}{near(name, known)}")

    def _substitute(self, value: Plain, depth: int) -> Plain:
        """Counts what is written out, so that variables of variables can't grow without bound."""
        written = node_of(value)
        self._substituted += written.size
        if self._substituted > MAX_NODES:
            raise RecipeError(f"eval(...) writes out more than {MAX_NODES} values")
        if depth + written.height > MAX_VALUE_DEPTH:
            raise RecipeError(f"eval(...) nests values more than {MAX_VALUE_DEPTH} deep")
        return value


def _path(chain: tuple[str, ...]) -> str:
    return f" (needed by {' -> '.join(chain)})" if chain else ""
