"""Registries to test: in this process for most tests, as a program of their own for the rest, on both databases."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy import event
from starlette.testclient import TestClient

from registry import admin
from registry.app import create_app
from registry.db import Database
from registry.settings import Settings
from registry.tables import Base, Identity
from tests.registry import s3_server

ROOT = Path(__file__).parents[2]
BASE = "http://127.0.0.1"
PG_BIN = Path(os.environ.get("PG_BIN", "/usr/lib/postgresql/15/bin"))
SERVE = "import registry; from registry.settings import Settings; registry.serve(Settings.load())"


def _as_postgres() -> list[str]:
    """PostgreSQL refuses root; runuser lies where root's PATH leads, which this process may lack."""
    runuser = shutil.which("runuser") or "/usr/sbin/runuser"
    return [runuser, "-u", "postgres", "--"] if os.geteuid() == 0 else []


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server of our own, without a database's name."""
    if not (PG_BIN / "initdb").exists():
        pytest.skip(f"PostgreSQL's programs are not in {PG_BIN}; install postgresql, or set PG_BIN")
    folder = Path("/tmp") / f"pg-{uuid.uuid4().hex[:12]}"  # short: a socket's path has at most 107 bytes
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pg = [*_as_postgres(), "env", "LC_ALL=C.UTF-8"]
    data = folder / "data"
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=200"
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "timeout": 60}
    subprocess.run([*pg, PG_BIN / "initdb", "-D", data, "-A", "trust", "-U", "zoo", "-N"], **quiet)
    try:
        log = folder / "log"
        subprocess.run([*pg, PG_BIN / "pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start"], **quiet)
        yield f"postgresql://zoo@127.0.0.1:{port}"
    finally:
        subprocess.run([*pg, PG_BIN / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **{**quiet, "check": False})
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def new_postgres(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Makes a database, with the registry's schema unless asked otherwise; returns its URL."""
    template = f"{postgres}/template_registry"
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE template_registry")
    admin.upgrade(Settings(database_url=template, storage=tmp_path_factory.mktemp("template")))

    def make(*, empty: bool = False) -> str:
        name = f"zoo_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {'template0' if empty else 'template_registry'}")  # type: ignore[arg-type]  # our own name
        return f"{postgres}/{name}"

    return make


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return str(request.getfixturevalue("new_postgres")(empty=True))


@pytest.fixture(scope="session")
def s3_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an S3 server of our own, whose key is in this process's environment."""
    with pytest.MonkeyPatch.context() as environ, s3_server.serving(tmp_path_factory.mktemp("s3")) as port:
        environ.setenv("AWS_ACCESS_KEY_ID", s3_server.KEY)
        environ.setenv("AWS_SECRET_ACCESS_KEY", s3_server.SECRET)
        yield port


@pytest.fixture
def s3(s3_port: int) -> Callable[..., str]:
    """Gives the setting for a prefix of the S3 server's bucket, or of a proxy's on another port."""

    def url(prefix: str, port: int = s3_port) -> str:
        return f"s3://{s3_server.BUCKET}/{prefix}?endpoint=http://127.0.0.1:{port}"

    return url


@dataclass
class Site:
    """A registry in this process."""

    settings: Settings
    client: TestClient

    def token(self, name: str = "writer", expires_in: timedelta | None = None) -> str:
        return admin.create_token(self.settings, name, expires_in)

    def wipe(self) -> None:
        """Back to an empty registry."""
        database = Database(self.settings.database)
        with database.exclusive() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                if table is not Identity.__table__:
                    connection.execute(table.delete())
        database.close()
        for name in ("blobs", "staged", "incoming"):
            shutil.rmtree(self.settings.storage / name)
            (self.settings.storage / name).mkdir()


@contextmanager
def open_site(settings: Settings) -> Iterator[Site]:
    with TestClient(create_app(settings), base_url=BASE, raise_server_exceptions=False) as client:
        yield Site(settings, client)


@contextmanager
def statements(site: Site, look: Callable[[str], None]) -> Iterator[None]:
    """Shows `look` every statement of the registry just before it runs."""
    engine = site.client.app.state.registry.database.engine  # type: ignore[attr-defined]  # the app's own

    def hear(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        look(statement)

    event.listen(engine, "before_cursor_execute", hear)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", hear)


@pytest.fixture(scope="session")
def sites(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Site]]:
    """One registry a database, opened when it is asked for first."""
    with ExitStack() as stack:

        @cache
        def get(kind: str) -> Site:
            url = "" if kind == "sqlite" else request.getfixturevalue("new_postgres")()
            return stack.enter_context(open_site(Settings(storage=tmp_path_factory.mktemp(kind), database_url=url)))

        yield get


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, sites: Callable[[str], Site]) -> Site:
    """An empty registry, on each database."""
    found = sites(request.param)
    found.wipe()
    return found


@pytest.fixture
def sqlite_site(sites: Callable[[str], Site]) -> Site:
    """An empty registry on SQLite, for what has nothing to do with the database."""
    found = sites("sqlite")
    found.wipe()
    return found


@pytest.fixture
def client(site: Site) -> TestClient:
    """A client of `site`."""
    return site.client


@pytest.fixture
def without_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions that were published before there was a gate are still shown."""
    monkeypatch.setattr("registry.service.check_version", lambda *_: [])


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of a registry of its own, on each database."""
    url = "" if request.param == "sqlite" else request.getfixturevalue("new_postgres")()
    return Settings(storage=tmp_path / "storage", database_url=url)


class Program:
    """A registry as a program of its own, behind a real socket."""

    def __init__(self, settings: Settings, log: Path) -> None:
        names = ("storage", "database_url", "host", "require_token", "max_requests", "upload_idle_s", "max_blob_bytes")
        given = {name: getattr(settings, name) for name in names}
        env = {f"ZOO_REGISTRY_{name.upper()}": str(value) for name, value in given.items() if value is not None}
        self.settings, self.log = settings, log
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE],
                cwd=ROOT,
                stderr=stderr,
                env={**os.environ, **env, "ZOO_REGISTRY_PORT": "0"},
            )
        self._url = ""

    @property
    def url(self) -> str:
        """Its URL, once it answers."""
        while not self._url:
            found = re.findall(r"^registry at (\S+)$", self.log.read_text(), re.MULTILINE)
            if found:
                self._url = found[-1]
                break
            try:
                code = self.process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"the registry ended with {code}: {self.log.read_text()}")
        return self._url

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, **options)  # type: ignore[arg-type]  # passed on as they are

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def program(settings: Settings, tmp_path: Path) -> Iterator[Program]:
    """A registry as a program of its own, on each database."""
    running = Program(settings, tmp_path / "log")
    yield running
    running.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def shared_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A registry as a program, for several tests of what has nothing to do with the database."""
    folder = tmp_path_factory.mktemp("program")
    settings = Settings(storage=folder / "storage", upload_idle_s=1)
    running = Program(settings, folder / "log")
    yield running
    running.stop(signal.SIGKILL)
