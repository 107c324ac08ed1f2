"""A server that misbehaves, and a cache to fetch into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.zoo.fault_server import FaultServer
from tests.zoo.transfer.one_blob import BLOB, QUICK
from zoo.cache import Cache
from zoo.settings import Settings


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        running.add(BLOB)
        yield running


@pytest.fixture
def settings(server: FaultServer, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", cache=tmp_path / "cache", endpoint=server.url, patience=QUICK)


@pytest.fixture
def cache(settings: Settings) -> Cache:
    return Cache.open(settings.cache)
