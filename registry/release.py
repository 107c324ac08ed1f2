"""Which release of the registry this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("sparrow-zoo")
    except PackageNotFoundError:  # a checkout that was never installed
        return "0.1.0"


RELEASE = _installed()
