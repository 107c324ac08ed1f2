"""The registry: a service that stores models and recipes under stubs.

`Settings`, `serve` and `create_app` live in `registry.settings`, `registry.server` and `registry.app`; importing this
package loads none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.settings import Settings

__all__ = ["serve"]


def serve(settings: Settings) -> None:
    """Serves the registry until SIGTERM or SIGINT; raises `RegistryError` if it can't start."""
    from registry.server import serve as run

    run(settings)
