"""Terms: what a search looks up. A listing has its words, its facets and the levels that its numbers reach.

Both databases get the terms ready made, so that both find the same: letters and digits only, in FTS5 on SQLite and as
a tsvector on PostgreSQL. A facet's or level's term begins with "=", which no word contains. Levels only narrow a
search; the numbers themselves decide.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from registry.schemas import SearchIn

FACETS = ("domain", "task", "architecture", "dataset", "pattern", "license")
PUBLIC = "=public"
MAX_WORDS = 1_000
BEGINNING_CHARS = range(3, 7)  # a name is also found by so many first characters of its words
_WORD = re.compile(r"[^\W_]+")
_WORD_CHARS = 64


@dataclass(frozen=True)
class Bound:
    """A limit that a search can put on a number, and the levels at which listings carry a term."""

    wanted: str
    column: str
    levels: tuple[float, ...]
    is_minimum: bool

    @property
    def known(self) -> str:
        """The term of every listing that has the number."""
        return "=" + self.wanted.replace("_", "")

    def terms(self, value: float) -> Iterator[str]:
        """That the number is known, and each level that it satisfies."""
        yield self.known
        for rank, level in enumerate(self.levels):
            if value >= level if self.is_minimum else value <= level:
                yield f"{self.known}{rank}"

    def term(self, limit: float) -> str:
        """The narrowest term that everything within the limit has."""
        wider = [r for r, level in enumerate(self.levels) if level == limit or (level < limit) == self.is_minimum]
        if not wider:
            return self.known
        return f"{self.known}{max(wider) if self.is_minimum else min(wider)}"


BOUNDS = (
    Bound("sparsity_min", "sparsity", (0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99), is_minimum=True),
    Bound("sparsity_max", "sparsity", (0.0, 0.3, 0.5, 0.7, 0.8, 0.9), is_minimum=False),
    Bound("f1_min", "f1", (50, 60, 70, 75, 80, 82, 84, 86, 88, 90, 92, 94, 96), is_minimum=True),
    Bound("latency_max_ms", "latency_ms", (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000), is_minimum=False),
    Bound("size_max", "size_bytes", (1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9, 3e9, 1e10), is_minimum=False),
)


def words(text: str) -> list[str]:
    """The distinct words of a text, in order: runs of letters and digits, without case."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return list(dict.fromkeys(word[:_WORD_CHARS] for word in _WORD.findall(folded)))


def name_words(name: str) -> list[str]:
    """The words of a name, and their beginnings."""
    found = words(name)
    return [*found, *(word[:length] for word in found for length in BEGINNING_CHARS if length < len(word))]


def listing_terms(
    names: Iterable[str],
    description: str,
    facets: Mapping[str, str | bool | None],
    numbers: Mapping[str, float | None],
    *,
    public: bool,
) -> str:
    """The distinct terms of a listing, with spaces between. `facets` are by name, `numbers` by column."""
    terms = [word for name in names for word in name_words(name)] + words(description)[:MAX_WORDS]
    terms += [_facet_term(name, value) for name, value in facets.items() if value is not None]
    for bound in BOUNDS:
        value = numbers[bound.column]
        if value is not None:
            terms += bound.terms(value)
    return " ".join(dict.fromkeys([*terms, PUBLIC] if public else terms))


def search_terms(search: SearchIn, *, only_public: bool) -> list[str]:
    """The terms that what is looked for must have, all of them."""
    facets = {name: getattr(search, name) for name in (*FACETS, "quantized")}
    terms = [_facet_term(name, value) for name, value in facets.items() if value is not None]
    for bound in BOUNDS:
        limit = getattr(search, bound.wanted)
        if limit is not None:
            terms.append(bound.term(limit))
    return [*words(search.q), *terms, *([PUBLIC] if only_public else [])]


def _facet_term(name: str, value: str | bool) -> str:
    """Facets that differ only in what is left out here share a term; the listing's column tells them apart."""
    text = "".join(_WORD.findall(str(value).casefold()))
    return f"={name}={text[:_WORD_CHARS]}"
