"""Stubs: the addresses of models.

    stub    = "zoo:" [ "@" scope "/" ] name [ "@" pin ] [ "?" query ]
    name    = long | short
    long    = domain "/" sub_domain "/" architecture "/" framework "/" repo "/" dataset "/" tag
    short   = one segment, such as bert-large-wikipedia_bookcorpus-pruned80.4block_quantized
    segment = a-z 0-9, then a-z 0-9 "." "_" "-"     (at most 128 characters)
    scope   = a segment
    pin     = "latest" | "v" number | tag | "sha256:" 64 hex digits
    query   = key "=" value { "&" key "=" value }   keys: recipe, checkpoint, deployment

Everything is lower case, so that two stubs never differ only by case. `recipe_type` and `recipe-type` are read as
`recipe`, and so is an eighth segment of the long form; all are printed as `?recipe=`.
The long form and the query keys are those of SparseZoo; scope and pin are ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import unquote

from zoo.errors import StubError

PREFIX = "zoo:"
MAX_LENGTH = 512
LONG_SEGMENTS = 7
CHECKPOINTS = frozenset({"prepruning", "postpruning", "preqat", "postqat"})

_SEGMENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}\Z")
_DIGEST_PIN = re.compile(r"sha256:[0-9a-f]{64}\Z")
_VERSION_PIN = re.compile(r"v[1-9][0-9]{0,8}\Z")
_ALLOWED = re.compile(r"[A-Za-z0-9._\-/@:?=&%]")
_RECIPE_KEYS = {"recipe", "recipe_type", "recipe-type"}


@dataclass(frozen=True, order=True)
class Stub:
    """A parsed stub. `str(stub)` is its canonical text, and `Stub.parse(str(stub)) == stub`.

    name    long (seven segments) or short (one segment), without scope, pin and query
    scope   owner's name space, or None
    pin     "latest", "v3", a tag, "sha256:...", or None, which means the tag latest
    query   sorted (key, value) pairs
    """

    name: str
    scope: str | None = None
    pin: str | None = None
    query: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a stub's text; raises `StubError` with the column of the first mistake."""
        _check_text(text)
        if not text.startswith(PREFIX):
            raise StubError(text, 1, f"a stub starts with {PREFIX!r}; write ./NAME for a local folder")
        head, mark, query_text = text.partition("?")
        query = dict(_read_query(text, query_text, len(head) + 2)) if mark else {}
        scope, body, start = _split_scope(text, head)
        path, at, pin = body.partition("@")
        segments = path.split("/")
        for segment, column in _columns(segments, start):
            _check_segment(text, segment, column, "a segment of the name")
        if len(segments) == LONG_SEGMENTS + 1:
            if "recipe" in query:
                raise StubError(text, start, "the recipe is named twice, by the eighth segment and by ?recipe=")
            query["recipe"] = segments.pop()
        if len(segments) not in (1, LONG_SEGMENTS):
            raise StubError(text, start, f"a name has 1 or {LONG_SEGMENTS} segments, this one has {len(segments)}")
        if at:
            _check_pin(text, pin, start + len(path) + 1)
        return cls("/".join(segments), scope, pin or None, tuple(sorted(query.items())))

    @classmethod
    def is_stub(cls, text: str) -> bool:
        """Whether the text claims to be a stub: only the prefix decides, never what lies on the disk."""
        return text.startswith(PREFIX)

    def __str__(self) -> str:
        pin = f"@{self.pin}" if self.pin else ""
        query = "&".join(f"{key}={value}" for key, value in self.query)
        return f"{PREFIX}{self.full_name}{pin}" + (f"?{query}" if query else "")

    @property
    def full_name(self) -> str:
        """The name with its scope: what a registry stores a model under."""
        return f"@{self.scope}/{self.name}" if self.scope else self.name

    @property
    def is_long(self) -> bool:
        """Whether the name has the seven segments of the long form."""
        return "/" in self.name

    @property
    def is_digest(self) -> bool:
        """Whether the pin is a digest, so that what it names can never change."""
        return bool(self.pin and _DIGEST_PIN.match(self.pin))

    @property
    def version(self) -> int | None:
        """The version number of a "v3" pin."""
        return int(self.pin[1:]) if self.pin and _VERSION_PIN.match(self.pin) else None

    @property
    def recipe(self) -> str | None:
        """The value of ?recipe=, or None."""
        return dict(self.query).get("recipe")

    def pinned(self, pin: str) -> Self:
        """The same model at another pin."""
        return replace(self, pin=pin)


def is_tag(text: str) -> bool:
    """Whether a text may be a tag: a segment that is neither a version pin nor a digest."""
    return bool(_SEGMENT.match(text)) and not _VERSION_PIN.match(text)


def _check_text(text: str) -> None:
    if not text or text == PREFIX:
        raise StubError(text, len(text) + 1, "nothing follows the prefix" if text else "it is empty")
    if len(text) > MAX_LENGTH:
        raise StubError(text, MAX_LENGTH + 1, f"it is longer than {MAX_LENGTH} characters")
    for column, char in enumerate(text, 1):
        if not _ALLOWED.match(char):
            raise StubError(text, column, f"the character U+{ord(char):04X} is not allowed")


def _columns(segments: list[str], start: int) -> Iterator[tuple[str, int]]:
    for segment in segments:
        yield segment, start
        start += len(segment) + 1


def _split_scope(text: str, head: str) -> tuple[str | None, str, int]:
    start = len(PREFIX) + 1
    body = head[len(PREFIX) :]
    if not body.startswith("@"):
        return None, body, start
    scope, slash, rest = body[1:].partition("/")
    if not slash:
        raise StubError(text, start, "a scope is followed by '/' and a name")
    _check_segment(text, scope, start + 1, "the scope")
    return scope, rest, start + len(scope) + 2


def _check_segment(text: str, segment: str, column: int, what: str) -> None:
    if not segment:
        raise StubError(text, column, f"{what} is empty")
    if segment != segment.lower():
        raise StubError(text, column, f"{what} has upper-case letters; stubs are lower case: {segment.lower()!r}")
    if not _SEGMENT.match(segment):
        raise StubError(text, column, f"{what} starts with a letter or digit and has only a-z 0-9 . _ - after it")


def _check_pin(text: str, pin: str, column: int) -> None:
    if pin.startswith("sha256:"):
        if not _DIGEST_PIN.match(pin):
            raise StubError(text, column, "a digest pin is sha256: and 64 lower-case hex digits")
        return
    _check_segment(text, pin, column, "the pin")


def _read_query(text: str, query: str, start: int) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    if "?" in query:
        raise StubError(text, start + query.index("?"), "only one '?' may be there")
    for pair, column in _columns(query.split("&"), start):
        key, equals, raw = pair.partition("=")
        value = unquote(raw)
        key = "recipe" if key in _RECIPE_KEYS else key
        if key not in ("recipe", "checkpoint", "deployment"):
            raise StubError(text, column, f"the query key {key!r} is unknown; known: recipe, checkpoint, deployment")
        if not equals or not _SEGMENT.match(value):
            raise StubError(
                text,
                column + len(key),
                f"the value of {key!r} is empty or has other characters than a-z 0-9 . _ -",
            )
        if key == "checkpoint" and value not in CHECKPOINTS:
            raise StubError(text, column, f"checkpoint is one of {', '.join(sorted(CHECKPOINTS))}")
        if key == "deployment" and value != "default":
            raise StubError(text, column, "deployment can only be 'default'")
        if key in seen:
            raise StubError(text, column, f"the query key {key!r} is there twice")
        seen.add(key)
        yield key, value
