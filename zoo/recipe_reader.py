"""YAML of a recipe -> nodes that know their line: the only reader of YAML, and the only importer of ruamel.yaml here.

ruamel gives the event stream; the tree is built here, because loaders build objects for tags, expand aliases without
bound, recurse as deep as the text says, and drop positions. Scalars follow the YAML 1.2 core schema: `1e-5` is a
number, `no` is text. Keys are text. Merge keys, type tags (`!!str`) and several documents are refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from zoo.errors import RecipeError
from zoo.expressions import NUMERIC

Scalar = str | int | float | bool | None

MAX_BYTES = 128 * 1024
MAX_DEPTH = 32
MAX_NODES = 20_000  # aliases counted as if written out
TEXT_UNIT = 64
MAX_INTEGER = 2**63
MAX_KEY_CHARS = 200

_UNPRINTABLE = re.compile("[^\t\n\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_TAG = re.compile(r"![A-Za-z_][A-Za-z0-9_]{0,99}")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_WORDS_OF_NULL = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True)
class Node:
    """A value of the recipe with the place where it stands, both counted from 1; None for a value from outside."""

    value: Scalar | list[Node] | dict[str, Node]
    line: int | None = None
    column: int | None = None
    tag: str | None = None

    @cached_property
    def size(self) -> int:
        """Number of values in here, itself included; long text counts as several."""
        text = len(self.value) // TEXT_UNIT if isinstance(self.value, str) else 0
        return 1 + text + sum(child.size for child in self.children)

    @cached_property
    def height(self) -> int:
        """Levels of nesting below it; 0 for a scalar."""
        return max((1 + child.height for child in self.children), default=0)

    @property
    def children(self) -> list[Node]:
        """The values directly in here."""
        if isinstance(self.value, dict):
            return list(self.value.values())
        return self.value if isinstance(self.value, list) else []

    def error(self, reason: str) -> RecipeError:
        """A RecipeError that points here."""
        return RecipeError(reason, self.line, self.column)


def read_yaml(text: str) -> Node:
    """The one document of `text`; RecipeError for what is no YAML, or more than a recipe may hold."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise RecipeError(f"the recipe is larger than {MAX_BYTES // 1024} KiB")
    stray = _UNPRINTABLE.search(text)
    if stray:
        line = text.count("\n", 0, stray.start()) + 1
        column = stray.start() - text.rfind("\n", 0, stray.start())
        raise RecipeError(f"the character U+{ord(stray[0]):04X} can't stand in YAML", line, column)
    builder = _Builder(YAML(typ="safe", pure=True).parse(text))
    try:
        return builder.document()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise RecipeError(f"this is no YAML: {reason}", mark and mark.line + 1, mark and mark.column + 1) from error
    except (YAMLError, ValueError, ArithmeticError, LookupError, AssertionError, AttributeError) as error:
        raise RecipeError(f"this is no YAML, from here on: {error}", builder.line) from error


def node_of(value: object, depth: int = 0) -> Node:
    """A plain value from outside the text, such as an override, as a node; RecipeError for other types."""
    if depth > MAX_DEPTH:
        raise RecipeError(f"a value is nested more than {MAX_DEPTH} deep")
    if isinstance(value, list | tuple):
        return Node([node_of(item, depth + 1) for item in value])
    if isinstance(value, dict):
        return Node({_checked_key(str(key)): node_of(item, depth + 1) for key, item in value.items()})
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{value} is not a finite number")
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise RecipeError("an integer is larger than 2**63")
    if isinstance(value, str) and _SURROGATE.search(value):
        raise RecipeError("a text holds half a surrogate pair")
    if value is None or isinstance(value, str | int | float):
        return Node(value)
    raise RecipeError(f"{ascii(value)[:60]} is no number, text, list or mapping")


def scalar(text: str) -> Scalar:
    """What a plain scalar means in the YAML 1.2 core schema; RecipeError for a number that is not finite."""
    if text in _WORDS_OF_NULL:
        return None
    if text in _WORDS:
        return _WORDS[text]
    if _NOT_FINITE.fullmatch(text):
        raise RecipeError(f"{text} is not a finite number")
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if NUMERIC.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise RecipeError(f"{text[:60]} is not a finite number")
        return number
    return text


def _integer(text: str) -> int:
    if len(text) > 30:
        raise RecipeError("an integer is larger than 2**63")
    number = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if abs(number) > MAX_INTEGER:
        raise RecipeError("an integer is larger than 2**63")
    return number


class _Builder:
    """Events -> nodes, with bounds on depth and size that hold before anything is built."""

    def __init__(self, events: Iterator[Any]) -> None:
        self.events = events
        self.anchors: dict[str, Node] = {}
        self.size = 0
        self.line = 1

    def document(self) -> Node:
        self._next()  # start of the stream
        event = self._next()
        if _kind(event) == "StreamEndEvent":
            return Node(None, 1, 1)
        root = self.node(self._next(), 0)
        self._next()  # end of the document
        event = self._next()
        if _kind(event) != "StreamEndEvent":
            raise _at(event, "a second YAML document starts here; a recipe is one document")
        return root

    def node(self, event: Any, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise _at(event, f"the recipe is nested more than {MAX_DEPTH} deep")
        if _kind(event) == "AliasEvent":
            return self._alias(event, depth)
        tag = _tag(event)
        self._spend(event, 1)
        if _kind(event) == "ScalarEvent":
            node = self._scalar(event, tag)
        elif _kind(event) == "SequenceStartEvent":
            node = self._sequence(event, tag, depth)
        else:
            node = self._mapping(event, tag, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _scalar(self, event: Any, tag: str | None) -> Node:
        value = event.value
        if _SURROGATE.search(value):
            raise _at(event, "a text holds half a surrogate pair")
        try:
            meaning = scalar(value) if event.style is None else value
        except RecipeError as error:
            raise _at(event, error.reason) from error
        if tag and meaning is not None:
            raise _at(event, f"{tag} needs a mapping of its fields, not {ascii(value)[:40]}")
        return _node(event, meaning, tag)

    def _alias(self, event: Any, depth: int) -> Node:
        node = self.anchors.get(event.anchor)
        if node is None:
            raise _at(event, f"the alias *{event.anchor} has no anchor &{event.anchor} that ends before it")
        if depth + node.height > MAX_DEPTH:
            raise _at(event, f"the alias *{event.anchor} nests the recipe more than {MAX_DEPTH} deep")
        self._spend(event, node.size)
        return node

    def _sequence(self, event: Any, tag: str | None, depth: int) -> Node:
        items: list[Node] = []
        while _kind(following := self._next()) != "SequenceEndEvent":
            items.append(self.node(following, depth + 1))
        return _node(event, items, tag)

    def _mapping(self, event: Any, tag: str | None, depth: int) -> Node:
        entries: dict[str, Node] = {}
        lines: dict[str, int] = {}
        while _kind(key_event := self._next()) != "MappingEndEvent":
            key = _key(key_event)
            line = key_event.start_mark.line + 1
            if key in entries:
                raise _at(key_event, f"the key {ascii(key)[:60]} stands twice: in line {lines[key]} and in line {line}")
            lines[key] = line
            entries[key] = self.node(self._next(), depth + 1)
        return _node(event, entries, tag)

    def _spend(self, event: Any, size: int) -> None:
        self.size += size
        if self.size > MAX_NODES:
            raise _at(event, f"the recipe has more than {MAX_NODES} values, aliases counted as if written out")

    def _next(self) -> Any:
        event = next(self.events)
        self.line = event.start_mark.line + 1
        return event


def _kind(event: Any) -> str:
    return type(event).__name__


def _at(event: Any, reason: str) -> RecipeError:
    return RecipeError(reason, event.start_mark.line + 1, event.start_mark.column + 1)


def _node(event: Any, value: Scalar | list[Node] | dict[str, Node], tag: str | None) -> Node:
    return Node(value, event.start_mark.line + 1, event.start_mark.column + 1, tag)


def _tag(event: Any) -> str | None:
    tag = None if event.tag is None else str(event.tag)
    if tag is not None and not _TAG.fullmatch(tag):
        shown = tag.replace("tag:yaml.org,2002:", "!!")
        raise _at(
            event, f"the tag {ascii(shown)[:80]} is not allowed; only modifiers such as !EpochRangeModifier are tags"
        )
    return tag


def _key(event: Any) -> str:
    if _kind(event) != "ScalarEvent" or event.tag is not None:
        raise _at(event, "a key must be plain text")
    key = str(event.value)
    if key == "<<" and event.style is None:
        raise _at(event, "merge keys (<<) are not supported; write the fields out, or use eval(variable)")
    try:
        return _checked_key(key)
    except RecipeError as error:
        raise _at(event, error.reason) from error


def _checked_key(key: str) -> str:
    if not 1 <= len(key) <= MAX_KEY_CHARS or _SURROGATE.search(key):
        raise RecipeError(f"a key must be text of 1 to {MAX_KEY_CHARS} characters")
    return key
