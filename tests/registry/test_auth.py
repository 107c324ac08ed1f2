"""Tokens: who may write, and that no token ends up in a log."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from registry import admin
from registry.auth import hash_token
from registry.db import Database
from registry.errors import InvalidRequestError, TakenError, UnknownError
from registry.settings import Settings
from registry.tables import Token
from tests.registry.builders import digest_of, small
from tests.registry.conftest import Site, open_site

PUT = ("PUT", f"/api/v1/blobs/{digest_of(b'x')}")
ANY = "0.0.0.0"  # noqa: S104  # a setting, not a bind
WRITES = [PUT, ("POST", "/api/v1/versions"), ("PUT", "/api/v1/tags")]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def put(client: TestClient, headers: dict[str, str]) -> Any:
    return client.request(*PUT, content=b"x", headers=headers)


def test_the_first_token_closes_writing_and_reading_stays_open(site: Site, client: TestClient) -> None:
    small().publish(client)
    anyone = {"name": None, "may_write": True, "scopes": ["write:*"], "expires_at": None}
    assert client.get("/api/v1/whoami").json() == anyone
    token = site.token()
    for method, path in WRITES:
        answer = client.request(method, path, content=b"{}", headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED"), path
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/api/v1/whoami").json()["may_write"] is False
    assert client.get("/api/v1/resolve", params={"stub": "zoo:tiny"}).status_code == 200
    assert put(client, bearer(token)).status_code == 201
    who = client.get("/api/v1/whoami", headers=bearer(token)).json()
    assert who == {"name": "writer", "may_write": True, "scopes": ["write:*"], "expires_at": None}


def test_row_35_expired_revoked_unknown_and_malformed_tokens_are_401(site: Site, client: TestClient) -> None:
    expired = site.token("short", timedelta(microseconds=1))
    revoked = site.token("gone")
    admin.revoke_token(site.settings, "gone")
    good = site.token("good")
    unknown = good[:-2] + ("AA" if not good.endswith("AA") else "BB")
    headers = [
        *(bearer(token) for token in (expired, revoked, unknown, "", "x", good + "x", good[:-1], "zoo_", good + "\t")),
        {"Authorization": good},
        {"Authorization": f"Basic {good}"},
        {"Authorization": f"Bearer {good}, Bearer {good}"},
        {"Authorization": "Bearer " + "x" * 5_000},
        {"Authorization": b"Bearer \xff\xfe"},
    ]
    for header in headers:
        answer = put(client, header)  # type: ignore[arg-type]  # one header has bytes on purpose
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED"), header
        assert good not in answer.text
        assert client.get("/api/v1/whoami", headers=header).status_code == 401  # type: ignore[arg-type]
    assert put(client, bearer(good)).status_code == 201


def test_row_35_revoking_the_last_token_does_not_open_the_registry(site: Site, client: TestClient) -> None:
    site.token()
    admin.revoke_token(site.settings, "writer")
    assert put(client, {}).status_code == 401


def test_row_35_a_token_in_the_url_is_refused(site: Site, client: TestClient) -> None:
    token = site.token()
    for url in (f"?token={token}", "?access_token=x", f"?q={token}", f"?API_KEY={token}", f"?{token}=1"):
        answer = client.get(f"/api/v1/models{url}")
        assert (answer.status_code, answer.json()["code"]) == (400, "REQUEST_INVALID"), url
        assert token not in answer.text
    assert client.get(f"/models/{token}").status_code == 400


def test_row_35_no_token_is_ever_logged(site: Site, client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    token = site.token()
    with caplog.at_level(logging.DEBUG):
        put(client, bearer(token))
        put(client, bearer(token + "x"))
        client.get(f"/api/v1/models?token={token}")
        client.get(f"/models/{token}")
        client.get("/api/v1/whoami", headers=bearer(token))
    ours = "\n".join(
        record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))
    )
    assert "/api/v1/whoami" in ours
    assert token not in ours
    assert token[4:30] not in ours


def test_row_35_only_the_hash_is_stored(site: Site) -> None:
    token = site.token()
    database = Database(site.settings.database)
    with database.read() as session:
        rows = [tuple(row) for row in session.execute(Token.__table__.select())]
    database.close()
    assert hash_token(token) in repr(rows)
    assert token not in repr(rows)
    assert all(token.encode() not in path.read_bytes() for path in site.settings.storage.glob("registry.db*"))


def test_row_36_a_scope_is_public_until_it_is_made_private(site: Site, client: TestClient) -> None:
    """A scope is a part of names; a token elsewhere closes writing, and hides nothing."""
    small("zoo:@acme/tiny").publish(client)
    site.token()
    assert client.get("/api/v1/resolve", params={"stub": "zoo:@acme/tiny"}).status_code == 200
    assert [item["name"] for item in client.get("/api/v1/models").json()["items"]] == ["zoo:@acme/tiny"]
    assert client.delete("/api/v1/versions", params={"stub": "zoo:@acme/tiny"}).status_code == 405


def test_a_registry_that_others_can_reach_needs_a_token_from_the_start(tmp_path: Path) -> None:
    with open_site(Settings(storage=tmp_path, host=ANY)) as site:
        assert put(site.client, {}).status_code == 401
        assert put(site.client, bearer(site.token())).status_code == 201
    with open_site(Settings(storage=tmp_path / "b", host=ANY, require_token=False)) as site:
        assert put(site.client, {}).status_code == 201
    with open_site(Settings(storage=tmp_path / "c", require_token=True)) as site:
        assert put(site.client, {}).status_code == 401


def test_tokens_are_listed_without_their_text(site: Site) -> None:
    text = site.token("ci", timedelta(days=30))
    site.token("old", timedelta(microseconds=1))
    site.token("gone")
    admin.revoke_token(site.settings, "gone")
    admin.revoke_token(site.settings, "gone")
    listed = admin.list_tokens(site.settings)
    assert [(token.name, token.state) for token in listed] == [("ci", "valid"), ("old", "expired"), ("gone", "revoked")]
    assert text not in repr(listed)
    with pytest.raises(TakenError):
        site.token("ci")
    with pytest.raises(UnknownError):
        admin.revoke_token(site.settings, "nobody")
    for name, expires in (
        ("", None),
        ("a\x00", None),
        ("é", None),
        ("x" * 200, None),
        ("a", timedelta(0)),
        ("a", timedelta(-1)),
    ):
        with pytest.raises(InvalidRequestError):
            admin.create_token(site.settings, name, expires)
