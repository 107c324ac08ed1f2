"""Fills a registry with models and measures stub lookups and filtered searches over HTTP.

    python -m benchmarks.registry_search fill    --models 1000000 --folder big   [--database-url postgresql://...]
    python -m benchmarks.registry_search fill    --models 1000    --folder small [--database-url postgresql://...]
    python -m benchmarks.registry_search measure --folder big --against small [--database-url ... --against-url ...]

`measure` alternates between the two registries, each a program of its own on loopback. It prints one JSON document.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import psycopg

from benchmarks.registry_models import LICENSES, PATTERNS, SPARSITIES, TABLES, TASKS, WORDS, alias_of, rows
from benchmarks.registry_program import served
from registry import admin
from registry.settings import Settings


def fill(settings: Settings, count: int) -> None:
    """Makes the schema and inserts the rows."""
    admin.upgrade(settings)
    if settings.database.startswith("sqlite"):
        _fill_sqlite(settings.database.removeprefix("sqlite:///"), count)
    else:
        _fill_postgresql(settings.database.replace("+psycopg", ""), count)


def _fill_sqlite(path: str, count: int) -> None:
    database = sqlite3.connect(path)
    database.executescript("PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000; DROP TRIGGER listings_insert;")
    for part in rows(count):
        for table, columns in TABLES.items():
            marks = ", ".join("?" * len(columns))
            database.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", part[table])  # noqa: S608
    database.execute("INSERT INTO listing_terms(listing_terms) VALUES ('rebuild')")
    database.execute(
        "CREATE TRIGGER listings_insert AFTER INSERT ON listings BEGIN "
        "INSERT INTO listing_terms(rowid, terms) VALUES (new.model_id, new.terms); END"
    )
    database.commit()
    database.execute("ANALYZE")
    database.commit()
    database.close()


def _fill_postgresql(url: str, count: int) -> None:
    with psycopg.connect(url) as database, database.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        cursor.execute("SET maintenance_work_mem = '1GB'")
        cursor.execute("SELECT pg_get_indexdef('ix_listings_terms'::regclass)")
        make_index = cursor.fetchone()
        cursor.execute("DROP INDEX ix_listings_terms")
        for part in rows(count):
            for table, columns in TABLES.items():
                with cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
                    for row in part[table]:
                        copy.write_row(row)
        cursor.execute(make_index[0])
    with psycopg.connect(url, autocommit=True) as database:
        database.execute("VACUUM ANALYZE")


def ask(connection: http.client.HTTPConnection, path: str, query: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Milliseconds of one request, and its answer."""
    started = time.perf_counter()
    connection.request("GET", f"/api/v1/{path}?{urlencode(query)}")
    answer = connection.getresponse()
    body = answer.read()
    elapsed_ms = 1_000 * (time.perf_counter() - started)
    assert answer.status == 200, body
    return elapsed_ms, json.loads(body)


def lookups(
    big: http.client.HTTPConnection, small: http.client.HTTPConnection, count: int, models: int
) -> dict[str, Any]:
    """Medians of stub lookups on both registries, in turns, and their ratio."""
    draw = random.Random(1)
    stubs = {
        connection: [alias_of(draw.randint(1, most)) for _ in range(count)]
        for connection, most in ((big, models), (small, 1_000))
    }
    times: dict[http.client.HTTPConnection, list[float]] = {big: [], small: []}
    for number in range(count):
        for connection, names in stubs.items():
            elapsed_ms, answer = ask(connection, "resolve", {"stub": names[number]})
            assert answer["alias"] == names[number]
            times[connection].append(elapsed_ms)
    medians = {name: statistics.median(times[connection]) for name, connection in (("big", big), ("small", small))}
    return {f"lookup_{name}_median_ms": round(value, 3) for name, value in medians.items()} | {
        "lookup_ratio": round(medians["big"] / medians["small"], 3)
    }


def searches(connection: http.client.HTTPConnection, count: int) -> dict[str, Any]:
    """Times of random searches of one to four conditions each, every fifth followed to its second page."""
    draw, times, found = random.Random(2), list[tuple[float, dict[str, Any]]](), 0
    for number in range(count):
        query = _query(draw)
        elapsed_ms, answer = ask(connection, "models", query)
        times.append((elapsed_ms, query))
        found += bool(answer["items"])
        if number % 5 == 0 and answer["next_cursor"]:
            times.append((ask(connection, "models", {**query, "cursor": answer["next_cursor"]})[0], query))
    ranked = sorted(times, key=lambda item: item[0])
    return {
        "searches": len(ranked),
        "with_hits": found,
        "search_median_ms": round(ranked[len(ranked) // 2][0], 2),
        "search_p99_ms": round(ranked[int(len(ranked) * 0.99)][0], 2),
        "search_slowest": [(round(elapsed_ms, 1), query) for elapsed_ms, query in ranked[-3:]],
    }


def _query(draw: random.Random) -> dict[str, Any]:
    task = draw.choice(list(TASKS))
    domain, architectures, datasets = TASKS[task]
    choices: dict[str, Any] = {
        "domain": domain,
        "task": task,
        "architecture": draw.choice(architectures),
        "dataset": draw.choice(datasets),
        "pattern": draw.choice(PATTERNS),
        "license": draw.choice(LICENSES),
        "quantized": draw.choice(("true", "false")),
        "sparsity_min": draw.choice(SPARSITIES[1:]),
        "f1_min": draw.choice((70, 80, 85, 90, 95, 97)),
        "latency_max_ms": draw.choice((0.3, 1, 3, 10, 50)),
        "size_max": draw.choice((1_000_000, 10_000_000, 100_000_000)),
        "q": " ".join(draw.sample(WORDS, draw.choice((1, 1, 2)))),
    }
    if draw.random() < 0.3:
        rare = (f"team{draw.randrange(5_000)}", f"run{draw.randrange(10**6)}", "bak")
        choices["q"] = draw.choice(("bert", "pruned80", *rare))
    if draw.random() < 0.2:
        choices["dataset"] = draw.choice(("squad", "coco", "imagenet"))
    return {key: choices[key] for key in draw.sample(list(choices), draw.randint(1, 4))}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("fill", "measure"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--database-url", default="")
    parser.add_argument("--models", type=int, default=1_000_000)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--against-url", default="")
    given = parser.parse_args()
    settings = Settings(storage=given.folder, database_url=given.database_url)
    if given.action == "fill":
        started = time.monotonic()
        fill(settings, given.models)
        print(json.dumps({"models": given.models, "seconds": round(time.monotonic() - started)}))
        return
    other = Settings(storage=given.against, database_url=given.against_url)
    with served(settings) as one, served(other) as two:
        big, small = (http.client.HTTPConnection(urlsplit(it.url).netloc, timeout=60) for it in (one, two))
        searches(big, 50)
        result = lookups(big, small, 1_000, given.models) | searches(big, 800)
    print(json.dumps({"database": re.match(r"\w+", settings.database)[0], "models": given.models, **result}, indent=1))  # type: ignore[index]


if __name__ == "__main__":
    main()
