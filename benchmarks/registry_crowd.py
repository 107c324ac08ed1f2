"""Pulls one model by many processes into one cache at the same moment.

    python -m benchmarks.registry_crowd [--processes 32] [--mib 500]

The registry's log counts the downloads. Each process must end well, find the same folder, and every byte be right. It
prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import zoo
from benchmarks.registry_program import served
from registry import admin
from registry.settings import Settings
from zoo.cache import Cache
from zoo.disk import hash_file

NAME = "zoo:crowded-one-none"
MIB = 1 << 20
WORKER = """
import sys, zoo, zoo.client, zoo.download
from pathlib import Path
settings = zoo.Settings(home=Path(sys.argv[1]), cache=Path(sys.argv[1]), endpoint=sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
print(zoo.pull(sys.argv[3], settings=settings))
"""


def publish(folder: Path, settings: Settings, url: str, sizes: list[int]) -> None:
    """A model of random files."""
    (folder / "training").mkdir(parents=True)
    for number, size_bytes in enumerate(sizes):
        with (folder / f"training/{number}.safetensors").open("wb") as file:
            for start in range(0, size_bytes, MIB):
                file.write(os.urandom(min(MIB, size_bytes - start)))
    token = admin.create_token(settings, "benchmark", None, ["write:*"])
    cache = folder.with_name("publisher")
    zoo.publish(folder, NAME, settings=zoo.Settings(home=cache, cache=cache, endpoint=url, token=token))


def pull_at_once(cache: Path, url: str, processes: int) -> set[str]:
    """The folders that the processes print; each has imported what it needs before all are told to begin."""
    command = [sys.executable, "-c", WORKER, str(cache), url, NAME]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    crowd = [subprocess.Popen(command, text=True, **pipes) for _ in range(processes)]
    for process in crowd:
        assert process.stdout
        process.stdout.readline()
    for process in crowd:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    folders = {process.communicate(timeout=300)[0].strip() for process in crowd}
    assert [process.returncode for process in crowd] == [0] * processes
    return folders


def measure(folder: Path, processes: int, sizes: list[int]) -> dict[str, Any]:
    """Publishes, pulls at once, checks every byte and counts the downloads."""
    settings = Settings(storage=folder / "store")
    admin.upgrade(settings)
    with served(settings) as program:
        publish(folder / "model", settings, program.url, sizes)
        started = time.perf_counter()
        (found,) = pull_at_once(folder / "cache", program.url, processes)
        seconds = time.perf_counter() - started
        downloads = program.logged(r" GET /api/v1/blobs/\S+ 20[06] ")
    (manifest,) = Cache(folder / "cache").manifests()
    assert {entry.path: entry.sha256 for entry in manifest.files} == {
        path.relative_to(found).as_posix(): hash_file(path) for path in Path(found).rglob("*") if path.is_file()
    }
    files = len(manifest.files)
    return {"processes": processes, "files": files, "downloads": downloads, "seconds": round(seconds, 1)}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=32)
    parser.add_argument("--mib", type=int, default=500)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), given.processes, [10_000, 1_000_000, given.mib * MIB])
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
