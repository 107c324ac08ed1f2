"""Bodies, fields and paths that nobody sends in good faith: refused with a problem document, on both databases."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from registry.routes import bodies
from registry.routes.bodies import MAX_OPEN_BYTES, read_json
from tests.registry.builders import digest_of, small
from tests.registry.conftest import Site
from zoo.manifest import MAX_FILES

JSON = {"Content-Type": "application/json"}
DIGEST = digest_of(b"weights")


def refused(answer: Any) -> str:
    assert answer.status_code in (400, 413, 422), (answer.status_code, answer.text[:300])
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["code"])


def test_row_34_json_that_is_left_to_chance_is_refused(client: TestClient) -> None:
    bodies: list[bytes] = [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe{\x00}\x00",
        b'{"digests": ["\xed\xa0\x80"]}',
        b'{"digests": ["\\ud800"]}',
        b'{"digests": ["\\u0000"]}',
        b'{"digests": [], "digests": []}',
        b'{"digests": [NaN]}',
        b'{"digests": [Infinity]}',
        b'{"digests": [-Infinity]}',
        b'{"digests": [1e999]}',
        b'{"digests": [' + b"9" * 5_000 + b"]}",
        b'{"digests": [9223372036854775808, -0]}',
        b'{"digests": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"digests": {}}',
        b'{"digests": null}',
        b'{"digests": [], "more": 1}',
        b'{"digests": []} trailing',
        b'{"digests": [' + b'"a",' * 10 + b"]}",
        b'{"digests": ["' + b"a" * 1_000_000 + b'"]}',
        b'\xef\xbb\xbf{"digests": []}',
    ]
    for body in bodies:
        assert refused(client.post("/api/v1/blobs/missing", content=body, headers=JSON)) == "REQUEST_INVALID", body[:60]
    assert client.post("/api/v1/blobs/missing", content=b'{"digests": []}', headers=JSON).status_code == 200


def test_row_34_other_content_types_are_refused(client: TestClient) -> None:
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "x",
        "application/",
    ):
        answer = client.post("/api/v1/blobs/missing", content=b'{"digests": []}', headers={"Content-Type": kind})
        assert refused(answer) == "REQUEST_INVALID", kind
    for path in ("/api/v1/blobs/missing", "/api/v1/versions"):
        assert refused(client.post(path, content=b'{"digests": []}', headers={"Content-Type": "text/plain"}))


def test_row_34_a_body_over_the_limit_is_413(client: TestClient, site: Site) -> None:
    body = b'{"digests": ["' + b"a" * site.settings.max_body_bytes + b'"]}'
    assert refused(client.post("/api/v1/blobs/missing", content=body, headers=JSON)) == "TOO_LARGE"


def test_row_45_the_token_is_asked_for_before_the_body(sqlite_site: Site) -> None:
    client = sqlite_site.client
    sqlite_site.token()
    large = b'{"manifest": "' + b"a" * sqlite_site.settings.max_body_bytes + b'"}'
    for method, path in (("POST", "/api/v1/versions"), ("PUT", "/api/v1/tags"), ("POST", "/api/v1/uploads")):
        for body in (b"{", large):
            answer = client.request(method, path, content=body, headers=JSON)
            assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED"), path


def test_row_45_who_needs_no_token_sends_little(sqlite_site: Site) -> None:
    body = b'{"digests": ["' + b"a" * MAX_OPEN_BYTES + b'"]}'
    assert refused(sqlite_site.client.post("/api/v1/blobs/missing", content=body, headers=JSON)) == "TOO_LARGE"
    manifest = small().manifest | {"metadata": {"description": "x" * MAX_OPEN_BYTES}}
    assert refused(sqlite_site.client.post("/api/v1/versions", json={"manifest": manifest})) == "MANIFEST_INVALID"


SMALL, LISTED = 1 << 16, 1 << 20
LIMITS = [
    ("PUT", "/api/v1/tags", SMALL),
    ("PUT", "/api/v1/yanks", SMALL),
    ("POST", "/api/v1/versions/delete", SMALL),
    ("POST", "/api/v1/uploads", SMALL),
    ("POST", "/api/v1/benchmarks", SMALL),
    ("POST", "/api/v1/blobs/missing", LISTED),
    ("POST", "/v2/graphql", LISTED),
    ("POST", "/api/v1/versions", 1 << 24),
]


@pytest.mark.parametrize(("method", "path", "limit"), LIMITS)
@pytest.mark.parametrize("has_length", [True, False])
def test_row_45_each_route_takes_what_it_can_need(
    sqlite_site: Site, method: str, path: str, limit: int, has_length: bool
) -> None:
    for size, is_refused in ((limit, False), (limit + 1, True)):
        body = b'{"stub": "' + b"a" * (size - 12) + b'"}'
        content = body if has_length else iter([body[:100], body[100:]])
        answer = sqlite_site.client.request(method, path, content=content, headers=JSON)
        assert (refused(answer) == "TOO_LARGE") == is_refused, size


MANY = {
    "numbers": b'{"manifest": {"name": "zoo:x", "files": [' + b"0," * 100_000 + b"0]}}",
    "lists": b'{"manifest": {"name": "zoo:x", "files": [' + b"[]," * 50_000 + b"[]]}}",
    "objects": b'{"manifest": {"name": "zoo:x", "files": [' + b"{}," * 50_000 + b"{}]}}",
    "depth": b'{"manifest": ' + b'{"a":[' * 50_000,
    "escapes": b'{"manifest": {"name": "' + b"\\u0041" * 100_000 + b'"}}',
}


@pytest.mark.parametrize("kind", MANY)
def test_row_45_a_body_of_many_values_is_refused_before_it_is_parsed(
    sqlite_site: Site, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(bodies, "json", None)
    assert refused(sqlite_site.client.post("/api/v1/versions", content=MANY[kind], headers=JSON)) == "TOO_LARGE"


def test_row_45_an_object_of_many_keys_is_refused(sqlite_site: Site) -> None:
    for keys, code in ((256, "MANIFEST_INVALID"), (257, "TOO_LARGE")):
        manifest = {str(number): 1 for number in range(keys)}
        assert refused(sqlite_site.client.post("/api/v1/versions", json={"manifest": manifest})) == code


def test_row_45_the_largest_manifest_is_within_the_bounds(sqlite_site: Site) -> None:
    folder = "/".join(["d" * 200] * 5)
    entry = {"sha256": DIGEST, "size_bytes": 1 << 40, "role": "sample-outputs"}
    files = [{"path": f"{folder}/{number:05}", **entry} for number in range(MAX_FILES)]
    manifest = small().manifest | {"files": files, "metadata": {"description": "\N{BIRD}" * 4_096}}
    answer = sqlite_site.client.post("/api/v1/versions", json={"manifest": manifest, "tags": ["a"] * 64})
    assert refused(answer) == "MANIFEST_BLOB_UNKNOWN"


def test_row_45_a_large_body_is_parsed_beside_the_event_loop(
    sqlite_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = list[bool]()

    def read(data: bytes) -> Any:
        loops.append(asyncio._get_running_loop() is not None)
        return read_json(data)

    monkeypatch.setattr(bodies, "read_json", read)
    body = b'{"digests": [' + b'"a",' * 50_000 + b'"a"]}'
    refused(sqlite_site.client.post("/api/v1/blobs/missing", content=body, headers=JSON))
    assert loops == [False]


def test_row_34_metadata_is_bounded(client: TestClient) -> None:
    small().upload(client)
    wrong: list[dict[str, Any]] = [
        {"description": "a\x00b"},
        {"description": "\ud800"},
        {"description": "x" * 1_000_000},
        {"domain": "a\nb"},
        {"domain": "\udfff"},
        {"parameters": 2**63},
        {"parameters": -1},
        {"parameters": 10**300},
        {"sparsity": 1.5},
        {"sparsity": -0.1},
        {"metrics": {"\x00": 1}},
        {"metrics": {"\ud83d": 1}},
        {"metrics": {str(number): 1 for number in range(65)}},
        {"base": "zoo:\x00"},
        {"unknown": 1},
    ]
    for metadata in wrong:
        body = json.dumps({"manifest": small().manifest | {"metadata": metadata}})
        assert refused(client.post("/api/v1/versions", content=body, headers=JSON)) == "MANIFEST_INVALID", (
            metadata.keys()
        )
    for manifest in (
        {},
        {"name": "zoo:x"},
        {"name": 1, "files": []},
        {"name": "zoo:x", "files": "x"},
        {"name": "zoo:x@v1"},
    ):
        assert refused(client.post("/api/v1/versions", json={"manifest": manifest})) == "MANIFEST_INVALID"
    for number in (0, -1, 2**31, 2**63, 10**30, 1.0, "1", True):
        body = json.dumps({"manifest": small().manifest, "version": number})
        assert refused(client.post("/api/v1/versions", content=body, headers=JSON)) == "REQUEST_INVALID", number
    assert client.get("/api/v1/models").json()["items"] == []


def test_row_34_edge_values_are_kept_exactly(client: TestClient) -> None:
    metadata = {
        "description": "\U0001f426 \u202e bidi \u0301 \x01 \x7f \ufffe 'quote' \\ %_",
        "parameters": 2**53,
        "sparsity": 0.0,
        "metrics": {"negative zero": -0.0, "large": 1.7976931348623157e308, "small": 5e-324, "\u00e9": 1},
    }
    view = small(metadata=metadata).publish(client).json()
    assert view["manifest"]["metadata"] == metadata
    assert client.get("/api/v1/resolve", params={"stub": "zoo:tiny"}).json() == view
    assert client.get("/models/tiny", headers={"Accept": "text/html"}).status_code == 200


@pytest.mark.parametrize("path", ["/api/v1/resolve", "/api/v1/versions"])
def test_row_34_a_hostile_stub_is_refused(client: TestClient, path: str) -> None:
    for stub in (
        "",
        "zoo:",
        "zoo:%00",
        "zoo:a%0Ab",
        "%ED%A0%80",
        "zoo:../../etc/passwd",
        "zoo:" + "a" * 600,
        "x",
        "zoo:a//b",
        "%FF",
    ):
        assert refused(client.get(f"{path}?stub={stub}")) in ("STUB_INVALID", "REQUEST_INVALID"), stub
    assert refused(client.get(path)) == "REQUEST_INVALID"
    assert refused(client.get(f"{path}?stub=zoo:a&stub=zoo:b")) == "REQUEST_INVALID"


def test_row_34_a_hostile_page_path_is_refused(client: TestClient) -> None:
    for path in ("%00", "..%2f..%2fetc%2fpasswd", "A", "a//b", "%ff", "%ED%A0%80", "x" * 600, "a@v1", "a@b@c"):
        for accept in ("text/html", "application/json"):
            assert client.get(f"/models/{path}", headers={"Accept": accept}).status_code in (400, 404, 422), path
    small("zoo:a").publish(client)
    assert client.get("/models/a?version=1").status_code == 200
    for version in ("0", "-1", "x", "1e3", "9" * 30, "%00", "2"):
        assert client.get(f"/models/a?version={version}").status_code in (400, 404, 422), version


def test_other_methods_are_405_with_allow(client: TestClient) -> None:
    for method, path, allowed in (
        ("DELETE", f"/api/v1/blobs/{DIGEST}", {"GET", "HEAD", "PUT"}),
        ("POST", "/api/v1/tags", {"PUT"}),
    ):
        answer = client.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
        assert set(answer.headers["allow"].split(", ")) >= allowed


def test_unknown_paths_are_404_problems(client: TestClient) -> None:
    for path in ("/api/v1/nothing", "/api/v2/health", "/api/v1/models/"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(["name", "alias", "files", "metadata", "schema_version"]), value=json_values)
def test_row_34_any_value_in_a_manifest_gets_an_answer(site: Site, field: str, value: Any) -> None:
    body = json.dumps({"manifest": small().manifest | {field: value}})
    answer = site.client.post("/api/v1/versions", content=body, headers=JSON)
    assert answer.status_code in (200, 201, 400, 409, 422)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200), path=st.sampled_from(["/api/v1/versions", "/api/v1/blobs/missing"]))
def test_row_34_any_bytes_get_a_problem(sqlite_site: Site, body: bytes, path: str) -> None:
    refused(sqlite_site.client.post(path, content=body, headers=JSON))
