"""The shipped animals data set is well-formed SQuAD v1.1, and its two splits share no animal."""

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest

SPLITS = ("train", "dev")


def read_text(split: str) -> str:
    return (files("zoo.demo") / f"animals-{split}.json").read_text(encoding="utf-8")


def articles(split: str) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = json.loads(read_text(split))["data"]
    return data


def paragraphs(split: str) -> Iterator[dict[str, Any]]:
    return (paragraph for article in articles(split) for paragraph in article["paragraphs"])


def questions(split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((paragraph["context"], qa) for paragraph in paragraphs(split) for qa in paragraph["qas"])


def test_size() -> None:
    assert sum(1 for split in SPLITS for _ in paragraphs(split)) >= 60
    assert sum(1 for split in SPLITS for _ in questions(split)) >= 300
    assert sum(1 for _ in paragraphs("dev")) >= 12


@pytest.mark.parametrize("split", SPLITS)
def test_every_answer_stands_at_its_offset(split: str) -> None:
    for context, qa in questions(split):
        (answer,) = qa["answers"]
        start, text = answer["answer_start"], answer["text"]
        assert text, qa["id"]
        assert context[start : start + len(text)] == text, qa["id"]


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_whole_words_and_short(split: str) -> None:
    for context, qa in questions(split):
        (answer,) = qa["answers"]
        start, text = answer["answer_start"], answer["text"]
        end = start + len(text)
        assert text == text.strip(), qa["id"]
        assert not context[start - 1 : start].isalnum(), qa["id"]
        assert not context[end : end + 1].isalnum(), qa["id"]
        assert len(text.split()) <= 8, qa["id"]


def test_question_ids_are_unique_over_both_splits() -> None:
    ids = [qa["id"] for split in SPLITS for _, qa in questions(split)]
    assert len(ids) == len(set(ids))


def test_no_animal_and_no_passage_is_in_both_splits() -> None:
    titles = [article["title"].casefold() for split in SPLITS for article in articles(split)]
    contexts = [paragraph["context"] for split in SPLITS for paragraph in paragraphs(split)]
    assert len(titles) == len(set(titles))
    assert len(contexts) == len(set(contexts))


@pytest.mark.parametrize("split", SPLITS)
def test_no_question_is_asked_twice_about_a_passage(split: str) -> None:
    for paragraph in paragraphs(split):
        asked = [qa["question"].casefold() for qa in paragraph["qas"]]
        assert len(asked) == len(set(asked)), paragraph["context"]


@pytest.mark.parametrize("split", SPLITS)
def test_questions_end_with_a_question_mark_and_do_not_hold_their_answer(split: str) -> None:
    for _, qa in questions(split):
        assert qa["question"].endswith("?"), qa["id"]
        assert qa["answers"][0]["text"].casefold() not in qa["question"].casefold(), qa["id"]


@pytest.mark.parametrize("split", SPLITS)
def test_passage_length_in_words(split: str) -> None:
    for paragraph in paragraphs(split):
        assert 40 <= len(paragraph["context"].split()) <= 160, paragraph["context"]


@pytest.mark.parametrize("split", SPLITS)
def test_files_keep_the_form_that_diffs_well(split: str) -> None:
    text = read_text(split)
    document = json.loads(text)
    titles = [article["title"] for article in document["data"]]
    assert document["version"] == "1.1"
    assert titles == sorted(titles)
    assert text == json.dumps(document, indent=1, ensure_ascii=False) + "\n"
