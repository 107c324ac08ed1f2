"""A registry with a model, a faulty way to it, and a cache to pull into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import zoo
from tests.zoo.fault_server import FaultServer
from tests.zoo.live_registry import serving
from tests.zoo.pulling.models import LONG, QUICK, SHORT, build
from zoo.settings import Settings


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("registry")) as url:
        yield url


@pytest.fixture
def proxy(registry: str) -> Iterator[FaultServer]:
    """The real registry behind a server that counts requests and can misbehave."""
    with FaultServer(upstream=registry).running() as running:
        yield running


@pytest.fixture
def settings(proxy: FaultServer, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", cache=tmp_path / "cache", endpoint=proxy.url, patience=QUICK)


@pytest.fixture
def offline(settings: Settings) -> Settings:
    return replace(settings, offline=True)


@pytest.fixture(scope="module")
def published(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build(tmp_path_factory.mktemp("model"))
    settings = Settings(home=folder, cache=folder.parent / "cache", endpoint=registry)
    zoo.publish(folder, LONG, alias=SHORT, tags=["prod"], settings=settings)
    return folder
