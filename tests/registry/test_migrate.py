"""Migrations: once for ten servers, up and down with rows, and the same as the tables."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint, event, inspect, text
from sqlalchemy.orm import Session

from registry import admin, listings
from registry.db import Database
from registry.errors import SchemaError
from registry.migrate import config_for, downgrade, scripts_folder, upgrade
from registry.settings import Settings
from registry.tables import TERMS_INDEX, Base, is_declared
from tests.registry.builders import bert, digest_of, small
from tests.registry.conftest import ROOT, open_site
from tests.registry.test_benchmarks import send

HEAD = "0005"
TEN_SERVERS = """
import os, sys
from registry import admin
from registry.settings import Settings

settings = Settings(database_url=sys.argv[1], storage=sys.argv[2])
children = []
for _ in range(10):
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if admin.upgrade(settings) == sys.argv[3] else 1)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(2)
    children.append(child)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


def tables(url: str) -> set[str]:
    database = Database(Settings(database_url=url).database)
    try:
        return set(inspect(database.engine).get_table_names())
    finally:
        database.close()


def execute(url: str, statement: str) -> None:
    database = Database(Settings(database_url=url).database)
    with database.exclusive() as connection:
        connection.execute(text(statement))
    database.close()


def test_row_54_ten_servers_that_start_at_once_migrate_once(empty_database: str, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", TEN_SERVERS, empty_database, str(tmp_path / "storage"), HEAD]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str([0] * 10), done.stderr
    assert set(Base.metadata.tables) < tables(empty_database)


def test_row_57_up_down_up_with_rows(empty_database: str, tmp_path: Path) -> None:
    settings = Settings(database_url=empty_database, storage=tmp_path / "storage")
    with open_site(settings) as site:
        view = bert().publish(site.client).json()
        site.token()
    database = Database(settings.database)
    assert downgrade(database, "base") == "base"
    assert not set(Base.metadata.tables) & tables(empty_database)
    assert upgrade(database) == upgrade(database) == HEAD
    database.close()
    admin.adopt(settings)  # its id went with the schema
    with open_site(settings) as site:
        assert site.client.get("/api/v1/models").json()["items"] == []
        assert bert().publish(site.client).json()["digest"] == view["digest"]


def test_row_57_each_revision_goes_down_and_up_again_with_rows(empty_database: str, tmp_path: Path) -> None:
    settings = Settings(database_url=empty_database, storage=tmp_path / "storage")
    with open_site(settings) as site:
        view = bert().publish(site.client, tags=["prod"]).json()
        site.token()
    database = Database(settings.database)
    with database.engine.connect() as connection:
        revisions = [script.revision for script in ScriptDirectory.from_config(config_for(connection)).walk_revisions()]
    for revision in revisions[1:]:
        assert downgrade(database, revision) == revision
    assert revisions[-1] == "0001"
    upgrade(database)
    with database.engine.connect() as connection:
        rows = connection.execute(text("SELECT relation, target FROM lineage ORDER BY relation")).all()
    database.close()
    recipe = next(file["sha256"] for file in view["files"] if file["role"] == "recipe")
    assert rows == [("base", "bert-base-wikipedia_bookcorpus-pruned80.4block"), ("recipe", recipe)]
    admin.adopt(settings)
    with open_site(settings) as site:
        again = site.client.get("/api/v1/resolve", params={"stub": f"{view['name']}@prod"}).json()
        assert again == {**view, "checks": []}  # the first revision had no place for them
        assert len(admin.list_tokens(settings)) == 1


def test_row_57_lineage_read_from_manifests_is_that_of_publishing(empty_database: str, tmp_path: Path) -> None:
    settings = Settings(database_url=empty_database, storage=tmp_path / "storage")
    origins = {
        "base": "zoo:@acme/nlp/qa/bert/pytorch/hf/squad/base-none/original@v2",
        "teacher": "zoo:nlp/qa/bert/pytorch/hf/squad/base-none/original?checkpoint=preqat",
        "recipe": "zoo:@acme/short@prod?recipe=a",
    }
    with open_site(settings) as site:
        folder = small(metadata={**origins, "data_fingerprint": digest_of(b"squad")})
        assert folder.publish(site.client).status_code == 201
    database = Database(settings.database)

    def rows() -> list[tuple[str, ...]]:
        with database.engine.connect() as connection:
            return sorted(map(tuple, connection.execute(text("SELECT relation, target, pin FROM lineage"))))

    published = rows()
    downgrade(database, "0001")
    upgrade(database)
    assert rows() == published
    assert len(published) == 4
    database.close()


def test_listings_are_filled_many_at_a_time(empty_database: str, tmp_path: Path) -> None:
    settings = Settings(database_url=empty_database, storage=tmp_path / "storage")
    facts = {"task": "qa", "metrics": {"f1": 0.9}}
    with open_site(settings) as site:
        for number in range(30):
            assert small(f"zoo:m{number}", metadata=facts).publish(site.client).status_code == 201
        send(site.client, "zoo:m7", median_ms=7, batch_size=1)
    database = Database(settings.database)
    statements = []
    event.listen(database.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    listed = "SELECT * FROM listings ORDER BY model_id"
    with database.exclusive() as connection:
        before = connection.execute(text(listed)).all()
        connection.execute(text("DELETE FROM listings WHERE model_id <> 3"))
        statements.clear()
        with Session(connection, join_transaction_mode="rollback_only") as session:
            listings.complete(session)
        assert connection.execute(text(listed)).all() == before
    assert len(statements) < 10
    database.close()


def test_readers_go_on_while_postgresql_makes_its_index_of_terms(
    new_postgres: Callable[..., str], tmp_path: Path
) -> None:
    database = Database(Settings(database_url=new_postgres(), storage=tmp_path).database)
    made = []

    def read_meanwhile(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if statement.startswith("CREATE INDEX"):
            with database.engine.begin() as other:
                other.execute(text("SET LOCAL lock_timeout = '1s'"))
                other.execute(text("SELECT count(*) FROM listings"))
            made.append(statement)

    event.listen(database.engine, "before_cursor_execute", read_meanwhile)
    definition = text("SELECT indexdef FROM pg_indexes WHERE tablename = 'listings' AND indexdef LIKE '%gin%'")
    for move, revision, has_blocks in ((downgrade, "0003", False), (lambda *_: upgrade(database), HEAD, True)):
        assert move(database, revision) == revision
        with database.engine.connect() as connection:
            found = connection.execute(definition).scalars().all()
        assert [f"INDEX {TERMS_INDEX} ON" in index for index in found] == [True]
        assert ("=b9=" in found[0]) == has_blocks
    assert len(made) == 2
    database.close()


def test_row_57_the_migrated_schema_is_that_of_the_tables(empty_database: str) -> None:
    database = Database(Settings(database_url=empty_database).database)
    upgrade(database)
    with database.exclusive() as connection:
        opts = {"compare_type": True, "compare_server_default": True, "include_name": is_declared}
        context = MigrationContext.configure(connection, opts=opts)
        assert compare_metadata(context, Base.metadata) == []
        for name, table in Base.metadata.tables.items():
            migrated = {check["name"] for check in inspect(connection).get_check_constraints(name)}
            declared = {c.name for c in table.constraints if isinstance(c, CheckConstraint)}
            assert migrated == declared, name
    database.close()


def test_row_56_a_newer_schema_is_refused_with_the_direction(empty_database: str, tmp_path: Path) -> None:
    settings = Settings(database_url=empty_database, storage=tmp_path)
    admin.upgrade(settings)
    execute(empty_database, "UPDATE alembic_version SET version_num = '9999'")
    before = tables(empty_database)
    with pytest.raises(
        SchemaError, match=rf"'9999' is newer than this program, which knows up to '{HEAD}'; upgrade sparrow"
    ):
        admin.upgrade(settings)
    with pytest.raises(SchemaError), open_site(settings):
        pass
    assert tables(empty_database) == before


def test_row_56_two_heads_in_a_database_are_refused(empty_database: str, tmp_path: Path) -> None:
    settings = Settings(database_url=empty_database, storage=tmp_path)
    admin.upgrade(settings)
    execute(empty_database, "INSERT INTO alembic_version VALUES ('0001')")
    with pytest.raises(SchemaError, match="two schemas at once"):
        admin.upgrade(settings)


def test_row_56_the_migrations_have_one_head() -> None:
    database = Database("sqlite:////tmp/unused-by-this-test.db")
    with database.engine.connect() as connection:
        assert ScriptDirectory.from_config(config_for(connection)).get_heads() == [HEAD]
    database.close()


def test_a_database_of_another_program_is_left_alone(empty_database: str, tmp_path: Path) -> None:
    execute(empty_database, "CREATE TABLE versions (id INTEGER)")
    with pytest.raises(SchemaError, match="another program"):
        admin.upgrade(Settings(database_url=empty_database, storage=tmp_path))
    assert tables(empty_database) == {"versions"}


def test_row_56_a_migration_that_fails_leaves_the_old_schema(empty_database: str, tmp_path: Path) -> None:
    execute(empty_database, "CREATE TABLE tokens (id INTEGER)")
    with pytest.raises(SchemaError, match=r"stays as it was|keeps what was finished"):
        admin.upgrade(Settings(database_url=empty_database, storage=tmp_path))
    assert tables(empty_database) == {"tokens"}


def test_the_migrations_are_found_and_their_folder_is_no_package() -> None:
    assert scripts_folder() == ROOT / "alembic"
    assert not list((ROOT / "alembic").rglob("__init__.py"))


def test_an_app_starts_on_an_old_schema_by_upgrading_it(empty_database: str, tmp_path: Path) -> None:
    with open_site(Settings(database_url=empty_database, storage=tmp_path)) as site:
        assert site.client.get("/api/v1/health").json()["status"] == "ok"
