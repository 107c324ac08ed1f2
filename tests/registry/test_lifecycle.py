"""What becomes of versions after they are published: yanked, deleted, built upon. Rows: the list of faults."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from registry import admin
from tests.registry.builders import Folder, bert, digest_of, small
from tests.registry.conftest import Site

NOW = timedelta(microseconds=1)
REASON = "wrong tokenizer; use v1"


def yank(client: TestClient, stub: str, reason: str | None = REASON) -> Any:
    return client.put("/api/v1/yanks", json={"stub": stub, "reason": reason})


def delete(client: TestClient, stub: str, **more: Any) -> Any:
    return client.post("/api/v1/versions/delete", json={"stub": stub, "reason": REASON, **more})


def resolve(client: TestClient, stub: str) -> Any:
    return client.get("/api/v1/resolve", params={"stub": stub})


def lineage(client: TestClient, **asked: str) -> Any:
    return client.get("/api/v1/lineage", params=asked).json()


@pytest.fixture
def three(client: TestClient) -> list[dict[str, Any]]:
    """Three versions of zoo:tiny."""
    return [small(text=f"weights {number}").publish(client).json() for number in (1, 2, 3)]


def test_a_yanked_version_is_left_out_unless_it_is_pinned(client: TestClient, three: list[dict[str, Any]]) -> None:
    assert yank(client, "zoo:tiny@v3").json()["yank_reason"] == REASON
    assert resolve(client, "zoo:tiny").json()["version"] == 2
    assert client.get("/api/v1/models").json()["items"][0]["latest_version"] == 2
    for pin in ("v3", three[2]["digest"]):
        pinned = resolve(client, f"zoo:tiny@{pin}").json()
        assert (pinned["version"], pinned["yank_reason"]) == (3, REASON)
    assert yank(client, "zoo:tiny@v3", None).json()["yank_reason"] is None
    assert resolve(client, "zoo:tiny").json() == three[2]


def test_a_model_whose_versions_are_all_yanked_has_no_latest(client: TestClient, three: list[dict[str, Any]]) -> None:
    for number in (1, 2, 3):
        yank(client, f"zoo:tiny@v{number}")
    answer = resolve(client, "zoo:tiny")
    assert (answer.status_code, answer.json()["code"]) == (404, "VERSION_UNKNOWN")
    for said in ("all versions of zoo:tiny are yanked", "such as zoo:tiny@v3", f"v3: {REASON}; v2: {REASON}"):
        assert said in answer.json()["detail"]
    assert resolve(client, "zoo:tiny@v3").json()["yank_reason"] == REASON
    assert client.get("/api/v1/models").json()["items"] == []
    assert client.get("/api/v1/names").json() == {"items": ["zoo:tiny"], "next_after": None}
    small(text="weights 4").publish(client)
    assert resolve(client, "zoo:tiny").json()["version"] == 4


def test_names_come_in_pages_and_end(client: TestClient, three: list[dict[str, Any]]) -> None:
    small("zoo:other").publish(client)
    for stub in ("zoo:gone", "zoo:@acme/own"):
        small(stub, stub).publish(client)
    delete(client, "zoo:gone@v1")
    found, after = list[str](), None
    while not found or after:
        page = client.get("/api/v1/names", params={"limit": 2, **({"after": after} if after else {})}).json()
        found, after = found + page["items"], page["next_after"]
    assert found == ["zoo:@acme/own", "zoo:other", "zoo:tiny"]


@pytest.mark.parametrize("stub", ["zoo:tiny", "zoo:tiny@latest", "zoo:tiny@prod"])
def test_only_a_pinned_version_is_yanked_or_deleted(client: TestClient, three: list[Any], stub: str) -> None:
    client.put("/api/v1/tags", json={"stub": "zoo:tiny@v1", "tag": "prod"})
    for answer in (yank(client, stub), delete(client, stub)):
        assert (answer.status_code, answer.json()["code"]) == (400, "REQUEST_INVALID")


@pytest.mark.parametrize("reason", ["", "a\nb", "x" * 1_025, "nul\0"])
def test_a_reason_is_one_bounded_line(client: TestClient, three: list[Any], reason: str) -> None:
    assert yank(client, "zoo:tiny@v1", reason).status_code == 422


def test_a_deleted_version_is_gone_and_says_why(client: TestClient, three: list[dict[str, Any]]) -> None:
    assert delete(client, "zoo:tiny@v3").json() == {"stub": "zoo:tiny@v3", "reason": REASON}
    for pin in ("v3", three[2]["digest"]):
        gone = resolve(client, f"zoo:tiny@{pin}")
        assert (gone.status_code, gone.json()["code"]) == (410, "VERSION_DELETED")
        assert REASON in gone.json()["detail"]
    assert delete(client, "zoo:tiny@v3").status_code == 410
    assert resolve(client, "zoo:tiny").json()["version"] == 2
    numbers = [item["version"] for item in client.get("/api/v1/versions", params={"stub": "zoo:tiny"}).json()["items"]]
    assert numbers == [2, 1]


def test_row_37_number_and_digest_of_a_deleted_version_never_come_back(client: TestClient, three: list[Any]) -> None:
    delete(client, "zoo:tiny@v3")
    assert small(text="weights 3").publish(client).json()["code"] == "VERSION_DELETED"
    assert small(text="other").publish(client, version=3).json()["code"] == "VERSION_EXISTS"
    assert small(text="other").publish(client).json()["version"] == 4


def test_row_40_a_version_that_a_tag_points_to_is_not_deleted(client: TestClient, three: list[Any]) -> None:
    client.put("/api/v1/tags", json={"stub": "zoo:tiny@v2", "tag": "prod"})
    answer = delete(client, "zoo:tiny@v2", force=True)
    assert (answer.status_code, answer.json()["code"], answer.json()["users"]) == (409, "VERSION_IN_USE", ["prod"])
    client.put("/api/v1/tags", json={"stub": "zoo:tiny@v1", "tag": "prod"})
    assert delete(client, "zoo:tiny@v2").status_code == 200


@pytest.mark.parametrize(("pin", "status"), [("", 409), ("@v2", 409), ("@v1", 200)])
def test_row_40_a_version_that_another_model_was_made_from_is_deleted_only_by_force(
    client: TestClient, three: list[Any], pin: str, status: int
) -> None:
    small("zoo:child", metadata={"base": f"zoo:tiny{pin}"}).publish(client)
    answer = delete(client, "zoo:tiny@v2")
    assert answer.status_code == status
    if status == 409:
        assert answer.json()["users"] == ["zoo:child@v1"]
        assert delete(client, "zoo:tiny@v2", force=True).status_code == 200


def test_row_40_many_users_are_named_once_and_counted(client: TestClient, three: list[Any]) -> None:
    for number in range(5):
        small(f"zoo:child-{number}", metadata={"base": "zoo:tiny", "teacher": "zoo:tiny"}).publish(client)
    answer = delete(client, "zoo:tiny@v2").json()
    assert answer["users"] == [f"zoo:child-{number}@v1" for number in reversed(range(5))]
    assert answer["detail"].startswith("zoo:child-4@v1, zoo:child-3@v1, zoo:child-2@v1 and 2 more were made from")


def test_row_40_a_pull_that_has_begun_ends_well(site: Site, client: TestClient, three: list[Any]) -> None:
    """A deleted version's bytes stay for one grace period, however long ago they were uploaded."""
    delete(client, "zoo:tiny@v3")
    assert admin.gc(site.settings, timedelta(hours=1)).removed == []
    assert client.get(f"/api/v1/blobs/{digest_of(b'weights 3')}").content == b"weights 3"
    assert admin.gc(site.settings, NOW).removed == [digest_of(b"weights 3")]
    assert client.get(f"/api/v1/blobs/{digest_of(b'weights 1')}").content == b"weights 1"


def test_row_40_bytes_that_another_version_shares_stay(site: Site, client: TestClient) -> None:
    small("zoo:one", "same").publish(client)
    small("zoo:two", "same").publish(client)
    delete(client, "zoo:one@v1")
    assert admin.gc(site.settings, NOW).removed == []


def test_yank_and_delete_need_a_token_where_writing_does(site: Site, client: TestClient, three: list[Any]) -> None:
    site.token()
    assert yank(client, "zoo:tiny@v1").status_code == delete(client, "zoo:tiny@v1").status_code == 401


# --- lineage


def family(client: TestClient) -> Folder:
    """A base with an alias, and a model made from it with a teacher, a recipe and data."""
    bert("zoo:base", alias="zoo:base-alias").publish(client)
    child = bert("zoo:child", alias=None, revision=2)
    child.metadata = {
        "base": "zoo:base-alias@v1",
        "teacher": "zoo:not-here-yet",
        "recipe": "zoo:base?recipe=transfer",
        "data_fingerprint": digest_of(b"squad"),
    }
    child.publish(client)
    return child


def test_lineage_goes_both_ways(client: TestClient) -> None:
    recipe = digest_of(family(client).files["recipe.md"][1])
    up = lineage(client, stub="zoo:child")["made_from"]
    assert up == [
        {"relation": "base", "stub": "zoo:base-alias@v1", "digest": None, "name": "zoo:base"},
        {"relation": "data", "stub": None, "digest": digest_of(b"squad"), "name": None},
        {"relation": "recipe", "stub": "zoo:base", "digest": None, "name": "zoo:base"},
        {"relation": "recipe", "stub": None, "digest": recipe, "name": None},
        {"relation": "teacher", "stub": "zoo:not-here-yet", "digest": None, "name": None},
    ]
    child = {"stub": "zoo:child@v1", "name": "zoo:child", "version": 1}
    down = lineage(client, stub="zoo:base-alias")["used_by"]
    assert [row.pop("relation") for row in down] == ["base", "recipe"]
    assert down == [child] * 2
    assert lineage(client, digest=digest_of(b"squad"))["used_by"] == [{"relation": "data", **child}]


def test_a_base_that_brought_the_recipe_was_not_made_by_it(client: TestClient) -> None:
    family(client)
    assert lineage(client, stub="zoo:child")["used_by"] == []
    assert delete(client, "zoo:child@v1").status_code == 200


def test_which_models_used_this_recipe(client: TestClient) -> None:
    recipe = digest_of(family(client).files["recipe.md"][1])
    users = lineage(client, digest=recipe)["used_by"]
    assert {user["stub"] for user in users} == {"zoo:base@v1", "zoo:child@v1"}


def test_a_target_may_be_published_later(client: TestClient) -> None:
    family(client)
    small("zoo:not-here-yet").publish(client)
    assert lineage(client, stub="zoo:not-here-yet")["used_by"][0]["stub"] == "zoo:child@v1"
    assert lineage(client, stub="zoo:child")["made_from"][-1]["name"] == "zoo:not-here-yet"


def test_lineage_takes_a_stub_or_a_digest(client: TestClient) -> None:
    for asked in ({}, {"stub": "zoo:a", "digest": digest_of(b"")}):
        assert client.get("/api/v1/lineage", params=asked).status_code == 400
    assert client.get("/api/v1/lineage", params={"digest": "md5:x"}).status_code == 422
    assert client.get("/api/v1/lineage", params={"stub": "zoo:nobody"}).status_code == 404


# --- races


def test_row_60_one_version_created_twice_at_once_is_one_version(program: Any) -> None:
    folder = small()
    answers: list[Any] = []
    with program.client() as client:
        folder.upload(client)

    def publish() -> None:
        with program.client() as client:
            answers.append(client.post("/api/v1/versions", json={"manifest": folder.manifest}))

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert {answer.json()["version"] for answer in answers} == {1}


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_row_53_a_sweep_never_takes_a_blob_that_becomes_referenced(program: Any) -> None:
    """Sweeps without any grace run while models that share one blob are published: a version is whole or refused."""
    stop, sweeps = threading.Event(), list[int]()

    def sweep() -> None:
        while not stop.is_set():
            sweeps.append(len(admin.gc(program.settings, timedelta(0), force=True).removed))

    with program.client() as client:
        sweeper = threading.Thread(target=sweep)
        sweeper.start()
        try:
            published = []
            for number in range(25):
                folder = Folder(f"zoo:m{number}", {"a": ("card", b"shared"), "b": ("card", b"%d" % number)})
                for _ in range(200):
                    for _, data in folder.files.values():  # 503: a sweep took the bytes as they came
                        while client.put(f"/api/v1/blobs/{digest_of(data)}", content=data).status_code == 503:
                            continue
                    answer = client.post("/api/v1/versions", json={"manifest": folder.manifest})
                    if answer.status_code == 201:
                        published.append(folder)
                        break
                    assert answer.json()["code"] == "MANIFEST_BLOB_UNKNOWN", answer.text
        finally:
            stop.set()
            sweeper.join(30)
        assert published
        assert sum(sweeps) > 0
        for folder in published:
            for _, data in folder.files.values():
                assert client.get(f"/api/v1/blobs/{digest_of(data)}").content == data
    assert admin.scrub(program.settings).is_sound
