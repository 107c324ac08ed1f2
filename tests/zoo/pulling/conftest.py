"""A registry with a model, and a cache to pull into."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import zoo
from tests.zoo.fault_server import FaultServer
from tests.zoo.pulling.models import LONG, QUICK, SHORT, build
from zoo.settings import Settings


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
