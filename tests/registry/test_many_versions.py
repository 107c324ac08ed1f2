"""A model with more versions than a page of rows holds: all are listed, found, exported and heard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from registry import admin
from registry.tables import Lineage, Version
from tests.registry.builders import small
from tests.registry.conftest import Site, statements

MANY = 1_005


@pytest.fixture
def many(sqlite_site: Site) -> Site:
    """A model `zoo:base` with many versions, made from its first by their lineage, and an old model made from v1."""
    assert small("zoo:base").publish(sqlite_site.client).status_code == 201
    child = small("zoo:child", "child", metadata={"base": "zoo:base@v1"})
    assert child.publish(sqlite_site.client).status_code == 201
    database = sqlite_site.client.app.state.registry.database  # type: ignore[attr-defined]  # the app's own
    with database.exclusive() as connection:
        table = Version.__table__
        row = connection.execute(select(table).where(table.c.id == 1)).mappings().one()
        rows = [
            {**row, "id": n + 10, "number": n, "digest": "sha256:" + hashlib.sha256(b"%d" % n).hexdigest()}
            for n in range(2, MANY + 1)
        ]
        connection.execute(insert(table), rows)
        lineage = [{"version_id": row["id"], "relation": "base", "target": "base", "pin": "v1"} for row in rows]
        connection.execute(insert(Lineage.__table__), lineage)
    return sqlite_site


@contextmanager
def manifests_read(site: Site) -> Iterator[list[str]]:
    """The statements that read manifests of the table of versions."""
    found: list[str] = []

    def look(statement: str) -> None:
        if statement.startswith("SELECT") and "versions.manifest" in statement:
            found.append(statement)

    with statements(site, look):
        yield found


def test_all_versions_are_listed_without_reading_their_manifests(many: Site) -> None:
    with manifests_read(many) as read:
        items = many.client.get("/api/v1/versions", params={"stub": "zoo:base"}).json()["items"]
    assert [item["version"] for item in items] == list(range(MANY, 0, -1))
    assert items[-1]["tags"] == ["latest"]
    assert read == []


def test_a_model_s_page_reads_the_manifest_of_its_version_alone(many: Site) -> None:
    with manifests_read(many) as read:
        page = many.client.get("/models/base?version=1", headers={"Accept": "text/html"}).text
    assert 'href="/api/v1/versions?stub=zoo:base"' in page
    assert len(read) <= 3  # for the page, its overview and its family


def test_the_oldest_version_is_found_by_its_commit(many: Site) -> None:
    digest = many.client.get("/api/v1/resolve", params={"stub": "zoo:base@v1"}).json()["digest"]
    commit = digest.removeprefix("sha256:")[:40]
    with manifests_read(many) as read:
        answer = many.client.get(f"/base/resolve/{commit}/weights.txt")
    assert (answer.status_code, answer.headers["x-repo-commit"]) == (200, commit)
    assert len(read) == 1
    assert many.client.get(f"/base/resolve/{'0' * 40}/weights.txt").status_code == 404


def test_all_versions_go_into_a_bundle(many: Site, tmp_path: Path) -> None:
    assert admin.export_bundle(many.settings, tmp_path / "bundle.tar", ["zoo:base"]).versions == MANY


def test_row_40_a_user_that_is_older_than_many_others_still_keeps_a_version(many: Site) -> None:
    many.client.put("/api/v1/yanks", json={"stub": "zoo:base@v1", "reason": "wrong"})
    refused = many.client.post("/api/v1/versions/delete", json={"stub": "zoo:base@v1", "reason": "wrong"})
    assert (refused.status_code, refused.json()["users"]) == (409, ["zoo:child@v1"])
