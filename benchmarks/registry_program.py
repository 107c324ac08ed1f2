"""A registry as a program of its own on loopback, for the benchmarks that talk to one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from registry.settings import Settings

SERVE = "import registry; from registry.settings import Settings; registry.serve(Settings.load())"


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """The address of a registry over the settings' folder and database; it ends with the block."""
    env = {
        **os.environ,
        "ZOO_REGISTRY_STORAGE": str(settings.storage),
        "ZOO_REGISTRY_DATABASE_URL": settings.database_url.replace("+psycopg", ""),
        "ZOO_REGISTRY_PORT": "0",
    }
    with subprocess.Popen([sys.executable, "-c", SERVE], env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        line = next(line for line in process.stderr if line.startswith("registry at "))
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        try:
            yield line.split()[-1]
        finally:
            process.terminate()
            drain.terminate()
