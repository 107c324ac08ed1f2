"""Databases that fail: killed while they migrate, locked, full, damaged, cut off. Rows: the list of faults."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, text

from registry import admin, db
from registry.db import Database
from registry.errors import SchemaError, UnavailableError
from registry.migrate import downgrade, upgrade
from registry.settings import Settings
from registry.sqlite_files import is_on_shared_disk
from tests.registry.builders import LONG, bert, small
from tests.registry.conftest import ROOT, Site, open_site

KILLED = """
import os, signal, sys
from sqlalchemy import event
from registry import migrate
from registry.db import Database

database, left = Database(sys.argv[1]), int(sys.argv[2])

def count(*_):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

event.listen(database.engine, "before_cursor_execute", count)
print(migrate.upgrade(database))
"""


def published(settings: Settings, name: str = "zoo:tiny") -> int:
    with open_site(settings) as site:
        return small(name, name).publish(site.client).status_code


# --- row 55


def test_row_55_a_migration_that_was_killed_at_each_step_is_finished_by_the_next(
    empty_database: str, tmp_path: Path
) -> None:
    settings = Settings(database_url=empty_database, storage=tmp_path / "storage")
    with open_site(settings) as site:
        bert().publish(site.client)
    database = Database(settings.database)
    downgrade(database, "0001")
    database.close()
    kills = 0
    for step in range(0, 400, 7):
        arguments = [sys.executable, "-c", KILLED, settings.database, str(step)]
        done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        kills += 1
    assert kills > 3
    admin.adopt(settings)  # its id went with the schema
    with open_site(settings) as site:
        view = site.client.get("/api/v1/resolve", params={"stub": LONG}).json()
        assert (view["version"], len(view["files"])) == (1, 12)
        found = site.client.get("/api/v1/models", params={"q": "extractive"}).json()
        assert [item["name"] for item in found["items"]] == [LONG]


def test_row_55_of_an_older_sqlite_database_a_copy_is_kept(tmp_path: Path) -> None:
    settings = Settings(storage=tmp_path)
    assert published(settings) == 201
    database = Database(settings.database)
    downgrade(database, "0002")
    upgrade(database)
    database.close()
    copy = tmp_path / "registry.db.0002.backup"
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("0002",)]
        assert connection.execute("SELECT full_name FROM models").fetchall() == [("tiny",)]
    assert not list(tmp_path.glob(".registry.db*"))


# --- row 58


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Site]:
    """A registry on an SQLite file of its own, with a model."""
    with open_site(Settings(storage=tmp_path / "storage")) as site:
        assert small().publish(site.client).status_code == 201
        yield site


def path_of(site: Site) -> Path:
    return site.settings.storage / "registry.db"


def test_row_58_a_locked_database_answers_503_to_writers_and_serves_readers(
    lite: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "BUSY_TIMEOUT_MS", 100)
    with open_site(lite.settings) as impatient, closing(sqlite3.connect(path_of(lite), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = impatient.client.put("/api/v1/tags", json={"stub": "zoo:tiny", "tag": "prod"})
        assert (refused.status_code, refused.json()["code"]) == (503, "UNAVAILABLE")
        assert impatient.client.get("/api/v1/resolve?stub=zoo:tiny").status_code == 200
        other.execute("ROLLBACK")
        tag = {"stub": "zoo:tiny", "tag": "prod"}
        assert impatient.client.put("/api/v1/tags", json=tag).status_code == 200


def test_row_58_the_journal_mode_is_read_back_and_no_wal_is_used_on_a_shared_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mounts = (
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "30 22 0:40 / /srv/zoo rw,relatime shared:9 - nfs4 host:/zoo rw\n"
        "31 30 0:41 / /srv/zoo/local rw - xfs /dev/sdb rw\n"
        "32 22 0:42 / /mnt rw - virtiofs share rw\n"
    )
    for path, shared in {"/srv/zoo/a.db": True, "/srv/zoo/local/a.db": False, "/srv/zoo2/a.db": False}.items():
        assert is_on_shared_disk(Path(path), mounts) is shared, path
    assert is_on_shared_disk(Path("/mnt/deep/a.db"), mounts)
    monkeypatch.setattr(db, "is_on_shared_disk", lambda _: True)
    with caplog.at_level(logging.WARNING):
        assert published(Settings(storage=tmp_path)) == 201
    assert "journal mode delete" in caplog.text
    with closing(sqlite3.connect(tmp_path / "registry.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_row_58_a_full_disk_answers_503_and_loses_nothing(lite: Site) -> None:
    """SQLite's own bound on a file stands for the disk's."""
    engine = lite.client.app.state.registry.database.engine  # type: ignore[attr-defined]  # the app's own
    engine.dispose()

    def bound(connection: Any, _: Any) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(engine, "connect", bound)
    statuses = [
        small(f"zoo:m{number}", "x", metadata={"description": "d" * 4_000}).publish(lite.client).status_code
        for number in range(30)
    ]
    assert 503 in statuses
    assert set(statuses) <= {201, 503}
    event.remove(engine, "connect", bound)
    engine.dispose()
    for number, status in enumerate(statuses):
        found = lite.client.get("/api/v1/resolve", params={"stub": f"zoo:m{number}"}).status_code
        assert found == (200 if status == 201 else 404)
    assert small("zoo:later", "later").publish(lite.client).status_code == 201


READ_ONLY = """
import os, sys
from registry import admin
from registry.errors import SchemaError
from registry.settings import Settings

settings = Settings(storage=sys.argv[1])
os.setgid(65534)
os.setuid(65534)
try:
    admin.upgrade(settings)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not write")
def test_row_58_a_file_that_can_t_be_written_is_named_and_stays(lite: Site, tmp_path: Path) -> None:
    path = path_of(lite)
    lite.client.app.state.registry.database.close()  # type: ignore[attr-defined]  # the app's own
    before = path.read_bytes()
    for folder in (*tmp_path.parents, tmp_path):
        if folder.is_relative_to("/tmp/pytest-of-root"):
            folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(lite.settings.storage)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.startswith("SchemaError the database can't be opened or upgraded, and stays as it was"), done
    assert path.read_bytes() == before


def test_row_58_without_its_log_a_database_is_as_it_was_committed_before(lite: Site, tmp_path: Path) -> None:
    database = lite.client.app.state.registry.database  # type: ignore[attr-defined]  # the app's own
    with database.engine.connect() as connection:
        connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
    assert small("zoo:late", "late").publish(lite.client).status_code == 201
    assert path_of(lite).with_name("registry.db-wal").stat().st_size
    copy = Settings(storage=tmp_path / "copy")
    copy.storage.mkdir()
    shutil.copy(path_of(lite), copy.storage)
    shutil.copytree(lite.settings.storage / "blobs", copy.storage / "blobs")
    with open_site(copy) as site:
        assert site.client.get("/api/v1/resolve?stub=zoo:tiny").status_code == 200
        assert site.client.get("/api/v1/resolve?stub=zoo:late").status_code == 404
        assert small("zoo:late", "late").publish(site.client).status_code == 201


@pytest.mark.parametrize("whole", [True, False])
def test_row_58_a_damaged_file_is_named_and_never_deleted(lite: Site, whole: bool) -> None:
    lite.client.app.state.registry.database.close()  # type: ignore[attr-defined]  # the app's own
    path = path_of(lite)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    start = 0 if whole else 4_096
    data[start:] = b"\xa5" * (len(data) - start)
    path.write_bytes(data)
    with pytest.raises((SchemaError, UnavailableError), match=r"malformed|not a database|damaged"):
        admin.gc(lite.settings)
    answer = lite.client.get("/api/v1/resolve?stub=zoo:tiny")
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
    assert "damaged" in answer.json()["detail"]
    assert path.read_bytes() == data


# --- row 59


@pytest.fixture
def pg(new_postgres: Callable[..., str], tmp_path: Path) -> Iterator[Site]:
    """A registry on a PostgreSQL database of its own, with a model."""
    with open_site(Settings(database_url=new_postgres(), storage=tmp_path / "storage")) as site:
        assert small().publish(site.client).status_code == 201
        yield site


def operate(site: Site, statement: str) -> None:
    """As the database's operator, on a connection of one's own."""
    server, _, name = site.settings.database_url.replace("+psycopg", "").rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(statement.format(name=name))  # type: ignore[arg-type]  # our own words


CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
TAG = {"stub": "zoo:tiny", "tag": "prod"}


def database_of(site: Site) -> Database:
    found: Database = site.client.app.state.registry.database  # type: ignore[attr-defined]  # the app's own
    return found


def test_row_59_connections_that_were_cut_while_idle_are_made_anew(pg: Site) -> None:
    for _ in range(3):
        operate(pg, CUT)
        assert pg.client.get("/api/v1/resolve?stub=zoo:tiny").status_code == 200
        operate(pg, CUT)
        assert pg.client.put("/api/v1/tags", json=TAG).status_code == 200


def test_row_59_a_cut_within_a_transaction_is_told_and_leaves_nothing(pg: Site) -> None:
    database = database_of(pg)

    def work(session: Any) -> None:
        session.execute(text("UPDATE models SET full_name = 'other'"))
        operate(pg, CUT)
        session.execute(text("SELECT 1"))

    with pytest.raises(UnavailableError):
        database.write(work)
    assert pg.client.get("/api/v1/resolve?stub=zoo:tiny").status_code == 200
    assert pg.client.put("/api/v1/tags", json=TAG).status_code == 200


def test_row_59_a_failover_to_a_read_only_server_is_503_for_writers_alone(pg: Site) -> None:
    operate(pg, "ALTER DATABASE {name} SET default_transaction_read_only = on")
    operate(pg, CUT)
    refused = pg.client.put("/api/v1/tags", json=TAG)
    assert (refused.status_code, refused.json()["code"]) == (503, "UNAVAILABLE")
    assert pg.client.get("/api/v1/resolve?stub=zoo:tiny").status_code == 200
    operate(pg, "ALTER DATABASE {name} RESET default_transaction_read_only")
    operate(pg, CUT)
    assert pg.client.put("/api/v1/tags", json=TAG).status_code == 200


def test_row_59_a_pool_that_is_used_up_answers_503_and_recovers(pg: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = database_of(pg).engine
    monkeypatch.setattr(engine.pool, "_timeout", 0.1)
    held = [engine.connect() for _ in range(20)]
    refused = pg.client.get("/api/v1/resolve?stub=zoo:tiny")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    for connection in held:
        connection.close()
    assert pg.client.get("/api/v1/resolve?stub=zoo:tiny").status_code == 200


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "SERIALIZABLE"])
def test_row_59_a_deadlock_or_a_serialization_failure_is_tried_again(pg: Site, isolation: str) -> None:
    """Two transactions that take two rows in opposite order, or write what the other has read."""
    assert small("zoo:other", "other").publish(pg.client).status_code == 201
    operate(pg, f"ALTER DATABASE {{name}} SET default_transaction_isolation = '{isolation.lower()}'")
    operate(pg, "ALTER DATABASE {name} SET deadlock_timeout = '50ms'")
    operate(pg, CUT)
    database, together, tries = database_of(pg), threading.Barrier(2), []

    def run(first: str, second: str) -> None:
        def work(session: Any) -> None:
            tries.append(first)
            for name in (first, second):
                session.execute(text("UPDATE models SET created_at = now() WHERE full_name = :n"), {"n": name})
                if len(tries) <= 2 and name == first:
                    together.wait(10)

        database.write(work)

    threads = [threading.Thread(target=run, args=pair) for pair in (("tiny", "other"), ("other", "tiny"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(tries) >= 3
    assert not together.broken
