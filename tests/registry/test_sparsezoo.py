"""GraphQL as sparsezoo sends it, and as it shouldn't; folders as tars."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pytest
from starlette.testclient import TestClient

from registry.routes.sparsezoo import MAX_LOOK_UPS
from registry.service import Registry
from tests.registry.builders import ALIAS, LONG, Folder, bert, graph, small
from tests.registry.conftest import Site

PARTS = (
    'domain: "nlp",task: "question_answering",architecture: "bert",subArchitecture: "base",framework: "pytorch",'
    'repo: "huggingface",sourceDataset: "squad",sparseTag: "pruned80_quant-none-vnni",'
)
FILES = "{ modelId files(version: 2) { displayName downloadUrl fileSize fileType modelId } repoName repoNamespace }"


def _ask(client: TestClient, query: str) -> dict[str, Any]:
    answer = client.post("/v2/graphql", json={"query": query})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def _models(client: TestClient, arguments: str, fields: str = "{ stub }") -> list[dict[str, Any]]:
    document = _ask(client, f"{{ models ({arguments}) {fields} }}")
    assert "errors" not in document, document
    found: list[dict[str, Any]] = document["data"]["models"]
    return found


def test_a_model_is_found_by_either_name_and_by_some_of_its_parts(client: TestClient) -> None:
    bert().publish(client)
    for arguments in (PARTS, f'repoName: "{ALIAS.removeprefix("zoo:")}"', 'domain: "nlp",task: "question_answering"'):
        assert _models(client, arguments) == [{"stub": LONG}]
    for arguments in ('domain: "cv"', PARTS.replace("pytorch", "keras"), 'domain: "nlp",sparseTag: "pruned8"'):
        assert _models(client, arguments) == []
    assert _models(client, 'domain: "nlp",sparseTag: "none"') == [{"stub": LONG}]


def test_a_scheme_that_the_client_drops_is_found_without_it(sqlite_site: Site) -> None:
    name = LONG.replace("/squad/", "/squad-lower_lr/")
    bert(name, alias=None).publish(sqlite_site.client)
    assert _models(sqlite_site.client, PARTS) == [{"stub": name}]


def test_search_lists_only_what_the_client_can_open(sqlite_site: Site) -> None:
    client, facts = sqlite_site.client, {"domain": "nlp"}
    for name in ("zoo:@acme/a-b-c", "zoo:two-parts", "zoo:a-b-c"):
        small(name, text=name, metadata=facts).publish(client)
    assert _models(client, 'domain: "nlp"') == [{"stub": "zoo:a-b-c"}]


def test_every_file_can_be_downloaded_as_it_is_listed(sqlite_site: Site) -> None:
    client, folder = sqlite_site.client, bert()
    folder.files["training/empty.txt"] = ("training", b"")
    folder.publish(client)
    (model,) = _models(client, PARTS, FILES)
    assert (model["repoNamespace"], model["repoName"]) == ("zoo", f"{ALIAS.removeprefix('zoo:')}@v1")
    sizes = {}
    for file in model["files"]:
        answer = client.get(file["downloadUrl"])
        assert len(answer.content) == file["fileSize"] > 0
        sizes[file["displayName"]] = file["fileType"]
    assert sizes == {
        "model.onnx": "onnx",
        "deployment/model.onnx": "deployment",
        "deployment/config.json": "deployment",
        "deployment/tokenizer.json": "deployment",
        "training/config.json": "training",
        "training/model.safetensors": "training",
        "training/tokenizer.json": "training",
        "recipe.md": "recipe",
        "model.md": "card",
        "benchmarks.yaml": "benchmarking",
        "sample-inputs.tar.gz": "inputs",
        "sample-outputs.tar.gz": "outputs",
    }


def test_benchmark_records_come_in_the_client_s_words(sqlite_site: Site) -> None:
    client = sqlite_site.client
    bert().publish(client)
    record = {
        "hardware": {"cpu": "Xeon 8375C", "isa": "avx512vnni", "cores": 24, "system": "Linux x86_64"},
        "engine": "sparrow",
        "threads": 24,
        "batch_size": 64,
        "iterations": 100,
        "seconds": 10.0,
        "items_per_second": 640.0,
        "median_ms": 100.0,
        "measured_at": "2026-01-01T00:00:00Z",
    }
    assert client.post("/api/v1/benchmarks", json={"stub": ALIAS, "record": record}).status_code == 201
    fields = "{ benchmarkResults { batchSize deviceInfo numCores recordedUnits recordedValue } }"
    assert _models(client, PARTS, fields)[0]["benchmarkResults"] == [
        {
            "batchSize": 64,
            "deviceInfo": "Xeon 8375C",
            "numCores": 24,
            "recordedUnits": "items/second",
            "recordedValue": 640.0,
        }
    ]


def test_external_data_comes_with_its_model(sqlite_site: Site) -> None:
    client, folder = sqlite_site.client, small("zoo:a-b-c")
    folder.files = {
        "deployment/model.onnx": ("deployment", graph()),
        "deployment/model.onnx_data": ("deployment", b"weights"),
    }
    folder.publish(client)
    (model,) = _models(client, 'repoName: "a-b-c"', FILES)
    (archive,) = (file for file in model["files"] if file["displayName"] == "model.onnx.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(client.get(archive["downloadUrl"]).content)) as tar:
        assert tar.getnames() == ["model.onnx", "model.onnx_data"]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "{",
        "{ models }",
        "{ secrets { stub } }",
        '{ models (releaseVersion: "1") { stub } }',
        "{ " + " ".join(f"a{i}: models {{ stub }}" for i in range(500)) + " }",
        "fragment a on Query { ...a } { ...a }",
        "query($x: String!) { models(domain: $x) { stub } }",
        "mutation { models { stub } }",
        '{ models (repoName: "../../etc/passwd") { stub } }',
        '{ models (repoName: "a\\u0000b") { stub } }',
        '{ models (domain: "a\\u0000b") { stub } }',
        '{ models (domain: "' + "x" * 300 + '") { stub } }',
    ],
)
def test_row_42_a_hostile_query_gets_errors_and_no_data(client: TestClient, query: str) -> None:
    answer = client.post("/v2/graphql", json={"query": query})
    if answer.status_code == 200:
        assert answer.json()["errors"]
        assert not answer.json().get("data")
    else:
        assert (answer.status_code, answer.json()["code"]) == (422, "REQUEST_INVALID")


def test_a_query_is_bounded_in_length_and_in_the_models_that_it_opens(sqlite_site: Site) -> None:
    client = sqlite_site.client
    assert client.post("/v2/graphql", json={"query": "{" + " " * 20_001}).status_code == 422
    for number in range(MAX_LOOK_UPS):
        folder = Folder(f"zoo:a-b-c{number}", {"deployment/model.onnx": ("deployment", graph(b"%d" % number))})
        folder.metadata = {"domain": "nlp"}
        folder.publish(client)
    document = _ask(client, "{ models { files { displayName } } }")
    assert "name one with repoName" in document["errors"][0]["message"]


def test_row_42_one_request_has_one_budget_of_look_ups(sqlite_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the fields are repeated under other names, by search or by name."""
    client, asked = sqlite_site.client, list[str]()
    bert().publish(client)
    for name in ("search", "resolve"):
        real = getattr(Registry, name)
        monkeypatch.setattr(Registry, name, lambda *a, _n=name, _r=real, **k: asked.append(_n) or _r(*a, **k))
    alias = ALIAS.removeprefix("zoo:")
    for field in ('models(domain: "nlp") { stub }', f'models(repoName: "{alias}") {{ stub }}'):
        asked.clear()
        query = "{" + " ".join(f"a{number}: {field}" for number in range(40)) + "}"
        assert "name one with repoName" in _ask(client, query)["errors"][0]["message"], field
        assert len(asked) == MAX_LOOK_UPS
    asked.clear()
    again = " ".join(f"f{number}: files {{ displayName }}" for number in range(40))
    assert "errors" not in _ask(client, f'{{ models(domain: "nlp") {{ {again} }} }}')
    assert asked == ["search", "resolve"]


def test_an_archive_is_a_tar_of_the_folder_with_a_stable_etag_and_any_range(client: TestClient) -> None:
    folder = bert()
    deep = "deployment/" + "/".join(["a" * 100, "b" * 100, "c.txt"])
    samples = {f"deployment/sample-{kind}/x.npz": (f"sample-{kind}", b"PK") for kind in ("inputs", "outputs")}
    folder.files |= {deep: ("deployment", b"deep"), **samples}
    folder.publish(client)
    url = f"/archives/{ALIAS.removeprefix('zoo:')}@v1/deployment.tar"
    whole = client.get(url)
    with tarfile.open(fileobj=io.BytesIO(whole.content), mode="r:") as tar:
        found = {f"deployment/{member.name}": tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert found == {path: data for path, (role, data) in folder.files.items() if role == "deployment"}
    assert client.get(url).headers["etag"] == whole.headers["etag"]
    assert client.head(url).headers["content-length"] == str(len(whole.content))
    for start, stop in ((0, 1), (511, 513), (700, 61_900), (len(whole.content) - 600, len(whole.content))):
        part = client.get(url, headers={"Range": f"bytes={start}-{stop - 1}"})
        assert (part.status_code, part.content) == (206, whole.content[start:stop])


@pytest.mark.parametrize("path", ["none.tar", "deployment", "deployment.tar.gz", "../deployment.tar", ".tar", ""])
def test_an_archive_that_is_no_folder_is_unknown(sqlite_site: Site, path: str) -> None:
    bert().publish(sqlite_site.client)
    answer = sqlite_site.client.get(f"/archives/{ALIAS.removeprefix('zoo:')}@v1/{path.replace('..', '%2e%2e')}")
    assert (answer.status_code, answer.json()["code"]) == (404, "FILE_UNKNOWN")
