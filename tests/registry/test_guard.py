"""What stands before every route: hosts, origins, load, headers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.app import create_app
from registry.errors import StartError
from registry.settings import Settings
from tests.registry.builders import digest_of, small
from tests.registry.conftest import BASE, Site, open_site

HEALTH = "/api/v1/health"
ANY = "0.0.0.0"  # noqa: S104  # a setting, not a bind


def test_row_44_a_foreign_host_header_is_refused(sqlite_site: Site) -> None:
    client = sqlite_site.client
    for host in (
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "evil@127.0.0.1",
        "127.0.0.1@evil.example",
        "127.0.0.1/evil",
        "127.0.0.1:80:80",
        "127.0.0.1:x",
        "[::1",
        "169.254.169.254",
        "2130706433",
        "",
    ):
        answer = client.get(HEALTH, headers={"Host": host})
        assert (answer.status_code, answer.json()["code"]) == (400, "REQUEST_INVALID"), host
        assert answer.headers["x-content-type-options"] == "nosniff"
    for host in ("localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:1", "[::1]:8080"):
        assert client.get(HEALTH, headers={"Host": host}).status_code == 200, host


def test_a_browser_gets_a_page_for_what_is_refused_before_any_route(tmp_path: Path) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml"}
    with open_site(Settings(storage=tmp_path, requests_per_minute=6)) as site:
        refusals = [
            site.client.get("/", headers=browser | {"Host": "[::1"}),
            site.client.post("/sign-in", headers=browser | {"Origin": "https://evil.example"}),
            site.client.get("/?token=zoo_" + "x" * 43, headers=browser),
            *(site.client.get("/docs", headers=browser) for _ in range(4)),
        ]
        documents = [site.client.get(path).headers["content-type"] for path in ("/docs", "/api/v1/models")]
        api = site.client.get("/api/v1/models", headers=browser)
    assert [answer.status_code for answer in refusals] == [400, 403, 400, 200, 200, 200, 429]
    for answer in refusals:
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert 1 <= int(refusals[-1].headers["retry-after"]) <= 10
    assert "More than 6 requests a minute" in refusals[-1].text
    assert "ZOO_REGISTRY_TRUSTED_HOSTS" in refusals[0].text
    assert [*documents, api.headers["content-type"]] == ["application/problem+json"] * 3


def test_row_44_named_hosts_are_accepted(tmp_path: Path) -> None:
    given = Settings(storage=tmp_path, host=ANY, public_url="https://zoo.example:8443/", trusted_hosts=("inner",))
    with open_site(given) as site:
        for host, status in (("zoo.example:8443", 200), ("inner", 200), ("10.0.0.7:8080", 200), ("evil.example", 400)):
            assert site.client.get(HEALTH, headers={"Host": host}).status_code == status, host


def test_row_44_another_site_cannot_write_through_a_browser(sqlite_site: Site) -> None:
    client = sqlite_site.client
    url = f"/api/v1/blobs/{digest_of(b'x')}"
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        answer = client.put(url, content=b"x", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN"), headers
    assert (
        client.get(HEALTH, headers={"Origin": "https://evil.example"}).headers.get("access-control-allow-origin")
        is None
    )
    assert client.options(HEALTH, headers={"Origin": "https://evil.example"}).status_code == 405
    assert client.put(url, content=b"x", headers={"Origin": BASE, "Sec-Fetch-Site": "same-origin"}).status_code == 201


def test_row_44_forwarded_headers_of_strangers_change_nothing(sqlite_site: Site) -> None:
    client = sqlite_site.client
    small().publish(client)
    forged = {
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "gopher",
        "X-Forwarded-For": "6.6.6.6",
        "Forwarded": "host=evil.example",
        "X-Original-URL": "/admin",
    }
    plain, answer = client.get("/models/tiny"), client.get("/models/tiny", headers=forged)
    assert answer.text == plain.text
    assert "evil.example" not in answer.text


def test_row_44_answers_cannot_be_framed_sniffed_or_scripted(sqlite_site: Site) -> None:
    client = sqlite_site.client
    for path in ("/", "/docs", HEALTH, "/models/nothing", "/static/style.css", "/api/v1/resolve?stub=x"):
        headers = client.get(path, headers={"Accept": "text/html"}).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


def test_row_45_more_requests_than_allowed_get_503_and_the_rest_are_served(tmp_path: Path) -> None:
    """A thousand requests at once, on a registry that serves forty."""

    async def load() -> list[httpx.Response]:
        app = create_app(Settings(storage=tmp_path, max_requests=40))
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            first = await asyncio.gather(*(client.get(HEALTH) for _ in range(1_000)))
            return [*first, await client.get(HEALTH)]

    *answers, after = asyncio.run(load())
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 40
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.json()["code"] == "UNAVAILABLE"
    assert refused.headers["retry-after"] == "1"
    assert after.status_code == 200


@pytest.mark.parametrize(
    "given",
    [
        {"port": 70_000},
        {"database_url": "mysql://x"},
        {"database_url": "sqlite:///:memory:"},
        {"public_url": "javascript:alert(1)"},
        {"public_url": 'https://x/"><script>'},
        {"max_requests": 0},
        {"unknown": 1},
    ],
)
def test_a_wrong_setting_is_named(given: dict[str, object]) -> None:
    (name,) = given
    with pytest.raises(StartError, match=name):
        Settings.load(**given)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZOO_REGISTRY_STORAGE", str(tmp_path))
    monkeypatch.setenv("ZOO_REGISTRY_PORT", "9000")
    loaded = Settings.load(host="::1")
    assert (loaded.storage, loaded.port, loaded.is_loopback) == (tmp_path, 9000, True)
    assert loaded.database == f"sqlite:///{tmp_path}/registry.db"
    assert loaded.endpoint == "http://[::1]:9000"
    assert Settings(database_url="postgresql://h/n").database == "postgresql+psycopg://h/n"
    assert not Settings(host="example.org").is_loopback


@pytest.mark.parametrize(
    ("given", "loopback"),
    [
        ({}, True),
        ({"public_url": "http://localhost:8080"}, True),
        ({"trusted_hosts": ("127.0.0.2", "LOCALHOST", "::1")}, True),
        ({"public_url": "https://zoo.example"}, False),
        ({"trusted_hosts": ("localhost", "zoo.example")}, False),
        ({"trusted_hosts": "10.0.0.7"}, False),
    ],
)
def test_a_registry_behind_a_proxy_is_not_open_for_writing(
    given: dict[str, Any], loopback: bool, tmp_path: Path
) -> None:
    """What the world reaches through a proxy on this machine needs a token, as if it listened to the world."""
    settings = Settings(storage=tmp_path, **given)
    assert settings.is_loopback is loopback
    assert (settings.rate == 0) is loopback
    with open_site(settings) as site:
        assert site.client.get("/api/v1/whoami").json()["may_write"] is loopback
        for host in ("localhost", "127.0.0.1:8080"):
            assert site.client.get(HEALTH, headers={"Host": host}).status_code == 200, host


def test_trusted_hosts_are_names_between_commas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZOO_REGISTRY_TRUSTED_HOSTS", "Zoo.Example, inner,::1,")
    loaded = Settings.load(storage=tmp_path)
    assert loaded.trusted_hosts == ("zoo.example", "inner", "::1")
    with open_site(loaded) as site:
        for host in ("zoo.example", "ZOO.example:443", "inner", "[::1]"):
            assert site.client.get(HEALTH, headers={"Host": host}).status_code == 200, host


@pytest.mark.parametrize("names", ["zoo.example:8443", "https://zoo.example", '["zoo.example"]', "*", "a b"])
def test_a_trusted_host_that_can_never_match_is_named(monkeypatch: pytest.MonkeyPatch, names: str) -> None:
    monkeypatch.setenv("ZOO_REGISTRY_TRUSTED_HOSTS", names)
    with pytest.raises(StartError, match=r"ZOO_REGISTRY_TRUSTED_HOSTS.*names between commas, without ports"):
        Settings.load()
