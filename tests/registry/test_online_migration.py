"""PostgreSQL is migrated while others use it: writers go on, starts wait, and what was cut off is made again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import event, text

from registry import listings
from registry.db import Database
from registry.errors import SchemaError
from registry.migrate import downgrade, upgrade
from registry.settings import Settings
from registry.tables import TERMS_INDEX
from tests.registry.builders import small
from tests.registry.conftest import Program, Site, open_site
from tests.registry.test_migrate import HEAD

BUILDING = """SELECT pid FROM pg_stat_activity WHERE datname = current_database()
    AND query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'"""


@pytest.fixture
def old(new_postgres: Callable[..., str], tmp_path: Path) -> Iterator[Site]:
    """A registry that serves on a database of before the blocks of listings."""
    settings = Settings(database_url=new_postgres(), storage=tmp_path / "storage")
    with open_site(settings) as site:
        assert small().publish(site.client).status_code == 201
        database = Database(settings.database)
        assert downgrade(database, "0003") == "0003"
        database.close()
        (settings.storage / "registry-id").unlink()  # no store had one then
        yield site


@contextmanager
def operator(site: Site) -> Iterator[psycopg.Connection]:
    """The database's operator, whose statements are transactions of their own."""
    with psycopg.connect(site.settings.database_url.replace("+psycopg", ""), autocommit=True) as connection:
        yield connection


@contextmanager
def snapshot(site: Site) -> Iterator[None]:
    """A transaction like a backup's: no index is finished before it ends."""
    with operator(site) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM models")
        yield


def await_building(site: Site) -> int:
    """Returns the process of the server that makes the index, once it waits for the snapshot."""
    with operator(site) as connection:
        for _ in range(400):
            row = connection.execute(BUILDING).fetchone()
            if row:
                return int(row[0])
            time.sleep(0.05)
    raise AssertionError("no index is being made")


def indexes(site: Site) -> dict[str, bool]:
    """Whether each index of terms is valid, by name."""
    with operator(site) as connection:
        return dict(
            connection.execute(
                "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
                "JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'gin'"
            ).fetchall()
        )


def start(settings: Settings) -> str:
    """What a registry does first, with connections of its own."""
    database = Database(settings.database)
    try:
        return upgrade(database)
    finally:
        database.close()


def names(site: Site, **asked: str) -> list[str]:
    return sorted(item["name"] for item in site.client.get("/api/v1/models", params=asked).json()["items"])


def test_row_54_writers_go_on_while_an_index_is_made_and_all_that_start_come_up(old: Site, tmp_path: Path) -> None:
    programs = list[Program]()
    try:
        with snapshot(old):
            programs = [Program(old.settings, tmp_path / f"log{number}") for number in range(3)]
            await_building(old)
            started = time.monotonic()
            assert small("zoo:meanwhile", "meanwhile").publish(old.client).status_code == 201
            assert names(old, q="meanwhile") == ["zoo:meanwhile"]
            assert time.monotonic() - started < 5
            time.sleep(0.5)  # for the others to have asked for the lock
            assert "registry at" not in "".join(program.log.read_text() for program in programs)
        for program in programs:
            with program.client() as client:
                assert client.get("/api/v1/resolve", params={"stub": "zoo:meanwhile"}).status_code == 200
    finally:
        for program in programs:
            program.stop(signal.SIGKILL)
    assert indexes(old) == {TERMS_INDEX: True}
    assert names(old, q="meanwhile") == ["zoo:meanwhile"]


def test_row_55_an_index_that_was_interrupted_is_made_again(old: Site) -> None:
    with ThreadPoolExecutor(1) as pool, snapshot(old), operator(old) as connection:
        starting = pool.submit(start, old.settings)
        connection.execute("SELECT pg_cancel_backend(%s)", [await_building(old)])
        with pytest.raises(SchemaError, match="keeps what was finished"):
            starting.result(30)
    assert indexes(old) == {TERMS_INDEX: True, "ix_listings_fresh": False}
    assert small("zoo:meanwhile", "meanwhile").publish(old.client).status_code == 201
    assert start(old.settings) == HEAD
    assert indexes(old) == {TERMS_INDEX: True}
    assert names(old, q="meanwhile") == ["zoo:meanwhile"]


def test_row_55_a_registry_that_is_killed_while_an_index_is_made_leaves_it_to_the_next(
    old: Site, tmp_path: Path
) -> None:
    killed = Program(old.settings, tmp_path / "log")
    with ThreadPoolExecutor(1) as pool, snapshot(old):
        try:
            await_building(old)
        finally:
            killed.stop(signal.SIGKILL)
        starting = pool.submit(start, old.settings)
        time.sleep(0.3)
        assert not starting.done()
        with operator(old) as connection:
            connection.execute("SELECT pg_terminate_backend(%s)", [await_building(old)])
        await_building(old)
        assert not starting.done()
    assert starting.result(30) == HEAD
    assert indexes(old) == {TERMS_INDEX: True}


def test_writers_go_on_while_listings_are_filled_and_a_crash_costs_none(
    new_postgres: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(database_url=new_postgres(), storage=tmp_path / "storage")
    published = [f"zoo:m{number}" for number in range(5)]
    with open_site(settings) as site:
        for name in published:
            assert small(name, name).publish(site.client).status_code == 201
        monkeypatch.setattr(listings, "BATCH", 2)
        database = Database(settings.database)
        written = []

        def write_meanwhile(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
            if not statement.startswith("INSERT INTO listings"):
                return
            if len(written) == 2:
                raise OSError("the machine goes down")
            with operator(site) as connection:
                connection.execute("SET lock_timeout = '1s'")
                for table in ("models SET private = private", "versions SET alias = alias", "tags SET tag = tag"):
                    connection.execute(f"UPDATE {table}")  # type: ignore[arg-type]  # our own words
            written.append(statement)

        downgrade(database, "0002")
        event.listen(database.engine, "before_cursor_execute", write_meanwhile)
        with pytest.raises(SchemaError, match="goes down"):
            upgrade(database)
        assert len(written) == 2
        with database.engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM listings")).scalar() == 4
        event.remove(database.engine, "before_cursor_execute", write_meanwhile)
        assert upgrade(database) == HEAD
        database.close()
        assert names(site) == published
