"""Entities by exact span and type, on cases counted by hand."""

from __future__ import annotations

import pytest

from zoo.entities import entities, entity_scores


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("", []),
        ("O O", []),
        ("B-PER I-PER O B-LOC", [(0, 2, "PER"), (3, 4, "LOC")]),
        ("B-PER B-PER I-PER", [(0, 1, "PER"), (1, 3, "PER")]),
        ("I-PER I-PER O I-LOC", [(0, 2, "PER"), (3, 4, "LOC")]),  # IOB1
        ("I-PER B-PER I-PER", [(0, 1, "PER"), (1, 3, "PER")]),
        ("B-PER I-LOC I-LOC", [(0, 1, "PER"), (1, 3, "LOC")]),  # the type changes
        ("O I-PER I-PER", [(1, 3, "PER")]),
        ("PER PER O LOC PER", [(0, 2, "PER"), (3, 4, "LOC"), (4, 5, "PER")]),  # plain names
        ("B-PER I-PER E-PER S-PER I-PER", [(0, 3, "PER"), (3, 4, "PER"), (4, 5, "PER")]),
        ("B-PER L-PER U-PER B-PER L-PER", [(0, 2, "PER"), (2, 3, "PER"), (3, 5, "PER")]),
        ("B-X-Y I-X-Y I-X", [(0, 2, "X-Y"), (2, 3, "X")]),
    ],
)
def test_entities_begin_and_end_as_conlleval_has_them(tags: str, found: list[tuple[int, int, str]]) -> None:
    assert entities(tags.split()) == found


@pytest.mark.parametrize(
    ("given", "right", "counts"),
    [
        (["B-PER I-PER O"], ["B-PER I-PER O"], (1, 1, 1)),
        (["B-PER O O"], ["B-PER I-PER O"], (0, 1, 1)),  # another end
        (["B-LOC I-LOC O"], ["B-PER I-PER O"], (0, 1, 1)),  # another type
        (["I-PER I-PER O"], ["B-PER I-PER O"], (1, 1, 1)),  # spelled otherwise
        # 2 of the 4 found are among the 3 that are there
        (["B-PER I-PER O B-LOC", "B-LOC O B-PER"], ["B-PER I-PER O O", "B-LOC O B-LOC"], (2, 4, 3)),
        (["B-PER"] * 2, ["B-PER", "O"], (1, 2, 1)),  # the same span in two sentences
        (["O O"], ["O O"], (0, 0, 0)),
        (["O O"], ["B-PER O"], (0, 0, 1)),
    ],
)
def test_scores_are_those_of_the_counts(given: list[str], right: list[str], counts: tuple[int, int, int]) -> None:
    both, found, expected = counts
    scores = entity_scores([one.split() for one in given], [one.split() for one in right])
    assert scores == {
        "precision": both / found if found else 0,
        "recall": both / expected if expected else 0,
        "f1": pytest.approx(2 * both / (found + expected) if found + expected else 0),
    }
