"""Every file under a stable URL: with curl as it comes, and header by header."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.registry.builders import ALIAS, LONG, bert, digest_of, small
from tests.registry.conftest import Program, Site

NAME = ALIAS.removeprefix("zoo:")
MODEL = bert().files["training/model.safetensors"][1]


def _published(site: Site) -> Site:
    assert bert().publish(site.client).status_code == 201
    return site


@pytest.mark.parametrize("name", [NAME, LONG.removeprefix("zoo:")])
@pytest.mark.parametrize("pin", ["v1", "latest"])
def test_a_file_has_a_url_under_each_name_and_pin(site: Site, name: str, pin: str) -> None:
    answer = _published(site).client.get(f"/files/{name}@{pin}/training/model.safetensors")
    assert answer.content == MODEL
    assert answer.headers["etag"] == f'"{digest_of(MODEL)}"'
    assert answer.headers["content-disposition"] == 'attachment; filename="model.safetensors"'
    assert ("immutable" in answer.headers["cache-control"]) == (pin == "v1")


def test_a_digest_is_a_pin_and_a_scope_part_of_the_name(sqlite_site: Site) -> None:
    folder = small("zoo:@acme/tiny")
    digest = folder.publish(sqlite_site.client).json()["digest"]
    assert sqlite_site.client.get(f"/files/@acme/tiny@{digest}/training/weights.txt").text == "weights"


def test_checksum_headers_are_those_of_rfc_9530(sqlite_site: Site) -> None:
    client, url = _published(sqlite_site).client, f"/files/{NAME}@v1/training/model.safetensors"
    expected = f"sha-256=:{base64.b64encode(hashlib.sha256(MODEL).digest()).decode()}:"
    whole, part, head = client.get(url), client.get(url, headers={"Range": "bytes=5-9"}), client.head(url)
    assert [answer.headers["repr-digest"] for answer in (whole, part, head)] == [expected] * 3
    assert whole.headers["content-digest"] == expected
    assert "content-digest" not in part.headers  # it would be the digest of five bytes
    assert (part.status_code, part.content, head.content) == (206, MODEL[5:10], b"")
    assert client.get(url, headers={"If-None-Match": f'"other", W/{whole.headers["etag"]}'}).status_code == 304


@pytest.mark.parametrize(
    ("address", "code"),
    [
        (f"{NAME}/model.md", "FILE_UNKNOWN"),
        (f"{NAME}@v1/none.md", "FILE_UNKNOWN"),
        (f"{NAME}@v1/../model.md", "FILE_UNKNOWN"),
        (f"{NAME}@v2/model.md", "VERSION_UNKNOWN"),
        ("nothing@v1/model.md", "MODEL_UNKNOWN"),
        ("a//b@v1/model.md", "STUB_INVALID"),
        (f"{NAME}@V1/model.md", "STUB_INVALID"),
    ],
)
def test_a_wrong_address_is_refused_by_name(sqlite_site: Site, address: str, code: str) -> None:
    answer = _published(sqlite_site).client.get(f"/files/{address.replace('..', '%2e%2e')}")
    assert (answer.status_code in (400, 404), answer.json()["code"]) == (True, code)


def test_curl_downloads_resumes_and_verifies(shared_program: Program, tmp_path: Path) -> None:
    """`curl -C -` goes on where a download stopped; sha256sum checks the list that the registry gives."""
    curl = shutil.which("curl")
    assert curl, "install curl"
    with shared_program.client() as client:
        assert bert().publish(client).status_code in (200, 201)
    url = f"{shared_program.url}/files/{NAME}@v1"
    run = [curl, "--fail", "--silent", "--show-error"]
    for path, (_, data) in bert().files.items():
        target = tmp_path / path
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data[: len(data) // 3])
        subprocess.run([*run, "-C", "-", "-o", target, f"{url}/{path}"], check=True)
    sums = subprocess.run([*run, url], check=True, capture_output=True).stdout
    done = subprocess.run(
        ["sha256sum", "--check", "--strict"], input=sums, cwd=tmp_path, check=True, capture_output=True
    )
    assert done.stdout.count(b": OK") == len(bert().files)
