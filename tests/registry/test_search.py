"""Search: filters, words, pages."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text as sql
from starlette.testclient import TestClient

from registry import listings
from registry.db import Database
from registry.tables import TERMS_INDEX
from registry.terms import words
from tests.registry.builders import bert, small
from tests.registry.conftest import Site

PATH = "/api/v1/models"


def names(client: TestClient, **query: Any) -> list[str]:
    answer = client.get(PATH, params=query)
    assert answer.status_code == 200, answer.text
    return [item["name"].removeprefix("zoo:") for item in answer.json()["items"]]


def fill(client: TestClient, count: int, prefix: str = "m") -> list[str]:
    """Publishes models and returns their names, newest first."""
    for number in range(count):
        small(f"zoo:{prefix}{number:03}").publish(client)
    return [f"{prefix}{number:03}" for number in reversed(range(count))]


def test_a_summary_shows_the_latest_version(client: TestClient) -> None:
    bert().publish(client)
    view = bert(revision=2).publish(client, tags=["prod"]).json()
    (item,) = client.get(PATH).json()["items"]
    assert item["latest_version"] == 2
    assert item["digest"] == view["digest"]
    assert item["tags"] == ["latest", "prod"]
    assert item["metadata"]["sparsity"] == 0.8
    assert item["size_bytes"] == view["size_bytes"]
    assert item["updated_at"] == view["created_at"]


def test_each_filter_narrows(client: TestClient) -> None:
    facts = [
        {"domain": "nlp", "task": "qa", "architecture": "bert", "dataset": "squad", "sparsity": 0.8, "quantized": True},
        {
            "domain": "nlp",
            "task": "ner",
            "architecture": "bert",
            "dataset": "conll",
            "sparsity": 0.9,
            "quantized": False,
        },
        {"domain": "cv", "task": "detection", "license": "MIT", "pattern": "4block"},
    ]
    for number, metadata in enumerate(facts):
        small(f"zoo:m{number}", metadata=metadata).publish(client)
    for query, expected in [
        ({"domain": "nlp"}, ["m1", "m0"]),
        ({"domain": "NLP"}, []),
        ({"task": "ner"}, ["m1"]),
        ({"architecture": "bert", "dataset": "squad"}, ["m0"]),
        ({"quantized": "true"}, ["m0"]),
        ({"quantized": "false"}, ["m1"]),
        ({"license": "MIT", "pattern": "4block"}, ["m2"]),
        ({"license": "mit"}, ["m2"]),
        ({"sparsity_min": "0.8"}, ["m1", "m0"]),
        ({"sparsity_min": "0.85", "sparsity_max": "0.95"}, ["m1"]),
        ({"sparsity_max": "0.1"}, []),
        ({}, ["m2", "m1", "m0"]),
    ]:
        assert names(client, **query) == expected, query


def test_licences_that_differ_by_case_are_one_facet(client: TestClient) -> None:
    for number, name in enumerate(("Apache-2.0", "MIT", "Apache-2.0", "apache-2.0")):
        small(f"zoo:m{number}", metadata={"license": name}).publish(client)
    page = client.get("/", headers={"Accept": "text/html"}).text
    assert 'href="/?license=Apache-2.0"' in page
    assert 'href="/?license=apache-2.0"' not in page
    assert "3 models, newest first" in client.get("/", params={"license": "Apache-2.0"}).text


def test_words_are_found_in_name_alias_and_description(client: TestClient) -> None:
    bert().publish(client)
    small("zoo:other", metadata={"description": "Für Übersetzung, ΣΊΣΥΦΟΣ"}).publish(client)
    assert names(client, q="QUESTION answering vnni") == names(client, q="wikipedia") == names(client, q="extractive")
    assert len(names(client, q="extractive")) == 1
    assert names(client, q="übersetzung") == names(client, q="ΣΊΣΥΦΟς") == ["other"]
    assert names(client, q="extractive missing") == []
    assert len(names(client, q="   ")) == 2


def test_names_are_also_found_by_the_beginnings_of_their_words(client: TestClient) -> None:
    bert().publish(client)
    for text in ("pru", "pruned", "pruned80", "wikipe", "4block", "ver"):
        found = names(client, q=text)
        assert bool(found) is (text != "ver"), text
    assert names(client, q="wikiped") == []  # seven characters: whole words only
    assert names(client, q="extract") == []  # a description's words are found whole


def test_numbers_are_filters(client: TestClient) -> None:
    small("zoo:percent", "1234567890", metadata={"metrics": {"f1": 87.5}}).publish(client)
    small("zoo:fraction", "x", metadata={"metrics": {"f1": 0.9}}).publish(client)
    small("zoo:none").publish(client)
    for query, expected in [
        ({"f1_min": 0}, ["fraction", "percent"]),
        ({"f1_min": 87.5}, ["fraction", "percent"]),
        ({"f1_min": 88}, ["fraction"]),
        ({"f1_min": 90.1}, []),
        ({"size_max": 10}, ["none", "fraction", "percent"]),
        ({"size_max": 9}, ["none", "fraction"]),
        ({"size_max": 0}, []),
        ({"latency_max_ms": 1e9}, []),
    ]:
        assert names(client, **query) == expected, query
    for query in ({"f1_min": "nan"}, {"f1_min": 101}, {"size_max": -1}, {"size_max": 1 << 63}, {"latency_max_ms": 0}):
        assert client.get(PATH, params=query).status_code == 422, query


FACTS = st.fixed_dictionaries(
    {},
    optional={
        "task": st.sampled_from(["qa", "q a", "ner", "Überschrift", "%"]),
        "pattern": st.sampled_from(["4block", "2:4"]),
        "license": st.sampled_from(["Apache-2.0", "apache-2.0", "Apache 2.0", "LÜ-1"]),
        "quantized": st.booleans(),
        "sparsity": st.sampled_from([0, 0.3, 0.5, 0.799, 0.8, 0.95, 1]),
        "metrics": st.fixed_dictionaries({"f1": st.sampled_from([0.5, 60, 87.9, 88, 96.5])}),
        "description": st.text("ab_ ß9.-'\"&|!:*()\\", max_size=12),
    },
)
WANTED = st.fixed_dictionaries(
    {},
    optional={
        "task": st.sampled_from(["qa", "q a", "ner", "überschrift"]),
        "pattern": st.sampled_from(["4block", "2:4"]),
        "license": st.sampled_from(["Apache-2.0", "APACHE-2.0", "LÜ-1"]),
        "quantized": st.booleans(),
        "sparsity_min": st.sampled_from([0.0, 0.5, 0.8, 0.9]),
        "sparsity_max": st.sampled_from([0.0, 0.5, 0.8, 0.9]),
        "f1_min": st.sampled_from([50.0, 87.95, 88.0]),
        "size_max": st.sampled_from([3, 8]),
        "q": st.text("mab ß9.", max_size=3),
    },
)


def expected_names(models: list[tuple[str, str, dict[str, Any]]], query: dict[str, Any]) -> list[str]:
    """What a search is to find, said without a database."""

    def holds(name: str, text: str, facts: dict[str, Any]) -> bool:
        f1 = facts.get("metrics", {}).get("f1")
        percent = f1 if f1 is None or f1 > 1 else 100 * f1
        has = set(words(facts.get("description", ""))) | {name, name[:3]}
        checks = {
            "sparsity_min": lambda limit: facts.get("sparsity") is not None and facts["sparsity"] >= limit,
            "sparsity_max": lambda limit: facts.get("sparsity") is not None and facts["sparsity"] <= limit,
            "f1_min": lambda limit: percent is not None and percent >= limit,
            "size_max": lambda limit: len(text) <= limit,
            "license": lambda asked: facts.get("license", "").lower() == asked.lower(),
            "q": lambda asked: set(words(asked)) <= has and (bool(words(asked)) or not asked.strip()),
        }
        return all(checks[key](value) if key in checks else facts.get(key) == value for key, value in query.items())

    return [name for name, text, facts in reversed(models) if holds(name, text, facts)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(facts=st.lists(FACTS, max_size=5), queries=st.lists(WANTED, min_size=5, max_size=5), data=st.data())
def test_any_search_finds_what_a_plain_reading_says(
    site: Site, facts: list[Any], queries: list[Any], data: Any
) -> None:
    """The same oracle on both databases: they agree with it, and so with each other."""
    site.wipe()
    models = [(f"m{n:03}", data.draw(st.text("xy", min_size=1, max_size=9)), each) for n, each in enumerate(facts)]
    for name, text, metadata in models:
        small(f"zoo:{name}", text, metadata=metadata).publish(site.client)
    for query in queries:
        assert names(site.client, **query) == expected_names(models, query), query


def next_id(site: Site, number: int) -> None:
    """Lets the next model have this id."""
    database = Database(site.settings.database)
    with database.exclusive() as connection:
        if database.is_sqlite:
            row = "INSERT OR IGNORE INTO models (id, full_name, created_at) VALUES (:id, :name, '2026-01-01')"
            connection.execute(sql(row), {"id": number - 1, "name": f"gap{number}"})
        else:
            connection.execute(sql("SELECT setval('models_id_seq', :id)"), {"id": number - 1})
    database.close()


def test_models_are_found_far_behind_the_newest(site: Site) -> None:
    """PostgreSQL asks its index of terms for blocks of ids, newest first: ids at the blocks' edges, pages of two."""
    sizes = [1 << bits for bits in listings.BLOCK_BITS]
    ids = sorted({3, 4} | {number for size in sizes for number in (size - 1, size, 2 * size, 3 * size + 5)})
    for number in ids:
        next_id(site, number)
        small(f"zoo:m{number}", str(number), metadata={"task": "ner", "description": "otters"}).publish(site.client)
    newest = [f"zoo:m{number}" for number in reversed(ids)]
    for query in ({}, {"task": "ner"}, {"q": "otters", "task": "ner"}):
        found, cursor = list[str](), {}
        while cursor is not None:
            page = site.client.get(PATH, params={**query, **cursor, "limit": 2}).json()
            found += [item["name"] for item in page["items"]]
            cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else None
        assert found == newest, query
    assert names(site.client, q="m3 otters") == ["m3"]
    assert f"{len(ids)} models, newest first" in site.client.get("/", params={"task": "ner"}).text


def test_postgresql_searches_by_its_index_of_terms(new_postgres: Callable[..., str]) -> None:
    with psycopg.connect(new_postgres()) as connection:
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute(f"EXPLAIN SELECT FROM listings WHERE {listings.INDEXED} @@ 'otters'").fetchall()
    assert f"Bitmap Index Scan on {TERMS_INDEX}" in str(plan)


def test_only_the_latest_version_is_searched(client: TestClient) -> None:
    small(metadata={"task": "old"}).publish(client)
    small(metadata={"task": "new"}).publish(client)
    assert names(client, task="old") == []
    assert names(client, task="new") == ["tiny"]


def test_row_42_metacharacters_are_plain_text(client: TestClient) -> None:
    small("zoo:a_b", metadata={"description": "100% of \\ it/ 'quoted' \"text\""}).publish(client)
    small("zoo:axb").publish(client)
    assert names(client, q="a_b") == ["a_b"]
    assert names(client, q="%") == []
    assert names(client, q="100% \\ it/ 'quoted' \"text\"") == ["a_b"]
    for text in (
        "'; DROP TABLE models; --",
        "\\",
        "_",
        "%%%",
        "*",
        "a AND b",
        "NEAR(",
        '"',
        "/",
        "(((",
        "::",
        "$1",
        "?",
    ):
        assert client.get(PATH, params={"q": text}).status_code == 200, text
    assert len(names(client)) == 2


def test_row_42_a_long_query_is_refused(client: TestClient) -> None:
    for size in (201, 7_000):
        answer = client.get(PATH, params={"q": "x" * size})
        assert (answer.status_code, answer.json()["code"]) == (422, "REQUEST_INVALID")
    assert client.get(PATH, params={"q": "x" * 10_000}).status_code == 400
    assert client.get(PATH, params={"q": "% " * 100}).status_code == 200


def test_row_41_pages_neither_skip_nor_repeat_while_models_are_published(client: TestClient) -> None:
    expected = fill(client, 7)
    seen, cursor, query = [], None, {"limit": "2"}
    for turn in range(20):
        answer = client.get(PATH, params=query | ({"cursor": cursor} if cursor else {})).json()
        seen += [item["name"].removeprefix("zoo:") for item in answer["items"]]
        cursor = answer["next_cursor"]
        small(f"zoo:late{turn}").publish(client)
        small(f"zoo:m{turn % 7:03}", f"changed {turn}").publish(client)
        if cursor is None:
            break
    assert seen == expected


def test_row_41_the_last_page_has_no_cursor(client: TestClient) -> None:
    fill(client, 4)
    first = client.get(PATH, params={"limit": 2}).json()
    last = client.get(PATH, params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert first["next_cursor"]
    assert (len(last["items"]), last["next_cursor"]) == (2, None)


def test_row_41_limits_outside_one_to_a_hundred_are_refused(client: TestClient) -> None:
    for limit in ("0", "-1", "101", "1000000000", "1e9", "x", "", "9" * 400):
        assert client.get(PATH, params={"limit": limit}).status_code == 422, limit
    assert client.get(PATH, params={"limit": 100}).status_code == 200


def test_row_41_a_tampered_cursor_is_refused(client: TestClient) -> None:
    fill(client, 3)
    cursor = client.get(PATH, params={"limit": 1}).json()["next_cursor"]
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    raw[7] ^= 1
    forged = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    for bad in (forged, cursor[:-2], cursor + "AA", "x", "====", "a b", "é", "-" * 200, "%00", "1"):
        answer = client.get(PATH, params={"limit": 1, "cursor": bad})
        assert (answer.status_code, answer.json()["code"]) == (400, "CURSOR_INVALID"), bad
    other = client.get(PATH, params={"limit": 1, "cursor": cursor, "q": "m"})
    assert other.json()["code"] == "CURSOR_INVALID"
    assert client.get(PATH, params={"limit": 3, "cursor": cursor}).status_code == 200


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=60), cursor=st.none() | st.text(max_size=30))
def test_row_42_any_text_gets_an_answer(site: Site, query: str, cursor: str | None) -> None:
    text = quote(query.encode("utf-8", "surrogatepass"))
    more = "" if cursor is None else "&cursor=" + quote(cursor.encode("utf-8", "surrogatepass"))
    assert site.client.get(f"{PATH}?q={text}{more}").status_code in (200, 400, 422)
