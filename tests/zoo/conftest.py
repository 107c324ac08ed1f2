"""A real registry, and a faulty way to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.zoo.fault_server import FaultServer
from tests.zoo.live_registry import serving


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("registry")) as url:
        yield url


@pytest.fixture
def proxy(registry: str) -> Iterator[FaultServer]:
    """The real registry behind a server that counts requests and can misbehave."""
    with FaultServer(upstream=registry).running() as running:
        yield running
