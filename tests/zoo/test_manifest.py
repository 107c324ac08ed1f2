"""Manifests from strangers. Rows are those of the list of faults."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import ManifestError
from zoo.manifest import Manifest, Role

DIGEST = "sha256:" + "ab" * 32


def document(*paths: str, **changes: Any) -> dict[str, Any]:
    files = [{"path": path, "sha256": DIGEST, "size_bytes": 3, "role": "training"} for path in paths or ("training/a",)]
    return {"schema_version": 1, "name": "zoo:a", "files": files, **changes}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["schema_version", "name", "alias", "files", "metadata", "path", "sha256", "size_bytes", "role"]
)


@given(st.dictionaries(FIELDS | st.text(max_size=8), JSON, max_size=6))
def test_arbitrary_documents_raise_only_manifest_error(data: dict[str, Any]) -> None:
    try:
        manifest = Manifest.parse(data)
    except ManifestError:
        return
    assert Manifest.parse(manifest.to_json()) == manifest


@given(FIELDS, JSON)
def test_one_wrong_field_raises_only_manifest_error(field: str, value: Any) -> None:
    data = document()
    (data if field in data or field in ("alias", "metadata") else data["files"][0])[field] = value
    try:
        manifest = Manifest.parse(json.dumps(data))
    except ManifestError:
        return
    assert manifest.digest() == Manifest.parse(manifest.to_json()).digest()


@given(st.binary() | st.text())
def test_arbitrary_bytes_raise_only_manifest_error(data: bytes | str) -> None:
    with pytest.raises(ManifestError):
        Manifest.parse(data)


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "a/../x",
        "/etc/passwd",
        "a//b",
        "./a",
        "",
        "a/",
        "CON",
        "a/con.txt",
        "lpt1",
        "C:/x",
        "a\\b",
        "a\0b",
        "a\nb",
        "a.",
        "a ",
        "x" * 256,
        "a/" * 600 + "a",
        "é",
        "a:b",
        "\ud800",
    ],
)
def test_row_31_unsafe_paths_are_refused(path: str) -> None:
    with pytest.raises(ManifestError, match=r"files\.0\.path"):
        Manifest.parse(document(path))


@pytest.mark.parametrize("paths", [("a", "a"), ("a/b", "A/B"), ("a", "a/b"), ("A/b/c", "a/B")])
def test_row_31_duplicates_and_collisions_are_refused(paths: tuple[str, ...]) -> None:
    with pytest.raises(ManifestError, match=r"twice|both a file and a folder"):
        Manifest.parse(document(*paths))


def test_row_31_a_million_files_are_refused_fast() -> None:
    data = document()
    data["files"] = data["files"] * 1_000_000
    began = time.perf_counter()
    with pytest.raises(ManifestError, match="files"):
        Manifest.parse(data)
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
    "digest",
    [
        "sha256:../../x",
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha512:" + "a" * 128,
        "md5:" + "a" * 32,
        "a" * 64,
        "sha256:" + "a" * 64 + "\n",
        "",
    ],
)
def test_row_32_other_digests_are_refused(digest: str) -> None:
    data = document()
    data["files"][0]["sha256"] = digest
    with pytest.raises(ManifestError, match=r"files\.0\.sha256"):
        Manifest.parse(data)


def test_row_32_two_files_may_share_a_digest() -> None:
    assert len(Manifest.parse(document("training/a", "deployment/a")).files) == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema_version", 2),
        ("name", "zoo:a@v1"),
        ("name", "zoo:a?recipe=x"),
        ("alias", "b"),
        ("files", []),
        ("extra", 1),
        ("metadata", {"sparsity": 1.5}),
        ("metadata", {"sparsity": float("nan")}),
        ("metadata", {"metrics": {"f1": float("inf")}}),
        ("metadata", {"license": "a\nb"}),
        ("metadata", {"colour": "red"}),
        ("metadata", {"base": "bert"}),
    ],
)
def test_wrong_fields_are_named(field: str, value: object) -> None:
    with pytest.raises(ManifestError, match=field):
        Manifest.parse(document(**{field: value}))


def test_duplicate_keys_of_json_cannot_smuggle_a_second_digest() -> None:
    text = json.dumps(document()).replace('"name": "zoo:a"', '"name": "zoo:a", "name": "zoo:b"')
    manifest = Manifest.parse(text)
    assert Manifest.parse(manifest.to_json()) == manifest


def test_digest_depends_on_content_and_not_on_order() -> None:
    assert Manifest.parse(document("a", "b", "c")) == Manifest.parse(document("c", "a", "b"))
    assert Manifest.parse(document("a", "b", "c")).digest() == Manifest.parse(document("c", "a", "b")).digest()
    assert Manifest.parse(document("a", "b")).digest() != Manifest.parse(document("a", "c")).digest()


def test_roles_and_sizes() -> None:
    data = document("training/b", "training/a", "recipe.md")
    data["files"][2]["role"] = "recipe"
    manifest = Manifest.parse(data)
    assert [entry.path for entry in manifest.with_role(Role.TRAINING)] == ["training/a", "training/b"]
    assert manifest.size_bytes == 9
    assert manifest.full_name == "a"
