"""Models from one registry into another that has its own: by a bundle where no network leads."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from registry import admin
from registry.adopt import VersionRecord
from registry.errors import (
    AliasTakenError,
    BundleError,
    DamagedBlobError,
    RegistryError,
    UnknownModelError,
    VersionExistsError,
)
from registry.settings import Settings
from tests.registry.builders import ALIAS, LONG, Folder, bert, digest_of, small
from tests.registry.conftest import ROOT, Site, open_site
from tests.registry.test_bundle import Make, make, rewrite

__all__ = ["make"]
REASON = "wrong tokenizer"
STORES = [(("sqlite", "folder"), ("postgresql", "s3")), (("postgresql", "folder"), ("sqlite", "folder"))]
LITE = ("sqlite", "folder")


def fill(settings: Settings) -> None:
    """Two models: one with a tag and a yanked version, one private."""
    with open_site(settings) as site:
        said = {"state": "passed", "detail": "1 in ONNX Runtime"}
        bert().publish(site.client, tags=["prod"], samples=said)
        bert(revision=2).publish(site.client)
        bert(revision=3).publish(site.client)
        assert site.client.put("/api/v1/yanks", json={"stub": f"{LONG}@v3", "reason": REASON}).status_code == 200
        small("zoo:@acme/secret", "secret").publish(site.client)
    admin.set_scope(settings, "@acme", private=True)


def put(settings: Settings, what: str, body: dict[str, Any]) -> None:
    """Changes something with a new token: there is a private scope, so nobody writes without."""
    with open_site(settings) as site:
        headers = {"Authorization": f"Bearer {site.token(uuid.uuid4().hex)}"}
        assert site.client.put(f"/api/v1/{what}", json=body, headers=headers).status_code == 200


def resolve(settings: Settings, stub: str) -> Any:
    with open_site(settings) as site:
        return site.client.get("/api/v1/resolve", params={"stub": stub}).json()


@pytest.mark.parametrize(("source", "target"), STORES)
def test_a_bundle_brings_models_beside_those_that_are_there(
    make: Make, source: tuple[str, str], target: tuple[str, str], tmp_path: Path
) -> None:
    old, new = make(*source), make(*target)
    fill(old)
    with open_site(new) as site:
        small("zoo:own", "own").publish(site.client)
    written = admin.export_bundle(old, tmp_path / "models.tar")
    assert (written.versions, written.blobs) == (4, 14)
    report = admin.import_bundle(new, tmp_path / "models.tar")
    assert (report.versions, report.blobs, report.added, report.changed) == (4, 14, 4, 0)
    for stub in (LONG, ALIAS, f"{LONG}@prod", f"{LONG}@v1", f"{LONG}@v3"):
        assert resolve(new, stub) == resolve(old, stub)
    assert resolve(new, f"{LONG}@v3")["yank_reason"] == REASON
    assert resolve(new, LONG)["version"] == 2
    assert resolve(new, "zoo:own")["version"] == 1
    assert admin.scrub(new).is_sound
    again = admin.import_bundle(new, tmp_path / "models.tar")
    assert (again.added, again.changed) == (0, 0)
    assert [entry.action for entry in admin.audit(new)].count("added") == 4
    with open_site(new) as site:
        own = {"Authorization": f"Bearer {site.token()}"}
        for _, data in bert(revision=4).files.values():
            site.client.put(f"/api/v1/blobs/{digest_of(data)}", content=data, headers=own)
        later = site.client.post("/api/v1/versions", json={"manifest": bert(revision=4).manifest}, headers=own)
        assert later.json()["version"] == 4


def test_a_selection_is_exported_by_model_or_by_version(make: Make, tmp_path: Path) -> None:
    old, new = make(*LITE), make(*LITE)
    fill(old)
    assert admin.export_bundle(old, tmp_path / "one.tar", [f"{ALIAS}@prod"]).versions == 1
    assert admin.export_bundle(old, tmp_path / "all.tar", [LONG, f"{LONG}@v2"]).versions == 3
    assert admin.import_bundle(new, tmp_path / "one.tar").added == 1
    assert admin.import_bundle(new, tmp_path / "all.tar").added == 2
    with pytest.raises(UnknownModelError):
        admin.export_bundle(old, tmp_path / "none.tar", ["zoo:nobody"])
    assert not (tmp_path / "none.tar").exists()


def test_row_36_an_imported_private_blob_is_nobody_s_to_read(make: Make, tmp_path: Path) -> None:
    old, new = make(*LITE), make(*LITE)
    fill(old)
    admin.set_scope(new, "@acme", private=True)
    admin.export_bundle(old, tmp_path / "models.tar")
    admin.import_bundle(new, tmp_path / "models.tar")
    with open_site(new) as site:
        assert site.client.get("/api/v1/resolve?stub=zoo:@acme/secret").json()["code"] == "MODEL_UNKNOWN"
        assert site.client.get(f"/api/v1/blobs/{digest_of(b'secret')}").status_code == 404
        assert site.client.get("/api/v1/resolve", params={"stub": LONG}).status_code == 200


def test_a_later_bundle_tells_of_yanks_and_leaves_tags_that_point_elsewhere(make: Make, tmp_path: Path) -> None:
    old, new = make(*LITE), make(*LITE)
    fill(old)
    admin.export_bundle(old, tmp_path / "models.tar", [LONG])
    admin.import_bundle(new, tmp_path / "models.tar")
    put(new, "tags", {"stub": f"{LONG}@v2", "tag": "prod"})
    put(old, "yanks", {"stub": f"{LONG}@v2", "reason": REASON})
    put(old, "yanks", {"stub": f"{LONG}@v3", "reason": None})
    admin.export_bundle(old, tmp_path / "models.tar", [LONG])
    report = admin.import_bundle(new, tmp_path / "models.tar")
    assert (report.added, report.changed) == (0, 2)
    assert resolve(new, f"{LONG}@prod")["version"] == 2
    assert resolve(new, f"{LONG}@v2")["yank_reason"] == REASON
    assert resolve(new, LONG)["version"] == 3


def test_a_version_that_was_deleted_here_stays_deleted(make: Make, tmp_path: Path) -> None:
    old, new = make(*LITE), make(*LITE)
    fill(old)
    admin.export_bundle(old, tmp_path / "models.tar", [f"{LONG}@v2"])
    admin.import_bundle(new, tmp_path / "models.tar")
    with open_site(new) as site:
        gone = {"stub": f"{LONG}@v2", "reason": "a mistake"}
        assert site.client.post("/api/v1/versions/delete", json=gone).status_code == 200
    assert admin.import_bundle(new, tmp_path / "models.tar").added == 0
    assert resolve(new, f"{LONG}@v2")["code"] == "VERSION_DELETED"


OWN: dict[str, tuple[type[RegistryError], Callable[[Any], Any]]] = {
    "the number has other bytes": (VersionExistsError, lambda client: small(LONG, "other").publish(client)),
    "the alias is another's": (AliasTakenError, lambda client: small(ALIAS, "other").publish(client)),
    "the same bytes have another number": (
        VersionExistsError,
        lambda client: [small(LONG, "x").publish(client, version=9), bert().publish(client, version=7)],
    ),
}


@pytest.mark.parametrize("case", OWN)
def test_a_bundle_that_contradicts_what_is_here_changes_nothing(make: Make, tmp_path: Path, case: str) -> None:
    """The first version of the bundle is fit, and stays out with the rest."""
    old, new = make(*LITE), make(*LITE)
    with open_site(old) as site:
        small("zoo:first", "first").publish(site.client)
    fill(old)
    error, publish = OWN[case]
    with open_site(new) as site:
        publish(site.client)
        before = site.client.get("/api/v1/models").json()
    admin.export_bundle(old, tmp_path / "models.tar")
    with pytest.raises(error):
        admin.import_bundle(new, tmp_path / "models.tar")
    with open_site(new) as site:
        assert site.client.get("/api/v1/models").json() == before


def _edited(data: bytes, **changes: Any) -> bytes:
    lines = [json.loads(line) for line in data.splitlines()]
    lines[-1] |= changes
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


Change = Callable[[str, bytes], tuple[str, bytes] | None]


def on_versions(**changes: Any) -> Change:
    return lambda name, data: (name, _edited(data, **changes) if name == "versions.jsonl" else data)


SECRET = digest_of(b"secret")[7:]
CHANGES: dict[str, tuple[str, Change]] = {
    "wrong bytes": ("damaged", lambda name, data: (name, bytes(len(data)) if name.startswith("blobs/") else data)),
    "a blob is missing": ("blobs aren't here", lambda name, data: None if name.endswith(SECRET) else (name, data)),
    "versions are missing": ("cut off", lambda name, data: None if name == "versions.jsonl" else (name, data)),
    "a version is missing": (
        "cut off",
        lambda name, data: (name, data[: data.rindex(b"\n", 0, -1) + 1] if name == "versions.jsonl" else data),
    ),
    "a line is cut": ("can't be read", lambda name, data: (name, data[:-9] if name == "versions.jsonl" else data)),
    "row_32 another digest": ("another digest", on_versions(digest=digest_of(b"x"))),
    "another name": ("another digest or name", on_versions(name="zoo:other")),
    "row_32 a digest that is a path": ("can't be read", on_versions(digest="sha256:../../x")),
    "a number out of bounds": ("can't be read", on_versions(version=0)),
    "a tag that is none": ("is no tag", on_versions(tags=["v9"])),
    "row_33 a path leads out": (
        "belongs in none",
        lambda name, data: ("../../evil" if name.startswith("blobs/") else name, data),
    ),
    "a backup": ("no bundle of that kind", lambda name, data: None if name == "bundle.json" else (name, data)),
    "another format": (
        "format 2",
        lambda name, data: (name, data.replace(b'"model_bundle": 1', b'"model_bundle": 2')),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_row_33_a_bundle_that_was_changed_imports_nothing(make: Make, tmp_path: Path, change: str) -> None:
    old, new = make(*LITE), make(*LITE)
    fill(old)
    path = tmp_path / "models.tar"
    admin.export_bundle(old, path)
    reason, edit = CHANGES[change]
    rewrite(path, edit)
    with pytest.raises(RegistryError, match=reason):
        admin.import_bundle(new, path)
    with open_site(new) as site:
        assert site.client.get("/api/v1/models").json()["items"] == []
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.99])
def test_a_bundle_that_is_cut_off_imports_nothing(make: Make, tmp_path: Path, share: float) -> None:
    old, new = make(*LITE), make(*LITE)
    fill(old)
    path = tmp_path / "models.tar"
    admin.export_bundle(old, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(BundleError):
        admin.import_bundle(new, path)
    with open_site(new) as site:
        assert site.client.get("/api/v1/models").json()["items"] == []


def publish_before_the_gate(settings: Settings, folder: Folder) -> None:
    """As an older registry published it, which had no gate."""
    with pytest.MonkeyPatch.context() as older, open_site(settings) as site:
        older.setattr("registry.service.check_version", lambda *_: [])
        assert folder.publish(site.client).status_code == 201


@pytest.mark.parametrize(("source", "target"), STORES)
def test_a_version_that_the_gate_refuses_is_named_and_the_others_come(
    make: Make, source: tuple[str, str], target: tuple[str, str], tmp_path: Path
) -> None:
    old, new = make(*source), make(*target)
    publish_before_the_gate(old, Folder("zoo:junk", {"deployment/model.onnx": ("deployment", b"junk")}))
    fill(old)
    admin.export_bundle(old, tmp_path / "models.tar")
    report = admin.import_bundle(new, tmp_path / "models.tar")
    assert (report.versions, report.added) == (5, 4)
    assert list(report.refused) == ["zoo:junk@v1"]
    assert "deployment/model.onnx: it is no ONNX model" in report.refused["zoo:junk@v1"]
    assert resolve(new, "zoo:junk")["code"] == "MODEL_UNKNOWN"
    assert resolve(new, LONG) == resolve(old, LONG)
    assert admin.import_bundle(new, tmp_path / "models.tar").refused == report.refused


def test_row_51_a_damaged_model_is_not_exported(make: Make, tmp_path: Path) -> None:
    settings = make(*LITE)
    fill(settings)
    path = next((settings.storage / "blobs").rglob(SECRET))
    path.write_bytes(b"sEcret")
    with pytest.raises(DamagedBlobError):
        admin.export_bundle(settings, tmp_path / "models.tar")
    assert list(tmp_path.glob("*models.tar*")) == []


def test_a_folder_of_plain_files_is_exported_by_command(make: Make, tmp_path: Path) -> None:
    settings = make(*LITE)
    fill(settings)

    def export(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "cli.py", "registry", "export", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    for line in ([tmp_path / "one", "--static"], ["--static", tmp_path / "two"]):
        done = export(*line, "--folder", settings.storage)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "one/api/v1/models").read_bytes() == (tmp_path / "two/api/v1/models").read_bytes()
    done = export("plain", LONG, "--static", "--folder", settings.storage)
    assert (done.returncode, f"leave {LONG} out" in done.stderr.replace("\n", " ")) == (2, True), done.stderr


def test_an_operator_exports_and_imports_by_commands(make: Make, tmp_path: Path) -> None:
    def zoo(*arguments: object, code: int = 0) -> Any:
        command = [sys.executable, "cli.py", "--json", "registry", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout) if code == 0 else done.stderr

    old = make(*LITE)
    publish_before_the_gate(old, Folder("zoo:junk", {"deployment/model.onnx": ("deployment", b"junk")}))
    fill(old)
    bundle, target = tmp_path / "models.tar", ("--folder", tmp_path / "target")
    assert zoo("export", bundle, f"{LONG}@v1", "zoo:@acme/secret", "--folder", old.storage)["versions"] == 2
    assert zoo("import", bundle, *target)["added"] == 2
    assert zoo("import", bundle, *target)["added"] == 0
    zoo("export", tmp_path / "more.tar", "zoo:junk", f"{LONG}@v2", "--folder", old.storage)
    assert "left out: zoo:junk@v1: deployment/model.onnx" in zoo("import", tmp_path / "more.tar", *target, code=1)
    assert zoo("import", bundle, *target)["added"] == 0
    assert "no model zoo:nobody" in zoo("export", bundle, "zoo:nobody", "--folder", old.storage, code=1)
    assert "target" in zoo("export", "--folder", old.storage, code=2)
    with tarfile.open(tmp_path / "backup.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("x"), io.BytesIO())
    assert "no bundle" in zoo("import", tmp_path / "backup.tar", *target, code=1)


@pytest.mark.parametrize("time", ["2026-11-01T12:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_version_of_a_time_that_can_t_be_stored_is_refused(sqlite_site: Site, time: str) -> None:
    document = small().publish(sqlite_site.client).json()
    assert VersionRecord.model_validate(document).created_at.tzinfo is not None
    with pytest.raises(ValidationError, match="created_at"):
        VersionRecord.model_validate({**document, "created_at": time})
