"""Scopes: what a token opens, what stays hidden, what is counted and what is noted."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from registry import admin
from registry.caller import Grant
from registry.db import Database
from registry.errors import InvalidRequestError
from registry.settings import Settings
from registry.tables import Offer
from tests.registry.builders import Folder, digest_of, small
from tests.registry.conftest import ROOT, Site, open_site
from tests.registry.test_auth import bearer
from tests.registry.test_benchmarks import record

HTML = {"Accept": "text/html"}
SECRET = b"the private weights"


def token(site: Site, *scopes: str, name: str | None = None) -> dict[str, str]:
    return bearer(admin.create_token(site.settings, name or " ".join(scopes), None, scopes))


def publish(client: TestClient, folder: Folder, headers: dict[str, str]) -> Any:
    for _, data in folder.files.values():
        answer = client.put(f"/api/v1/blobs/{digest_of(data)}", content=data, headers=headers)
        if answer.status_code not in (200, 201):
            return answer
    return client.post("/api/v1/versions", json={"manifest": folder.manifest}, headers=headers)


@pytest.fixture
def acme(site: Site) -> dict[str, str]:
    """The headers of a team whose scope is private and has one model."""
    admin.set_scope(site.settings, "@acme", private=True)
    headers = token(site, "write:@acme/*", name="acme")
    folder = Folder("zoo:@acme/secret", {"weights.bin": ("training", SECRET)}, "zoo:@acme/alias", {"task": "hush"})
    assert publish(site.client, folder, headers).status_code == 201
    sent = {"stub": "zoo:@acme/secret", "record": record()}
    assert site.client.post("/api/v1/benchmarks", json=sent, headers=headers).status_code == 201
    return headers


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("*", ["a", "@acme/b"], []),
        ("write:*", ["a", "@acme/b"], []),
        ("@acme", ["@acme/b", "@acme/nlp/x"], ["@acmes/b", "a", "acme"]),
        ("read:zoo:@acme/*", ["@acme/b"], ["@acm/b"]),
        ("@acme*", ["@acme/b"], ["@acmes/b"]),
        ("write:@acme/", ["@acme/b", "@acme/nlp/x"], ["@acmes/b", "@acme"]),
        ("nlp/qa/", ["nlp/qa/x"], ["nlp/qa", "nlp/qas"]),
        ("nlp/qa/*", ["nlp/qa/x"], ["nlp/q", "@acme/nlp/qa/x"]),
        ("bert-large", ["bert-large"], ["bert-large-2", "bert"]),
        ("bert-*", ["bert-large"], ["bert", "abert-x"]),
    ],
)
def test_a_grant_covers_names_by_their_beginning(text: str, inside: list[str], outside: list[str]) -> None:
    grant = Grant.parse(text)
    assert all(grant.covers(name) for name in inside)
    assert not any(grant.covers(name) for name in outside)
    assert Grant.parse(str(grant)) == grant
    assert grant.writes is not text.startswith("read:")


@pytest.mark.parametrize("text", ["", "admin:*", "write:", "@", "@/x", "A*", "a*b", "a b", "x" * 500, "write:**", "é"])
def test_a_scope_that_says_nothing_is_refused(sqlite_site: Site, text: str) -> None:
    with pytest.raises(InvalidRequestError):
        admin.create_token(sqlite_site.settings, "t", None, [text])


def test_row_36_a_private_model_is_404_to_others_and_the_same_as_none(site: Site, acme: dict[str, str]) -> None:
    others = [{}, token(site, "write:@other/*"), token(site, "read:nlp/*")]
    digest = site.client.get("/api/v1/resolve", params={"stub": "zoo:@acme/secret"}, headers=acme).json()["digest"]
    paths = [
        "/api/v1/resolve?stub=zoo:@acme/{}",
        "/api/v1/resolve?stub=zoo:@acme/{}@v1",
        f"/api/v1/resolve?stub=zoo:@acme/{{}}@{digest}",
        "/api/v1/versions?stub=zoo:@acme/{}",
        "/api/v1/benchmarks?stub=zoo:@acme/{}",
        "/files/@acme/{}@v1/weights.bin",
        "/files/@acme/{}@latest",
        "/models/@acme/{}",
        "/recipes/@acme/{}",
        "/compare?m1=@acme/{}&m2=@acme/{}",
    ]
    for path in paths:
        for name in ("secret", "alias"):
            for headers in others:
                answer = site.client.get(path.format(name, name), headers=headers)
                absent = site.client.get(path.format("absent", "absent"), headers=headers)
                assert answer.status_code == absent.status_code == 404, (path, answer.text)
                assert answer.text.replace(name, "absent") == absent.text
                assert "secret" not in answer.text.replace("@acme/secret", "")
    assert site.client.get("/models/@acme/secret", headers=acme).status_code == 200
    assert site.client.get("/files/@acme/secret@v1/weights.bin", headers=acme).content == SECRET


def client_names(site: Site, headers: dict[str, str]) -> Any:
    return site.client.get("/api/v1/names", headers=headers).json()["items"]


def test_row_36_lists_counts_facets_and_hints_do_not_leak(site: Site, acme: dict[str, str]) -> None:
    writer = token(site, "write:*")
    publish(site.client, small("zoo:shown", metadata={"task": "loud"}), writer)
    for headers, expected in (({}, ["zoo:shown"]), (acme, ["zoo:shown", "zoo:@acme/secret"])):
        items = site.client.get("/api/v1/models", headers=headers).json()["items"]
        assert [item["name"] for item in items] == expected
        assert client_names(site, headers) == sorted(expected)
        for query in ({"q": "secret"}, {"task": "hush"}, {"latency_max_ms": 100}):
            found = site.client.get("/api/v1/models", params=query, headers=headers).json()
            assert [item["name"] for item in found["items"]] == expected[1:], query
        best = site.client.get("/api/v1/best", params={"cpu": record()["hardware"]["cpu"]}, headers=headers).json()
        assert [item["name"] for item in best["items"]] == expected[1:]
    page = site.client.get("/", headers=HTML).text
    assert "1 model," in page
    assert "hush" not in page
    hint = site.client.get("/api/v1/resolve", params={"stub": "zoo:@acme/secre"}).json()
    assert hint["nearest"] == []
    assert (
        "zoo:@acme/secret"
        in site.client.get("/api/v1/resolve", params={"stub": "zoo:@acme/secre"}, headers=acme).json()["nearest"]
    )


def test_row_36_private_bytes_are_neither_read_nor_probed_nor_borrowed(site: Site, acme: dict[str, str]) -> None:
    """Who knows a digest gains nothing by it: not by asking, and not by a manifest of their own that names it."""
    digest = digest_of(SECRET)
    other = token(site, "write:@other/*")
    assert site.client.get(f"/api/v1/blobs/{digest}", headers=acme).content == SECRET
    for headers in ({}, other):
        assert site.client.get(f"/api/v1/blobs/{digest}", headers=headers).status_code == 404
        assert site.client.head(f"/api/v1/blobs/{digest}", headers=headers).status_code == 404
        missing = site.client.post("/api/v1/blobs/missing", json={"digests": [digest]}, headers=headers)
        assert missing.json()["missing"] == [digest]
    thief = Folder("zoo:@other/copy", {"weights.bin": ("training", SECRET)})
    answer = site.client.post("/api/v1/versions", json={"manifest": thief.manifest}, headers=other)
    assert (answer.status_code, answer.json()["code"]) == (400, "MANIFEST_BLOB_UNKNOWN")
    sent = site.client.put(f"/api/v1/blobs/{digest}", content=SECRET, headers=other)
    assert sent.status_code == 201  # as for bytes that nobody had
    assert site.client.post("/api/v1/versions", json={"manifest": thief.manifest}, headers=other).status_code == 201


def test_row_36_bytes_sent_before_the_first_token_become_private_with_their_model(site: Site) -> None:
    """Everybody without a token is another stranger, and none of them the one who sent the bytes."""
    small("zoo:@acme/tiny").publish(site.client)
    url = f"/api/v1/blobs/{digest_of(b'weights')}"
    assert site.client.get(url).status_code == 200
    admin.set_scope(site.settings, "@acme", private=True)
    headers = token(site, "write:@acme/*")
    database = Database(site.settings.database)
    with database.read() as session:
        assert session.scalars(select(Offer.token_id)).all() == []
    database.write(lambda session: session.add(Offer(digest=digest_of(b"weights"), token_id=0)))  # as it was kept once
    database.close()
    assert site.client.get(url).status_code == 404
    assert site.client.get(url, headers=headers).status_code == 200


def test_row_36_a_token_writes_within_its_scopes_only(site: Site, acme: dict[str, str]) -> None:
    other, reader = token(site, "write:@other/*", "read:@acme/*"), token(site, "read:@acme/*")
    for headers in (other, token(site, "write:@acme/nlp/*")):
        for name in ("zoo:@acme/secret", "zoo:@acme/new", "zoo:open"):
            answer = publish(site.client, small(name, name), headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN"), name
    tag = {"stub": "zoo:@acme/secret", "tag": "prod"}
    assert site.client.put("/api/v1/tags", json=tag, headers=other).status_code == 403
    assert site.client.put("/api/v1/tags", json=tag, headers=token(site, "write:@third/*")).status_code == 404
    assert site.client.put("/api/v1/tags", json=tag, headers=reader).status_code == 401
    assert site.client.get("/api/v1/resolve", params={"stub": "zoo:@acme/secret"}, headers=reader).status_code == 200
    assert site.client.put("/api/v1/tags", json=tag, headers=acme).status_code == 200
    foreign = Folder("zoo:@other/x", {"a.txt": ("training", b"a")}, "zoo:@acme/taken")
    assert publish(site.client, foreign, other).status_code == 403
    everywhere = publish(site.client, foreign, token(site, "write:*"))
    assert (everywhere.status_code, everywhere.json()["code"]) == (422, "MANIFEST_INVALID")


def test_a_scope_becomes_public_and_private_again(site: Site, acme: dict[str, str]) -> None:
    for private, status in ((False, 200), (True, 404), (False, 200)):
        assert admin.set_scope(site.settings, "acme", private=private) == 1
        assert admin.list_scopes(site.settings) == {"@acme": "private" if private else "public"}
        assert site.client.get("/api/v1/resolve", params={"stub": "zoo:@acme/secret"}).status_code == status
        assert bool(site.client.get("/api/v1/models").json()["items"]) is not private
        assert bool(site.client.get("/api/v1/models?q=secret").json()["items"]) is not private


def test_what_a_token_opened_is_kept_by_no_shared_cache(site: Site, acme: dict[str, str]) -> None:
    path = f"/api/v1/blobs/{digest_of(SECRET)}"
    headers = site.client.get(path, headers=acme).headers
    assert headers["cache-control"].startswith("private")
    assert "Authorization" in headers["vary"]
    admin.set_scope(site.settings, "acme", private=False)
    assert site.client.get(path).headers["cache-control"].startswith("public")


def test_a_person_signs_in_to_read_and_can_not_write_so(site: Site, acme: dict[str, str]) -> None:
    secret = acme["Authorization"].removeprefix("Bearer ")
    with open_site(site.settings) as fresh:
        client = fresh.client
        wrong = client.post("/sign-in", data={"secret": "zoo_" + "x" * 43}, follow_redirects=False)
        assert (wrong.headers["location"], "set-cookie" in wrong.headers) == ("/sign-in?failed=true", False)
        assert 'role="alert"' in client.get("/sign-in?failed=true").text
        answer = client.post("/sign-in", data={"secret": secret}, follow_redirects=False)
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert client.get("/models/@acme/secret").status_code == 200
        assert "You read as" in client.get("/sign-in").text
        for path in ("/", "/models/@acme/secret", "/docs", "/sign-in", "/models/nowhere", "/nothing"):
            assert "Signed in</a>" in client.get(path, headers=HTML).text, path
        assert client.put(f"/api/v1/blobs/{digest_of(b'x')}", content=b"x").status_code == 401
        admin.revoke_token(site.settings, "acme")
        assert client.get("/models/@acme/secret").status_code == 404
        assert "Sign in</a>" in client.get("/").text
        client.post("/sign-out")
        assert client.get("/models/@acme/secret").status_code == 404
        crossing = client.post("/sign-in", data={"secret": secret}, headers={"Origin": "https://evil.example"})
        assert crossing.status_code == 403
        assert client.post("/sign-in", content=b"secret=" + b"x" * 5_000).status_code == 400


def test_every_change_is_noted_with_its_actor(site: Site, acme: dict[str, str]) -> None:
    tag = {"stub": "zoo:@acme/secret", "tag": "prod"}
    site.client.put("/api/v1/tags", json=tag, headers=acme)
    publish(
        site.client,
        Folder("zoo:@acme/secret", {"weights.bin": ("training", SECRET)}, "zoo:@acme/alias", {"task": "hush"}),
        acme,
    )
    admin.revoke_token(site.settings, "acme")
    noted = [(e.actor, e.action, e.target) for e in admin.audit(site.settings)]
    assert noted == [
        ("operator", "token.revoke", "acme"),
        ("acme", "tag", "@acme/secret@v1"),
        ("acme", "benchmark", "@acme/secret@v1"),
        ("acme", "publish", "@acme/secret@v1"),
        ("operator", "token.create", "acme"),
        ("operator", "scope.private", "@acme"),
    ]
    assert [e.action for e in admin.audit(site.settings, actor="acme", target="@acme/", limit=2)] == [
        "tag",
        "benchmark",
    ]
    assert [e.action for e in admin.audit(site.settings, target="@acme/")][-1] == "scope.private"
    assert [e.action for e in admin.audit(site.settings, target="@acm/")] == []
    assert admin.audit(site.settings, action="publish")[0].address == "testclient"
    secret = acme["Authorization"].removeprefix("Bearer ")
    assert secret not in json.dumps([str(e) for e in admin.audit(site.settings)])


def test_row_35_no_secret_is_logged_wherever_it_is_put(
    site: Site, acme: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    secret = acme["Authorization"].removeprefix("Bearer ")
    with caplog.at_level(logging.DEBUG):
        for path in (
            "/",
            f"/models/{secret}",
            f"/files/{secret}@v1/x",
            f"/api/v1/resolve?stub=zoo:{secret}",
            "/sign-in",
        ):
            for headers in (acme, {"Cookie": f"zoo_token={secret}"}, {"Authorization": secret}, {"User-Agent": secret}):
                site.client.get(path, headers=headers)
        site.client.post("/sign-in", data={"secret": secret})
        site.client.post("/api/v1/versions", json={"manifest": {"name": secret}}, headers=acme)
        site.client.cookies.clear()
    ours = [r.getMessage() for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))]
    assert any("/sign-in" in line for line in ours)
    assert not any(secret[4:] in line for line in ours)


def test_row_45_a_client_that_asks_too_often_gets_429_and_others_are_served(tmp_path: Path) -> None:
    with open_site(Settings(storage=tmp_path, requests_per_minute=30)) as site:
        own, idle = bearer(site.token()), bearer(site.token("idle"))
        assert site.client.get("/api/v1/names", headers=own).status_code == 200
        statuses = [site.client.get("/api/v1/health").status_code for _ in range(40)]
        assert statuses.count(200) in (29, 30)
        refused = site.client.get("/api/v1/health")
        assert (refused.status_code, refused.json()["code"]) == (429, "TOO_MANY_REQUESTS")
        assert 1 <= int(refused.headers["retry-after"]) <= 3
        assert site.client.get("/api/v1/health", headers=own).status_code == 200
        made_up = [{"Authorization": text} for text in ("x", "Bearer zoo_" + "x" * 43, "Bearer zoo_" + "y" * 43)]
        for headers in (*made_up, idle):  # no token is known before it was looked up
            assert site.client.get("/api/v1/health", headers=headers).status_code == 429, headers


def test_row_45_a_token_has_one_bucket_however_it_is_sent(tmp_path: Path) -> None:
    with open_site(Settings(storage=tmp_path, requests_per_minute=10)) as site:
        secret = site.token()
        spellings = [
            {"Authorization": f"{word}{' ' * n}{secret}"} for n in range(1, 11) for word in ("Bearer", "bearer")
        ]
        statuses = [site.client.get("/api/v1/names", headers=headers).status_code for headers in spellings]
    assert statuses[:11] == [200] * 11  # the first one was the address's
    assert statuses.count(200) in (11, 12)


def test_an_operator_manages_access_by_commands(tmp_path: Path) -> None:
    def zoo(*arguments: str, code: int = 0) -> Any:
        command = [sys.executable, "cli.py", "--json", "registry", *arguments, "--folder", str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if code == 0 else done.stderr

    made = zoo("token", "create", "ci", "--scope", "write:@acme/*", "--scope", "read:*", "--expires", "30d")
    assert made["token"].startswith("zoo_")
    (listed,) = zoo("token", "list")
    assert listed["scopes"] == ["write:@acme/*", "read:*"]
    assert zoo("scope", "private", "@acme")["models"] == 0
    assert zoo("scope", "list") == {"@acme": "private"}
    assert [entry["action"] for entry in zoo("audit", "--actor", "operator")] == ["scope.private", "token.create"]
    assert "no length of time" in zoo("token", "create", "x", "--expires", "soon", code=2)
    assert "no scope" in zoo("token", "create", "x", "--scope", "A B", code=1)


@pytest.mark.parametrize("command", [["audit"], ["gc"], ["verify"], ["export", "all.tar"], ["token", "list"]])
def test_a_mistyped_folder_is_said_and_not_made_a_registry(command: list[str], tmp_path: Path) -> None:
    mistyped = tmp_path / "mistyped"
    command = [sys.executable, str(ROOT / "cli.py"), "registry", *command, "--folder", str(mistyped)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"no registry in {mistyped}" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_expired_token_reads_nothing_private(site: Site, acme: dict[str, str]) -> None:
    old = bearer(admin.create_token(site.settings, "old", timedelta(microseconds=1), ["read:*"]))
    assert site.client.get("/api/v1/resolve", params={"stub": "zoo:@acme/secret"}, headers=old).status_code == 401
