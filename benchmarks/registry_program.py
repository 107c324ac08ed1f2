"""A registry as a program of its own on loopback, for the benchmarks that talk to one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from registry.settings import Settings

SERVE = "import registry; from registry.settings import Settings; registry.serve(Settings.load())"
_STARTED = re.compile(r"^registry at (\S+)$", re.MULTILINE)


class RegistryProgram:
    """A registry over the settings' folder and database. It keeps its port when it is started again."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._port = settings, 0
        self._log = settings.storage / "registry.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        """Returns when it answers."""
        self._settings.storage.mkdir(parents=True, exist_ok=True)
        env = {
            **os.environ,
            "ZOO_REGISTRY_STORAGE": str(self._settings.storage),
            "ZOO_REGISTRY_DATABASE_URL": self._settings.database_url.replace("+psycopg", ""),
            "ZOO_REGISTRY_PORT": str(self._port),
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([sys.executable, "-c", SERVE], env=env, stderr=log)
        while not (found := _STARTED.search(self._log.read_text())):
            assert self._process.poll() is None, self._log.read_text()
            time.sleep(0.02)
        self.url, self._port = found[1], urlsplit(found[1]).port or 0

    def kill(self) -> None:
        """Ends it by SIGKILL."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ends it by SIGTERM."""
        if self._process:
            self._process.terminate()
            self._process.wait()

    def logged(self, pattern: str) -> int:
        """How many of the requests since the last start match, as its log writes them: METHOD PATH STATUS TIME."""
        return len(re.findall(pattern, self._log.read_text()))


@contextmanager
def served(settings: Settings) -> Iterator[RegistryProgram]:
    """A registry that runs while the block does."""
    program = RegistryProgram(settings)
    try:
        program.start()
        yield program
    finally:
        program.stop()
