"""Publishing, resolving, tags: what a version promises."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient

from registry.storage.folder import FolderBlobStore
from tests.registry.builders import ALIAS, LONG, Folder, bert, digest_of, small
from tests.registry.conftest import Site
from zoo.manifest import Manifest


def resolve(client: TestClient, stub: str, **more: str) -> Any:
    return client.get("/api/v1/resolve", params={"stub": stub, **more}).json()


def code(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == answer.status_code
    assert document["type"] == "about:blank"
    assert document["title"]
    assert document["detail"]
    return answer.status_code, document["code"]


def test_a_published_version_comes_back_by_every_name(client: TestClient) -> None:
    answer = bert().publish(client, tags=["prod"])
    assert answer.status_code == 201
    view = answer.json()
    assert view["digest"] == Manifest.parse(bert().manifest).digest()
    assert view["version"] == 1
    assert view["tags"] == ["latest", "prod"]
    assert view["alias"] == ALIAS
    assert view["size_bytes"] == sum(len(data) for _, data in bert().files.values())
    assert Manifest.parse(view["manifest"]) == Manifest.parse(Manifest.parse(bert().manifest).to_json())
    for stub in (
        LONG,
        ALIAS,
        f"{LONG}@latest",
        f"{ALIAS}@v1",
        f"{LONG}@prod",
        f"{LONG}@{view['digest']}",
        f"{LONG}?recipe=x",
    ):
        assert resolve(client, stub) == view


def test_publishing_asks_the_store_once_for_each_blob(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a bucket each is a request over the network, and the database waits while they are made in its transaction."""
    folder, asked, size = bert(), list[str](), FolderBlobStore.size
    folder.upload(site.client)
    monkeypatch.setattr(FolderBlobStore, "size", lambda store, digest: asked.append(digest) or size(store, digest))
    assert site.client.post("/api/v1/versions", json={"manifest": folder.manifest}).status_code == 201
    assert sorted(asked) == sorted({digest_of(data) for _, data in folder.files.values()})


def test_a_blob_that_the_store_lost_is_asked_for_again(site: Site) -> None:
    folder = bert()
    folder.upload(site.client)
    lost = digest_of(folder.files["deployment/model.onnx"][1])
    FolderBlobStore(site.settings.storage).delete(lost)
    answer = site.client.post("/api/v1/versions", json={"manifest": folder.manifest})
    assert (*code(answer), answer.json()["missing"]) == (400, "MANIFEST_BLOB_UNKNOWN", [lost])
    assert folder.publish(site.client).status_code == 201


def test_role_narrows_the_files_but_never_the_manifest(client: TestClient) -> None:
    bert().publish(client)
    view = resolve(client, LONG, role="deployment")
    assert {file["role"] for file in view["files"]} == {"deployment"}
    assert len(view["manifest"]["files"]) == len(bert().files)
    for file in view["files"]:
        data = client.get(file["url"]).content
        assert digest_of(data) == file["sha256"]
        assert len(data) == file["size_bytes"]


def test_other_content_is_the_next_version_and_latest_moves(client: TestClient) -> None:
    for number in (1, 2, 3):
        view = small(text=f"weights {number}").publish(client).json()
        assert (view["version"], view["tags"]) == (number, ["latest"])
    assert resolve(client, "zoo:tiny@v1")["tags"] == []
    listed = client.get("/api/v1/versions", params={"stub": "zoo:tiny"}).json()["items"]
    assert [item["version"] for item in listed] == [3, 2, 1]
    assert "manifest" not in listed[0]


def test_row_6_an_unknown_name_gets_the_nearest_three(client: TestClient) -> None:
    for name in ("bert-base-squad-pruned80", "bert-base-squad-pruned90", "bert-large-squad-pruned80", "yolov5-s-coco"):
        small(f"zoo:{name}", name).publish(client)
    answer = client.get("/api/v1/resolve", params={"stub": "zoo:bert-base-squad-pruned85"})
    assert code(answer) == (404, "MODEL_UNKNOWN")
    nearest = answer.json()["nearest"]
    assert len(nearest) == 3
    assert set(nearest[:2]) == {"zoo:bert-base-squad-pruned80", "zoo:bert-base-squad-pruned90"}
    assert nearest[0] in answer.json()["detail"]
    assert client.get("/api/v1/resolve", params={"stub": "zoo:qqqqqqqq"}).json()["nearest"] == []


def test_an_unknown_pin_names_the_known_ones(client: TestClient) -> None:
    small().publish(client, tags=["prod"])
    for pin in ("v2", "nightly", "sha256:" + "0" * 64):
        answer = client.get("/api/v1/resolve", params={"stub": f"zoo:tiny@{pin}"})
        assert code(answer) == (404, "VERSION_UNKNOWN")
        assert "v1" in answer.json()["detail"]
        assert "prod" in answer.json()["detail"]


def test_a_digest_pin_belongs_to_its_own_model(client: TestClient) -> None:
    digest = small("zoo:one").publish(client).json()["digest"]
    small("zoo:two", "other").publish(client)
    assert resolve(client, f"zoo:one@{digest}")["name"] == "zoo:one"
    assert resolve(client, f"zoo:two@{digest}")["code"] == "VERSION_UNKNOWN"


def test_row_7_an_alias_can_never_be_ambiguous(client: TestClient) -> None:
    small("zoo:one", alias="zoo:short").publish(client)
    taken = small("zoo:two", "other", alias="zoo:short").publish(client)
    assert code(taken) == (409, "ALIAS_TAKEN")
    assert taken.json()["holder"] == "zoo:one"
    assert resolve(client, "zoo:short")["name"] == "zoo:one"
    assert resolve(client, "zoo:two")["code"] == "MODEL_UNKNOWN"
    assert code(small("zoo:short", "third").publish(client)) == (409, "ALIAS_TAKEN")
    assert code(small("zoo:three", "fourth", alias="zoo:one").publish(client)) == (409, "ALIAS_TAKEN")


def test_earlier_aliases_keep_resolving(client: TestClient) -> None:
    small("zoo:one", alias="zoo:old").publish(client)
    small("zoo:one", "more", alias="zoo:new").publish(client)
    assert resolve(client, "zoo:old")["version"] == resolve(client, "zoo:new")["version"] == 2


def test_an_alias_stays_with_the_model_until_another_is_given(client: TestClient) -> None:
    small("zoo:one", alias="zoo:shortname").publish(client)
    for text, alias, expected in (
        ("more", None, "zoo:shortname"),
        ("other", "zoo:newname", "zoo:newname"),
        ("last", None, "zoo:newname"),
    ):
        published = small("zoo:one", text, alias=alias).publish(client).json()
        assert published["alias"] == resolve(client, "zoo:shortname")["alias"] == expected
        found = client.get("/api/v1/models", params={"q": expected.removeprefix("zoo:")}).json()["items"]
        assert [(item["alias"], item["latest_version"]) for item in found] == [(expected, published["version"])]
    assert "alias" not in resolve(client, "zoo:one")["manifest"]


def test_row_8_stubs_that_differ_by_case_are_refused(client: TestClient) -> None:
    small("zoo:tiny").publish(client)
    answer = client.get("/api/v1/resolve", params={"stub": "zoo:Tiny"})
    assert code(answer) == (400, "STUB_INVALID")
    assert answer.json()["column"] == 5
    upper = small("zoo:tiny", "x").manifest | {"name": "zoo:TINY"}
    assert code(client.post("/api/v1/versions", json={"manifest": upper})) == (422, "MANIFEST_INVALID")


def test_row_37_publishing_again_is_idempotent_and_other_bytes_conflict(client: TestClient) -> None:
    first = small().publish(client, version=1)
    assert first.status_code == 201
    again = small().publish(client, version=1)
    assert (again.status_code, again.json()) == (200, first.json())
    other = small(text="other").publish(client, version=1)
    assert code(other) == (409, "VERSION_EXISTS")
    assert code(small().publish(client, version=2)) == (409, "VERSION_EXISTS")
    assert resolve(client, "zoo:tiny@v1") == first.json()
    assert resolve(client, "zoo:tiny@v2")["code"] == "VERSION_UNKNOWN"


def test_publishing_an_old_manifest_again_moves_given_tags_but_not_latest(client: TestClient) -> None:
    small(text="1").publish(client)
    small(text="2").publish(client)
    answer = small(text="1").publish(client, tags=["stable"])
    assert (answer.status_code, answer.json()["version"], answer.json()["tags"]) == (200, 1, ["stable"])
    assert resolve(client, "zoo:tiny")["version"] == 2


def test_a_number_can_be_left_out_and_filled_later(client: TestClient) -> None:
    small(text="7").publish(client, version=7)
    late = small(text="3").publish(client, version=3)
    assert (late.status_code, late.json()["tags"]) == (201, [])
    assert resolve(client, "zoo:tiny")["version"] == 7
    assert small(text="8").publish(client).json()["version"] == 8


def test_row_38_a_missing_blob_is_named_and_nothing_is_visible(client: TestClient) -> None:
    folder = Folder("zoo:tiny", {"a.txt": ("training", b"a"), "b.txt": ("training", b"b")})
    client.put(f"/api/v1/blobs/{digest_of(b'a')}", content=b"a")
    answer = client.post("/api/v1/versions", json={"manifest": folder.manifest})
    assert code(answer) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert answer.json()["missing"] == [digest_of(b"b")]
    assert resolve(client, "zoo:tiny")["code"] == "MODEL_UNKNOWN"
    assert client.get("/api/v1/models").json()["items"] == []


def test_row_38_a_wrong_size_is_named_and_nothing_is_visible(client: TestClient) -> None:
    folder = small()
    folder.upload(client)
    manifest = folder.manifest
    manifest["files"][0]["size_bytes"] += 1
    answer = client.post("/api/v1/versions", json={"manifest": manifest})
    assert code(answer) == (400, "SIZE_INVALID")
    assert "weights.txt" in answer.json()["detail"]
    assert resolve(client, "zoo:tiny")["code"] == "MODEL_UNKNOWN"


def test_row_38_a_wrong_media_type_is_refused(client: TestClient) -> None:
    small().upload(client)
    answer = client.post("/api/v1/versions", content=b'{"manifest": {}}', headers={"Content-Type": "text/plain"})
    assert code(answer) == (422, "REQUEST_INVALID")


HOSTILE_ENTRIES: list[dict[str, Any]] = [
    {"sha256": "sha256:../../x"},
    {"sha256": "sha256:" + "A" * 64},
    {"sha256": "sha256:" + "a" * 63},
    {"sha256": "sha256:" + "a" * 65},
    {"sha256": "sha1:" + "a" * 40},
    {"path": "../x"},
    {"path": "/etc/passwd"},
    {"path": "CON"},
    {"size_bytes": -1},
    {"size_bytes": 2**63},
    {"size_bytes": 1.5},
    {"role": "malware"},
]


def test_row_32_a_hostile_file_entry_is_refused_at_parse(client: TestClient) -> None:
    for change in HOSTILE_ENTRIES:
        manifest = small().manifest
        manifest["files"][0].update(change)
        answer = client.post("/api/v1/versions", json={"manifest": manifest})
        assert code(answer) == (422, "MANIFEST_INVALID"), change


def test_row_32_each_of_two_files_with_one_digest_is_verified(client: TestClient) -> None:
    folder = Folder("zoo:tiny", {"config.json": ("training", b"{}"), "layer.bin": ("training", b"{}")})
    folder.upload(client)
    manifest = folder.manifest
    manifest["files"][1]["size_bytes"] = 3
    assert code(client.post("/api/v1/versions", json={"manifest": manifest})) == (400, "SIZE_INVALID")
    assert folder.publish(client).status_code == 201


def test_row_60_versions_published_at_once_get_different_numbers(client: TestClient) -> None:
    folders = [small(text=f"weights {number}") for number in range(8)]
    for folder in folders:
        folder.upload(client)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda f: client.post("/api/v1/versions", json={"manifest": f.manifest}), folders))
    assert [answer.status_code for answer in answers] == [201] * 8
    assert sorted(answer.json()["version"] for answer in answers) == list(range(1, 9))
    assert resolve(client, "zoo:tiny")["version"] == 8


def test_row_60_one_number_asked_for_at_once_is_given_once(client: TestClient) -> None:
    folders = [small(text=f"weights {number}") for number in range(6)]
    for folder in folders:
        folder.upload(client)
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda f: client.post("/api/v1/versions", json={"manifest": f.manifest, "version": 1}), folders)
        )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 5


def test_row_60_one_manifest_published_at_once_is_one_version(client: TestClient) -> None:
    folder = bert()
    folder.upload(client)
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda _: client.post("/api/v1/versions", json={"manifest": folder.manifest}), range(6))
        )
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
    assert {answer.json()["version"] for answer in answers} == {1}


def test_an_empty_if_match_is_no_leave_to_move_a_tag(client: TestClient) -> None:
    small().publish(client, tags=["prod"])
    small(text="2").publish(client)
    body = {"stub": "zoo:tiny@v2", "tag": "prod"}
    for empty in ("", '""'):
        assert code(client.put("/api/v1/tags", json=body, headers={"If-Match": empty})) == (412, "TAG_MOVED")


def test_a_resolved_version_has_a_weak_etag_that_if_match_takes(client: TestClient) -> None:
    """The same version is told of in other words when its tags move, or by another role."""
    digest = small().publish(client, tags=["prod"]).json()["digest"]
    etag = client.get("/api/v1/resolve", params={"stub": "zoo:tiny"}).headers["etag"]
    assert etag == f'W/"{digest}"'
    small(text="2").publish(client)
    body = {"stub": "zoo:tiny@v2", "tag": "prod"}
    assert client.put("/api/v1/tags", json=body, headers={"If-Match": etag}).status_code == 200


def test_row_60_a_tag_moved_by_two_clients_needs_if_match(client: TestClient) -> None:
    one, two = (small(text=text).publish(client, tags=["prod"]).json() for text in ("1", "2"))
    body = {"stub": "zoo:tiny@v1", "tag": "prod"}
    stale = client.put("/api/v1/tags", json=body, headers={"If-Match": f'"{one["digest"]}"'})
    assert code(stale) == (412, "TAG_MOVED")
    assert resolve(client, "zoo:tiny@prod")["version"] == 2
    fresh = client.put("/api/v1/tags", json=body, headers={"If-Match": f'"{two["digest"]}"'})
    assert (fresh.status_code, fresh.json()["version"], fresh.json()["tags"]) == (200, 1, ["prod"])
    assert fresh.headers["etag"] == f'"{one["digest"]}"'
    assert client.put("/api/v1/tags", json={**body, "stub": "zoo:tiny@v2"}).json()["version"] == 2


NO_TAGS = ["latest", "v3", "Prod", "", "a b", "sha256:" + "a" * 64, "x" * 129, "a\x00", "-x", "é"]


def test_what_is_no_tag_is_refused(client: TestClient) -> None:
    small().publish(client)
    for tag in NO_TAGS:
        assert client.put("/api/v1/tags", json={"stub": "zoo:tiny", "tag": tag}).status_code in (400, 422)
        answer = client.post("/api/v1/versions", json={"manifest": small().manifest, "tags": [tag]})
        assert answer.status_code in (400, 422)
    assert resolve(client, "zoo:tiny")["tags"] == ["latest"]


def test_scoped_models_stand_beside_plain_ones(client: TestClient) -> None:
    small("zoo:tiny", "plain").publish(client)
    assert small("zoo:@acme/tiny", "scoped").publish(client).status_code == 201
    assert resolve(client, "zoo:@acme/tiny")["digest"] != resolve(client, "zoo:tiny")["digest"]


def test_row_61_times_are_utc(client: TestClient) -> None:
    view = small().publish(client).json()
    assert view["created_at"].endswith("Z")
    assert client.get("/api/v1/models").json()["items"][0]["updated_at"] == view["created_at"]
