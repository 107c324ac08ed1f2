"""Other people's clients and a private model: to who may not read it, it is as if it weren't there. Row 36."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from starlette.testclient import TestClient

from registry import admin
from registry.audit import OPERATOR
from registry.publication import add_version, parse_manifest
from tests.registry.builders import Folder, digest_of, graph, small
from tests.registry.conftest import Site
from tests.registry.test_access import publish, token

FILES = {
    "training/weights.bin": ("training", b"private"),
    "model.md": ("card", b"hush"),
    "deployment/model.onnx": ("deployment", graph()),
}
PATHS = [
    "/archives/@acme/{}@v1/training.tar",
    "/archives/@acme/{}@latest/training.tar",
    "/api/models/acme/{}",
    "/api/models/acme/{}/revision/main",
    "/api/models/acme/{}/revision/v1",
    "/api/models/acme/{}/tree/main",
    "/api/models/acme/{}/tree/v1/deployment",
    "/acme/{}/resolve/main/weights.bin",
    "/acme/{}/resolve/v1/README.md",
]


@pytest.fixture
def acme(site: Site) -> dict[str, str]:
    """The headers of a team whose scope is private and has one model, with an alias."""
    admin.set_scope(site.settings, "@acme", private=True)
    headers = token(site, "write:@acme/*", name="acme")
    folder = Folder("zoo:@acme/secret", FILES, "zoo:@acme/alias", {"domain": "hush", "task": "hush"})
    assert publish(site.client, folder, headers).status_code == 201
    publish(site.client, small("zoo:shown", metadata={"domain": "nlp"}), token(site, "write:*"))
    return headers


@pytest.mark.parametrize("path", PATHS)
def test_row_36_a_private_model_is_absent_from_hub_and_archive_routes(
    site: Site, acme: dict[str, str], path: str
) -> None:
    """The same status, the same words and the same headers as for a name that nobody has."""
    for name in ("secret", "alias"):
        for headers in ({}, token(site, "write:@other/*", name=f"{name} other")):
            asks = (site.client.get,) if path.startswith("/api/") else (site.client.get, site.client.head)
            for ask in asks:
                answer = ask(path.format(name), headers=headers)
                absent = ask(path.format("absent"), headers=headers)
                assert answer.status_code == absent.status_code == 404
                assert answer.text.replace(name, "absent") == absent.text
                told = {k: v.replace(name, "absent") for k, v in answer.headers.items() if k != "content-length"}
                assert told == {k: v for k, v in absent.headers.items() if k != "content-length"}
        assert site.client.get(path.format(name), headers=acme).status_code == 200


@pytest.mark.parametrize("asked", ["", "?search=secret", "?author=acme", "?pipeline_tag=hush"])
def test_row_36_a_hub_s_list_shows_a_private_model_to_its_readers_alone(
    site: Site, acme: dict[str, str], asked: str
) -> None:
    def ids(headers: dict[str, str]) -> list[str]:
        return [item["id"] for item in site.client.get(f"/api/models{asked}", headers=headers).json()]

    assert "acme/alias" in ids(acme)
    assert set(ids({})) <= {"shown"}
    assert set(ids(token(site, "read:nlp/*"))) <= {"shown"}


def graphql(client: TestClient, arguments: str, headers: dict[str, str]) -> Any:
    query = f"{{ models{arguments} {{ stub files {{ downloadUrl }} }} }}"
    answer = client.post("/v2/graphql", json={"query": query}, headers=headers)
    assert answer.status_code == 200
    return answer.json()


@pytest.mark.parametrize(
    "arguments", ['(repoName: "@acme/secret")', '(repoName: "@acme/alias")', '(domain: "hush")', '(task: "hush")', ""]
)
def test_row_36_graphql_answers_on_a_private_model_as_on_none(site: Site, arguments: str, acme: dict[str, str]) -> None:
    for headers in ({}, token(site, "write:@other/*")):
        found = graphql(site.client, arguments, headers)
        assert "acme" not in str(found).replace(arguments, "")
        for name in ("secret", "alias", "hush"):
            if name in arguments:
                assert found == graphql(site.client, arguments.replace(name, "absent"), headers)


def test_row_36_graphql_names_a_private_model_to_its_readers(site: Site) -> None:
    """Under a name of three words: the client knows no others."""
    site.token()
    admin.set_scope(site.settings, "@acme", private=True)
    own = token(site, "write:*", name="own")
    publish(site.client, Folder("zoo:@acme/a-b-c", FILES), own)
    found = graphql(site.client, '(repoName: "@acme/a-b-c")', own)["data"]["models"]
    urls = [file["downloadUrl"].removeprefix("http://127.0.0.1") for model in found for file in model["files"]]
    assert len(set(urls)) == 3
    for url in urls:
        assert site.client.get(url, headers=own).status_code == 200
        assert site.client.get(url).status_code == 404
    assert graphql(site.client, '(repoName: "@acme/a-b-c")', {})["data"]["models"] == []


def test_a_model_that_is_published_while_its_scope_becomes_private_is_private(site: Site) -> None:
    """The publisher's transaction has read the scope, and hasn't ended, when the operator speaks."""
    registry = site.client.app.state.registry  # type: ignore[attr-defined]  # the app's own
    folder = Folder("zoo:@acme/new", {"training/w.bin": ("training", b"new")})
    site.client.put(f"/api/v1/blobs/{digest_of(b'new')}", content=b"new")
    claimed = threading.Event()

    def work(session: Any) -> None:
        add_version(session, parse_manifest(folder.manifest), None, OPERATOR)
        claimed.set()
        time.sleep(0.5)

    publisher = threading.Thread(target=registry.database.write, args=[work])
    publisher.start()
    assert claimed.wait(30)
    assert admin.set_scope(site.settings, "@acme", private=True) == 1
    publisher.join(30)
    assert site.client.get("/api/v1/resolve?stub=zoo:@acme/new").json()["code"] == "MODEL_UNKNOWN"
    assert site.client.get("/api/v1/models").json()["items"] == []
