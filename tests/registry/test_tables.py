"""Constraints: the database itself refuses bad rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.orm import Session

from registry.db import Database
from registry.errors import UnavailableError
from registry.tables import Blob, File, Model, Name, Tag, Token, Version
from tests.registry.builders import digest_of
from tests.registry.conftest import Site

NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


@pytest.fixture
def session(site: Site) -> Any:
    database = Database(site.settings.database)
    with Session(database.engine) as opened:
        opened.add(Model(id=1, full_name="one", created_at=NOW))
        opened.add(Model(id=2, full_name="two", created_at=NOW))
        opened.add(Blob(digest=digest_of(b"x"), size_bytes=1, offered_at=NOW))
        opened.flush()
        opened.add(version(id=1, model_id=1))
        opened.add(version(id=2, model_id=2, digest=digest_of(b"two")))
        opened.add(Name(name="one", model_id=1))
        opened.flush()
        opened.add(Tag(model_id=1, tag="prod", version_id=1, moved_at=NOW))
        opened.commit()
        yield opened
    database.close()


def version(**values: Any) -> Version:
    plain = {
        "number": 1,
        "digest": digest_of(b"one"),
        "manifest": b"{}",
        "size_bytes": 0,
        "created_at": NOW,
    }
    return Version(**{**plain, **values})


def test_row_60_constraints_refuse_what_the_code_should_never_write(session: Session) -> None:
    bad: list[Any] = [
        lambda: Model(full_name="one", created_at=NOW),
        lambda: Name(name="one", model_id=2),
        lambda: Name(name="three", model_id=3),
        lambda: version(model_id=1, digest=digest_of(b"new")),
        lambda: version(model_id=1, number=2),
        lambda: version(model_id=1, number=0, digest=digest_of(b"new")),
        lambda: version(model_id=1, number=2, digest=digest_of(b"new"), sparsity=1.5),
        lambda: version(model_id=1, number=2, digest=digest_of(b"new"), size_bytes=-1),
        lambda: version(model_id=9, number=2, digest=digest_of(b"new")),
        lambda: Tag(model_id=1, tag="prod", version_id=1, moved_at=NOW),
        lambda: Tag(model_id=1, tag="other", version_id=2, moved_at=NOW),
        lambda: Blob(digest=digest_of(b"y"), size_bytes=-1, offered_at=NOW),
        lambda: File(version_id=1, path="a", digest=digest_of(b"unknown"), size_bytes=1, role="card"),
        lambda: Token(name="a", hash="short", created_at=NOW),
        *(
            lambda digest=digest: Blob(digest=digest, size_bytes=1, offered_at=NOW)
            for digest in (
                "x",
                "sha256:" + "A" * 64,
                "sha256:" + "a" * 63,
                "sha512:" + "a" * 64,
                "sha256:" + "a" * 63 + "/",
            )
        ),
    ]
    for make in bad:
        row = make()
        session.add(row)
        with pytest.raises(IntegrityError):
            session.flush()
        session.rollback()


def test_row_61_times_are_stored_in_utc_and_come_back_aware(session: Session) -> None:
    east, west = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))
    times = {
        "summer": datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=2))),
        "gap": datetime(2026, 3, 29, 2, 30, 0, 999_999, tzinfo=timezone(timedelta(hours=1))),
        "far": datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        "east": datetime(2026, 1, 1, tzinfo=east),
        "west": datetime(2026, 1, 1, tzinfo=west),
    }
    for name, time in times.items():
        session.add(Token(name=name, hash=digest_of(name.encode())[7:], created_at=NOW, expires_at=time))
    session.commit()
    session.expire_all()
    stored = {token.name: token.expires_at for token in session.scalars(select(Token))}
    assert stored == times
    assert all(time.utcoffset() == timedelta(0) for time in stored.values() if time)


def test_row_61_a_time_without_a_zone_is_refused(session: Session) -> None:
    session.add(Token(name="naive", hash="0" * 64, created_at=datetime(2026, 1, 1)))  # noqa: DTZ001
    with pytest.raises(StatementError, match="zone"):
        session.flush()


def test_a_database_that_fails_is_unavailable_and_nothing_worse(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'broken.db'}")
    database.close()
    (tmp_path / "broken.db").write_bytes(b"no database, but a text that is longer than a header. " * 100)
    with pytest.raises(UnavailableError, match="damaged, and was left as it is"), database.read() as opened:
        opened.scalar(select(Model.id))
    with pytest.raises(UnavailableError):
        database.write(lambda opened: opened.scalar(select(Model.id)))
    assert (tmp_path / "broken.db").read_bytes().startswith(b"no database")
