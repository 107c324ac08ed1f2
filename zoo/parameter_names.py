"""Which parameters of a model the `params` of a recipe name.

An entry is a full name, `re:` with a regular expression that must match at the start of the name, `__ALL__`, or
`__ALL_PRUNABLE__`. Recipes are downloaded, so a regular expression is held to a subset whose cost is bounded before
it runs: no backreferences, no look-around, no quantifier over a quantifier or an alternative.
"""

from __future__ import annotations

import difflib
import math
import re
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from zoo.errors import RecipeError

ALL = "__ALL__"
ALL_PRUNABLE = "__ALL_PRUNABLE__"
MAX_PATTERN_CHARS = 200
MAX_MATCH_STEPS = 500_000_000  # seconds at most

_TOKEN = re.compile(
    r"(?P<escape>\\.)|(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])|(?P<open>\((?:\?:)?)|(?P<close>\))"
    r"|(?P<quantifier>[*+?]|\{[0-9]*,?[0-9]*\})|(?P<bar>\|)|(?P<other>.)",
    re.DOTALL,
)


@dataclass
class _Cost:
    quantifiers: int = 0
    bars: int = 0


def check_pattern(entry: str) -> None:
    """Raise ValueError where `entry` is empty, too long, or a regular expression outside the bounded subset."""
    if not entry or len(entry) > MAX_PATTERN_CHARS:
        raise ValueError(f"names a parameter with {len(entry)} characters; 1 to {MAX_PATTERN_CHARS} are allowed")
    if entry.startswith("re:"):
        _compile(entry)


def match_parameters(
    patterns: Iterable[str], names: Sequence[str], prunable: Collection[str] | None = None
) -> list[str]:
    """The `names` that the patterns choose, in the order of `names`, each once.

    `names` are the model's parameters; `prunable` are those that `__ALL_PRUNABLE__` stands for, the weights of linear
    and convolution layers (None: every one of `names`). Raises RecipeError for a pattern that chooses nothing, with
    names near to it, and for a pattern outside the bounded subset of regular expressions.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        found = _matching(pattern, names, prunable)
        if not found:
            raise RecipeError(f"params: {pattern!a} matches no parameter of the model{_near(pattern, names)}")
        chosen.update(found)
    return [name for name in names if name in chosen]


def _matching(pattern: str, names: Sequence[str], prunable: Collection[str] | None) -> list[str]:
    if pattern == ALL:
        return list(names)
    if pattern == ALL_PRUNABLE:
        return [name for name in names if prunable is None or name in prunable]
    if not pattern.startswith("re:"):
        return [name for name in names if name == pattern]
    try:
        expression, cost = _compile(pattern)
    except ValueError as error:
        raise RecipeError(f"params: {pattern!a} {error}") from error
    steps = sum(math.comb(len(name) + cost.quantifiers, cost.quantifiers) for name in names) << cost.bars
    if steps > MAX_MATCH_STEPS:
        raise RecipeError(f"params: {pattern!a} has too many wildcards for names this long; use fewer of * + ? |")
    return [name for name in names if expression.match(name)]


def _near(pattern: str, names: Sequence[str]) -> str:
    wanted = re.sub(r"[\\^$]|\.\*", "", pattern.removeprefix("re:"))
    close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.4)
    return f"; near to it are {', '.join(close)}" if close else f"; it has {len(names)} parameters"


def _compile(entry: str) -> tuple[re.Pattern[str], _Cost]:
    text = entry.removeprefix("re:")
    cost = _cost(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return re.compile(text), cost
    except (re.error, OverflowError, FutureWarning) as error:
        raise ValueError(f"is no regular expression: {error}") from error


def _cost(text: str) -> _Cost:
    """Count what makes a match branch; ValueError for what could make it branch without bound."""
    cost, branches, closed_branchy, previous = _Cost(), [False], False, ""
    for token in _TOKEN.finditer(text):
        kind = str(token.lastgroup)
        if kind == "open" and text.startswith("?", token.end()):
            raise ValueError("uses a (?...) group; only ( ) and (?: ) are supported")
        if kind == "escape" and token[0][1] in "123456789":
            raise ValueError("uses a backreference, which is not supported")
        if kind == "quantifier":
            if previous == "close" and closed_branchy:
                raise ValueError("repeats a group that itself repeats or has alternatives, which is not supported")
            if previous != "quantifier":
                cost.quantifiers += 1
                branches[-1] = True
        elif kind == "bar":
            cost.bars += 1
            branches[-1] = True
        elif kind == "open":
            branches.append(False)
        elif kind == "close" and len(branches) > 1:
            closed_branchy = branches.pop()
            branches[-1] |= closed_branchy
        previous = kind
    return cost
