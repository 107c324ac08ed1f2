"""Two writers of one model on PostgreSQL: the second changes it where the first has read it and not yet locked it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from registry import admin
from tests.registry.builders import Folder, small
from tests.registry.conftest import Site, statements
from tests.registry.test_access import publish, token
from tests.registry.test_benchmarks import record

LOCKING = re.compile(r"FROM (models|tags)\b.*FOR UPDATE", re.DOTALL)


@pytest.fixture
def pg(sites: Callable[[str], Site]) -> Site:
    """An empty registry on PostgreSQL; SQLite lets one writer in at a time."""
    found = sites("postgresql")
    found.wipe()
    return found


@contextmanager
def before_the_lock(site: Site, change: Callable[[], Any]) -> Iterator[list[Any]]:
    """Runs a change on another connection just before the next request locks a row; gives what came of it."""
    outcomes: list[Any] = []

    def look(statement: str) -> None:
        if LOCKING.search(statement) and not outcomes:
            outcomes.append(None)  # the change locks too
            outcomes[0] = change()

    with statements(site, look):
        yield outcomes


def test_a_scope_that_becomes_private_while_a_version_is_published_hides_it(pg: Site) -> None:
    headers = token(pg, "write:@acme/*")
    assert publish(pg.client, small("zoo:@acme/plan"), headers).status_code == 201
    second = small("zoo:@acme/plan", "2", metadata={"description": "hush"})
    with before_the_lock(pg, lambda: admin.set_scope(pg.settings, "@acme", private=True)) as changed:
        assert publish(pg.client, second, headers).status_code == 201
    assert changed == [1]
    assert pg.client.get("/api/v1/models").json()["items"] == []
    assert pg.client.get("/api/v1/models", headers=headers).json()["items"][0]["latest_version"] == 2


def delete(site: Site, stub: str = "zoo:tiny@v1") -> int:
    sent = {"stub": stub, "reason": "withdrawn"}
    return site.client.post("/api/v1/versions/delete", json=sent).status_code


@pytest.fixture
def two(pg: Site) -> Folder:
    """The first of a model's two versions."""
    first = small()
    for folder in (first, small(text="2")):
        assert folder.publish(pg.client).status_code == 201
    return first


TAG = {"stub": "zoo:tiny@v1", "tag": "prod"}
BENCHMARK = {"stub": "zoo:tiny@v1", "record": record()}


@pytest.mark.parametrize(
    "write",
    [
        lambda site, _: site.client.put("/api/v1/tags", json=TAG),
        lambda site, first: first.publish(site.client, tags=["prod"]),
        lambda site, _: site.client.put("/api/v1/yanks", json={"stub": "zoo:tiny@v1", "reason": "wrong"}),
        lambda site, _: site.client.post("/api/v1/benchmarks", json=BENCHMARK),
    ],
    ids=["tag", "publish", "yank", "benchmark"],
)
def test_a_version_that_is_deleted_before_the_lock_is_gone_for_the_writer(
    pg: Site, two: Folder, write: Callable[[Site, Folder], Any]
) -> None:
    with before_the_lock(pg, lambda: delete(pg)) as deleted:
        answer = write(pg, two)
    assert deleted == [200]
    assert (answer.status_code, answer.json()["code"]) == (410, "VERSION_DELETED")
    assert "prod" not in str(pg.client.get("/api/v1/versions", params={"stub": "zoo:tiny"}).json())


def test_a_version_that_is_deleted_twice_at_once_keeps_the_first_reason(pg: Site, two: Folder) -> None:
    with before_the_lock(pg, lambda: delete(pg)) as deleted:
        assert delete(pg) == 410
    assert deleted == [200]
    assert two.publish(pg.client).status_code == 410
