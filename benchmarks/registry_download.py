"""Times a large download from a registry on loopback: `zoo pull`, `curl` with `sha256sum`, and `hf download`.

    python -m benchmarks.registry_download fill    --folder store [--gib 1]
    python -m benchmarks.registry_download measure --folder store [--rounds 3] [--hf VENV/bin/hf]

Each is a command of its own, writes to the same disk, starts with nothing cached, and leaves verified bytes; `zoo pull`
also syncs them. `openssl` hashes by the CPU's SHA instructions, which Debian's `sha256sum` leaves unused. They take
turns; the ratios are medians of the rounds' ratios. It prints one JSON document.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import zoo
from benchmarks.registry_program import served
from registry import admin
from registry.settings import Settings

NAME = "big-one-none"
FILE = "training/model.safetensors"
BLOCK_BYTES = 1 << 20


def fill(settings: Settings, gib: float) -> None:
    """Publishes a model whose one file is random bytes."""
    model = settings.storage / "model"
    (model / "training").mkdir(parents=True)
    with (model / FILE).open("wb") as file:
        for _ in range(int(gib * 1024)):
            file.write(os.urandom(BLOCK_BYTES))
    admin.upgrade(settings)
    token = admin.create_token(settings, "benchmark", None, ["write:*"])
    with served(settings) as program:
        home = settings.storage / "home"
        zoo.publish(
            model, f"zoo:{NAME}", settings=zoo.Settings(home=home, cache=home, endpoint=program.url, token=token)
        )
    shutil.rmtree(model)


class Clients:
    """The commands that download the file, each timed in a folder of its own that was empty before."""

    def __init__(self, url: str, folder: Path, hf: Path) -> None:
        self._url, self._folder, self._hf = url, folder, hf
        (blob,) = (folder / "blobs").glob("??/??/*")
        self._digest = blob.name

    def zoo(self) -> float:
        """Seconds of `zoo pull`."""
        return self._timed([Path(sys.executable).with_name("zoo"), "pull", f"zoo:{NAME}"], ZOO_ENDPOINT=self._url)

    def curl(self, hasher: str) -> float:
        """Seconds of `curl` and then of a program that prints the file's digest."""
        address = f"{self._url}/files/{NAME}@v1/{FILE}"
        return self._timed(["sh", "-c", f"curl -sS -o file {address} && {hasher} file | grep -q {self._digest}"])

    def hf(self) -> float:
        """Seconds of `hf download`."""
        return self._timed([self._hf, "download", NAME, "--revision", "v1"], HF_ENDPOINT=self._url)

    def _timed(self, command: Sequence[str | Path], **env: str) -> float:
        home = self._folder / "home"
        home.mkdir()
        env = {**os.environ, **env, "ZOO_HOME": str(home), "HF_HOME": str(home)}
        os.sync()
        started = time.perf_counter()
        done = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, check=False)
        elapsed_s = time.perf_counter() - started
        assert done.returncode == 0, done.stderr
        self._check(home)
        shutil.rmtree(home)
        return elapsed_s

    def _check(self, home: Path) -> None:
        large = [path for path in home.rglob("*") if path.is_file() and path.stat().st_size >= BLOCK_BYTES]
        with max(large, key=lambda path: path.stat().st_size).open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == self._digest


def measure(clients: Clients, rounds: int) -> dict[str, Any]:
    """Medians in seconds, and the medians of the ratios within a round."""
    calls: dict[str, Callable[[], float]] = {
        "zoo": clients.zoo,
        "curl_sha256sum": lambda: clients.curl("sha256sum"),
        "curl_openssl": lambda: clients.curl("openssl dgst -sha256"),
        "hf": clients.hf,
    }
    times = [{name: call() for name, call in calls.items()} for _ in range(rounds)]
    seconds = {f"{name}_s": round(statistics.median(row[name] for row in times), 2) for name in calls}
    ratios = {
        f"zoo_to_{name}": round(statistics.median(row["zoo"] / row[name] for row in times), 3)
        for name in calls
        if name != "zoo"
    }
    return seconds | ratios


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("fill", "measure"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--gib", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hf", type=Path, default=Path(sys.executable).with_name("hf"))
    given = parser.parse_args()
    settings = Settings(storage=given.folder.resolve())
    if given.action == "fill":
        fill(settings, given.gib)
        return
    with served(settings) as program:
        print(json.dumps(measure(Clients(program.url, settings.storage, given.hf), given.rounds), indent=1))


if __name__ == "__main__":
    main()
