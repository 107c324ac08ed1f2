"""The registry: a service that stores models and recipes under stubs.

`Settings`, `serve` and `create_app` live in `registry.settings`, `registry.server` and `registry.app`; importing this
package loads none of them.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.settings import Settings

try:
    __version__ = version("sparrow-zoo")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0.1.0"

__all__ = ["__version__", "serve"]


def serve(settings: Settings) -> None:
    """Serves the registry until SIGTERM or SIGINT; raises `RegistryError` if it can't start."""
    from registry.server import serve as run

    run(settings)
