"""Ids of the Hugging Face form and back; places of files; what a hub's answers carry."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import admin
from registry.errors import UnknownModelError
from registry.hub_names import read_repo_id, write_repo_id
from registry.settings import Settings
from tests.registry.builders import ALIAS, LONG, Folder, bert, graph, small
from tests.registry.conftest import Site, open_site
from tests.registry.test_access import publish, token
from zoo.stub import Stub

NAME = ALIAS.removeprefix("zoo:")
SEGMENT = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,40}", fullmatch=True)
LONG_NAME = st.lists(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,9}", fullmatch=True), min_size=7, max_size=7).map("/".join)
STUBS = st.builds(Stub, SEGMENT | LONG_NAME, st.none() | SEGMENT)
# the rules of huggingface_hub 2.4's validate_repo_id
ALLOWED = re.compile(r"(\b[\w.-]{1,96}\b/)?\b[\w.-]{1,96}\b", re.ASCII)


@given(STUBS)
def test_an_id_is_valid_and_gives_its_stub_back(stub: Stub) -> None:
    written = write_repo_id(stub)
    if written is None:
        assert len(stub.name) > 85
        return
    assert ALLOWED.fullmatch(written)
    assert "--" not in written
    assert ".." not in written
    assert not written.endswith(".git")
    owner, slash, name = written.rpartition("/")
    assert read_repo_id(owner if slash else None, name) == stub


@pytest.mark.parametrize(
    ("stub", "repo_id"),
    [
        ("zoo:bert-base-squad-pruned80.4block", "bert-base-squad-pruned80.4block"),
        ("zoo:@acme/a--b", "acme/a-Hb"),
        ("zoo:model.git", "modelPgit"),
        ("zoo:nlp/qa/bert-base/pytorch/hf/squad/v1.0-none", "L.nlp.qa.bert-base.pytorch.hf.squad.v1P0-none"),
    ],
)
def test_ids_as_documented(stub: str, repo_id: str) -> None:
    assert write_repo_id(Stub.parse(stub)) == repo_id


@pytest.mark.parametrize("name", ["", "A", "L.a.b", "Intel", "a@v1", "a?recipe=b", "\u0430", "a\x00", "L." + "." * 6])
def test_row_2_what_is_no_id_is_refused_before_it_is_looked_up(name: str) -> None:
    with pytest.raises(UnknownModelError):
        read_repo_id(None, name)


def test_trained_files_lie_at_the_top_unless_the_place_is_taken(sqlite_site: Site) -> None:
    files = {
        "training/config.json": ("training", b"1"),
        "training/recipe.md": ("training", b"2"),
        "training/deployment": ("training", b"3"),
        "training/README.md": ("training", b"4"),
        "training/recipe.md.d/x": ("training", b"5"),
        "recipe.md": ("recipe", b"modifiers: []\n"),
        "model.md": ("card", b"7"),
        "deployment/model.onnx": ("deployment", graph()),
    }
    Folder("zoo:tiny", files).publish(sqlite_site.client)
    siblings = sqlite_site.client.get("/api/models/tiny").json()["siblings"]
    assert [sibling["rfilename"] for sibling in siblings] == [
        "README.md",
        "config.json",
        "deployment/model.onnx",
        "recipe.md",
        "recipe.md.d/x",
        "training/README.md",
        "training/deployment",
        "training/recipe.md",
    ]
    for path, text in {
        "README.md": "7",
        "training/README.md": "4",
        "recipe.md": "modifiers: []\n",
        "config.json": "1",
    }.items():
        assert sqlite_site.client.get(f"/tiny/resolve/main/{path}").text == text


def test_a_file_s_answer_names_commit_digest_and_size(sqlite_site: Site) -> None:
    digest = bert().publish(sqlite_site.client).json()["digest"]
    commit = digest.removeprefix("sha256:")[:40]
    data = bert().files["training/model.safetensors"][1]
    for revision in ("main", "v1", commit, digest):
        head = sqlite_site.client.head(f"/{NAME}/resolve/{revision}/model.safetensors")
        assert head.headers["x-repo-commit"] == commit
        assert head.headers["x-linked-size"] == head.headers["content-length"] == str(len(data))
        assert head.headers["etag"] == head.headers["x-linked-etag"]
        assert ("immutable" in head.headers["cache-control"]) == (revision != "main")
    part = sqlite_site.client.get(f"/{NAME}/resolve/v1/model.safetensors", headers={"Range": "bytes=7-9"})
    assert (part.status_code, part.content) == (206, data[7:10])


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("/api/models/nothing", "RepoNotFound"),
        ("/api/models/a/b/revision/main", "RepoNotFound"),
        (f"/api/models/{NAME}/revision/v2", "RevisionNotFound"),
        (f"/api/models/{NAME}/revision/refs%2Fpr%2F1", "RevisionNotFound"),
        (f"/api/models/{NAME}/tree/main/none", "EntryNotFound"),
        (f"/{NAME}/resolve/main/none.json", "EntryNotFound"),
        (f"/{NAME}/resolve/{'0' * 40}/config.json", "RevisionNotFound"),
    ],
)
def test_errors_carry_the_code_that_the_library_reads(sqlite_site: Site, url: str, code: str) -> None:
    bert().publish(sqlite_site.client)
    answer = sqlite_site.client.get(url)
    assert (answer.status_code, answer.headers["x-error-code"]) == (404, code)
    assert answer.json()["detail"].isprintable()


def test_pages_of_models_are_linked(sqlite_site: Site) -> None:
    client = sqlite_site.client
    for number in range(5):
        small(f"zoo:model{number}", text=str(number)).publish(client)
    bert(LONG).publish(client)
    seen, url = [], "/api/models?limit=2"
    while url:
        answer = client.get(url)
        seen += [model["id"] for model in answer.json()]
        url = answer.links.get("next", {}).get("url")
    assert sorted(seen) == sorted([NAME, *(f"model{number}" for number in range(5))])
    assert client.get("/api/models?limit=0").json()["code"] == "REQUEST_INVALID"
    assert client.get("/api/models?filter=a&filter=b&expand=sha&expand=tags").status_code == 200
    assert client.get("/api/models?search=a&search=b").status_code == 400


def test_the_next_page_is_linked_where_clients_reach_the_registry(tmp_path: Path) -> None:
    with open_site(Settings(storage=tmp_path, public_url="https://zoo.example/hub/", require_token=False)) as site:
        for number in range(2):
            small(f"zoo:model{number}", text=str(number)).publish(site.client)
        link = site.client.get("/api/models?limit=1").links["next"]["url"]
    assert link.startswith("https://zoo.example/hub/api/models?limit=1&cursor=")


def test_a_page_has_at_most_so_many_models_however_many_are_asked_for(sqlite_site: Site) -> None:
    small().publish(sqlite_site.client)
    answer = sqlite_site.client.get("/api/models?limit=200")
    assert (answer.status_code, len(answer.json())) == (200, 1)
    assert sqlite_site.client.get("/api/models?limit=many").status_code == 400


def test_a_private_model_says_that_it_is(sqlite_site: Site) -> None:
    admin.set_scope(sqlite_site.settings, "@acme", private=True)
    headers = token(sqlite_site, "write:*")
    for name in ("zoo:@acme/plan", "zoo:shown"):
        publish(sqlite_site.client, small(name), headers)
    listed = sqlite_site.client.get("/api/models", headers=headers).json()
    assert {model["id"]: model["private"] for model in listed} == {"acme/plan": True, "shown": False}
    assert sqlite_site.client.get("/api/models/acme/plan", headers=headers).json()["private"] is True


def test_a_token_of_another_hub_says_nothing_and_a_wrong_one_of_ours_is_refused(sqlite_site: Site) -> None:
    bert().publish(sqlite_site.client)
    url = f"/{NAME}/resolve/v1/config.json"
    foreign = sqlite_site.client.get(url, headers={"Authorization": "Bearer hf_abcdefghijklmnop"})
    assert (foreign.status_code, foreign.headers["cache-control"].partition(",")[0]) == (200, "private")
    assert sqlite_site.client.get(url, headers={"Authorization": f"Bearer zoo_{'x' * 43}"}).status_code == 401
