"""Times `zoo pull` of a stub that is cached, as a command and within a running process.

    python -m benchmarks.registry_pull [--zoo VENV/bin/zoo] [--rounds 15]

A pin by digest asks nobody; a pin by number and a name without a pin ask the registry, on loopback, once. Other
packages of an environment cost time too: httpcore loads trio where that is installed, which the tests' packages bring
along; `--zoo` names the command of an environment as users have it. It prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import zoo
from benchmarks.registry_program import served
from registry import admin
from registry.settings import Settings

NAME = "zoo:cached-one-none"
FILES = 8


def publish(settings: Settings, url: str, folder: Path) -> str:
    """Publishes a small model, pulls it, and returns its digest."""
    for number in range(FILES):
        path = folder / f"model/training/weights{number}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(10_000))
    token = admin.create_token(settings, "benchmark", None, ["write:*"])
    writer = zoo.Settings(home=folder, cache=folder / "cache", endpoint=url, token=token)
    digest = zoo.publish(folder / "model", NAME, settings=writer).digest
    zoo.pull(NAME, settings=writer)
    return digest


def median_ms(call: Callable[[], object], rounds: int) -> float:
    """The median of a call's times in milliseconds, the first one left out."""
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        call()
        times.append(1_000 * (time.perf_counter() - started))
    return round(statistics.median(times[1:]), 2)


def measure(url: str, folder: Path, digest: str, command: Path, rounds: int) -> dict[str, float]:
    """Milliseconds for each kind of pin."""
    settings = zoo.Settings(home=folder, cache=folder / "cache", endpoint=url)
    env = {**os.environ, "ZOO_HOME": str(folder), "ZOO_ENDPOINT": url}
    stubs = {"digest": f"{NAME}@{digest}", "number": f"{NAME}@v1", "unpinned": NAME}
    found = {}
    for pin, stub in stubs.items():
        arguments = [command, "pull", stub]
        found[f"command_{pin}_ms"] = median_ms(
            lambda arguments=arguments: subprocess.run(arguments, env=env, capture_output=True, check=True), rounds
        )
        found[f"process_{pin}_ms"] = median_ms(lambda stub=stub: zoo.resolve(stub, settings=settings), 10 * rounds)
    return found


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path(sys.executable).with_name("zoo"))
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = Settings(storage=folder / "store")
        admin.upgrade(settings)
        with served(settings) as program:
            digest = publish(settings, program.url, folder)
            print(json.dumps(measure(program.url, folder, digest, given.zoo.absolute(), given.rounds), indent=1))


if __name__ == "__main__":
    main()
