"""Entities in rows of tags, and how well one row finds those of another, as conlleval and seqeval count them.

Tags are IOB2 (B-PER I-PER O), IOB1 (I-PER, and B-PER only behind another PER), their longer forms (E or L ends an
entity, S or U is one alone), or plain names (PER). An entity begins at B, where the type changes, or after O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

OUTSIDE = "O"

_PREFIXED = re.compile(r"([BIELSU])-(.+)", re.DOTALL)
_BEGINS, _ENDS = frozenset("BSU"), frozenset("ELSU")


class Entity(NamedTuple):
    """Words [begin, end) of a sentence, and what kind of thing they name."""

    begin: int
    end: int
    kind: str


def entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of one sentence, in order, given the tag of each word."""
    return list(_entities(tags))


def _entities(tags: Sequence[str]) -> Iterator[Entity]:
    begin, kind, ended = 0, "", False
    for place, tag in enumerate((*tags, OUTSIDE)):
        prefix, named = parted(tag)
        if kind and (ended or named != kind or prefix in _BEGINS):
            yield Entity(begin, place, kind)
            kind = ""
        if named and not kind:
            begin, kind = place, named
        ended = prefix in _ENDS


def parted(tag: str) -> tuple[str, str]:
    """Return a tag's prefix, empty without one, and what kind of entity it names, empty outside of all."""
    found = _PREFIXED.fullmatch(tag)
    return (found[1], found[2]) if found else ("", "" if tag == OUTSIDE else tag)


def entity_scores(given: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return precision, recall and f1 of the entities in all sentences, in [0, 1]; 0 where there are none.

    An entity is right where begin, end and kind are those of one in `right`.
    """
    found = expected = both = 0
    for mine, theirs in zip(given, right, strict=True):
        ours, wanted = set(entities(mine)), set(entities(theirs))
        found, expected, both = found + len(ours), expected + len(wanted), both + len(ours & wanted)
    return {
        "precision": both / found if found else 0.0,
        "recall": both / expected if expected else 0.0,
        "f1": 2 * both / (found + expected) if found + expected else 0.0,
    }
