"""The one file that is downloaded, and what is to be found afterwards."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.zoo.fault_server import noise
from zoo.cache import Cache
from zoo.client import RegistryClient
from zoo.download import fetch_file
from zoo.manifest import FileEntry, Manifest, Role
from zoo.settings import Patience, Settings

QUICK = Patience(
    connect_s=1, read_s=1, request_s=1, total_s=2, attempts=4, first_wait_s=0.01, longest_wait_s=0.05, slow_window_s=0.4
)
BLOB = noise(7, 200_001)
DIGEST = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"
ENTRY = FileEntry(path="training/model.safetensors", sha256=DIGEST, size_bytes=len(BLOB), role=Role.TRAINING)
MANIFEST = Manifest(name="zoo:a", files=(ENTRY,))


def fetch(settings: Settings, cache: Cache, manifest: Manifest = MANIFEST) -> list[int]:
    seen: list[int] = []
    with RegistryClient(settings) as client:
        fetch_file(lambda: client.blobs, cache, manifest, manifest.files[0], settings.patience, seen.append)
    return seen


def placed(cache: Cache) -> Path:
    return cache.model_folder(MANIFEST) / ENTRY.path


def assert_whole(cache: Cache) -> None:
    assert placed(cache).read_bytes() == BLOB
    assert list((cache.root / "partial").iterdir()) == []


def assert_absent(cache: Cache) -> None:
    assert not placed(cache).exists()
    assert list((cache.root / "partial").glob("*.owner")) == []
