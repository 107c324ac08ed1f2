"""Kills processes at random moments, looks at what they leave, and lets the next run complete.

    python -m benchmarks.registry_kills pull     [--kills 200]    kills `zoo.pull`
    python -m benchmarks.registry_kills publish  [--kills 200]    kills `zoo.publish`
    python -m benchmarks.registry_kills registry [--kills 200]    kills the registry while a model is being published

A kill is SIGKILL, at a random moment of the time that the same work takes undisturbed; one that comes too late is
repeated. Afterwards every file in a cache has the bytes of its digest, every version that can be seen is whole, and the
next run completes with the same result as if nothing had happened. It prints one JSON document, and stops at the first
failure.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import zoo
from benchmarks.registry_program import RegistryProgram
from registry import admin
from registry.settings import Settings
from zoo.cache import Cache
from zoo.client import RegistryClient
from zoo.disk import hash_file
from zoo.manifest import Manifest
from zoo.stub import Stub

NAME = "zoo:killed-one-none"
MIB = 1 << 20
WORKER = """
import sys, zoo, zoo.client, zoo.download, zoo.publish
from pathlib import Path
action, home, url, token, model = sys.argv[1:]
settings = zoo.Settings(home=Path(home), cache=Path(home), endpoint=url, token=token)
print("ready", flush=True)
sys.stdin.readline()
zoo.pull("{name}", settings=settings) if action == "pull" else zoo.publish(model, "{name}", settings=settings)
""".replace("{name}", NAME)


@dataclass(frozen=True)
class Bench:
    """A registry, a cache and a model folder, all in one folder; `draw` decides the moments and the bytes."""

    program: RegistryProgram
    registry: Settings
    user: zoo.Settings
    model: Path
    draw: random.Random

    @classmethod
    def made(cls, folder: Path, seed: int) -> Bench:
        """Starts the registry; a model has yet to be written."""
        registry = Settings(storage=folder / "store")
        admin.upgrade(registry)
        token = admin.create_token(registry, "benchmark", None, ["write:*"])
        program = RegistryProgram(registry)
        program.start()
        user = zoo.Settings(home=folder / "cache", cache=folder / "cache", endpoint=program.url, token=token)
        return cls(program, registry, user, folder / "model", random.Random(seed))

    def write_model(self, size_bytes: int) -> None:
        """A model of two small files and one large one, all with new bytes."""
        (self.model / "training").mkdir(parents=True, exist_ok=True)
        for number, size in enumerate((2_000, 100_000, size_bytes)):
            (self.model / f"training/{number}.safetensors").write_bytes(self.draw.randbytes(size))

    def start(self, action: str) -> subprocess.Popen[str]:
        """A process that is about to pull or publish, and has imported what it needs."""
        settings = [str(self.user.home), self.user.endpoint, self.user.token or "", str(self.model)]
        command = [sys.executable, "-c", WORKER, action, *settings]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, text=True, **pipes)
        assert process.stdout
        process.stdout.readline()
        return process

    def complete(self, action: str) -> float:
        """Lets a run come to its end; returns its seconds."""
        process = self.start(action)
        started = time.perf_counter()
        _, errors = process.communicate("go\n", timeout=120)
        assert process.returncode == 0, errors
        return time.perf_counter() - started

    def cut_off(self, action: str, seconds: float, *, registry: bool = False) -> bool:
        """Kills a run, or the registry in the middle of it; returns whether the run was ended by that."""
        process = self.start(action)
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
        time.sleep(seconds)
        if registry:
            self.program.kill()
            self.program.start()
        else:
            process.kill()
        process.communicate(timeout=120)
        return process.returncode != 0

    def versions(self) -> int:
        """How many versions can be seen."""
        with RegistryClient(self.user) as client:
            return len(client.versions(Stub.parse(NAME)))


def kill_pulls(bench: Bench, kills: int, size_bytes: int) -> Counter[str]:
    """Pulls into an empty cache, killed and then completed."""
    bench.write_model(size_bytes)
    digest = zoo.publish(bench.model, NAME, settings=bench.user).digest
    manifest = zoo.resolve(f"{NAME}@{digest}", settings=bench.user).manifest
    cache, found = Cache(bench.user.cache), Counter[str]()
    whole_s = min(_pull_anew(bench) for _ in range(2))
    while found["cut_off"] < kills:
        shutil.rmtree(cache.root)
        found["cut_off"] += bench.cut_off("pull", bench.draw.uniform(0, whole_s))
        found["files_in_place"] += check_files(cache, manifest)
        found["partial_files"] += len(list((cache.root / "partial").glob("*.part")))
        bench.complete("pull")
        assert check_files(cache, manifest) == len(manifest.files)
        assert cache.not_in_place(manifest, manifest.files) == []
        assert not list((cache.root / "partial").iterdir())
        found["completed"] += 1
    return found


def _pull_anew(bench: Bench) -> float:
    shutil.rmtree(bench.user.cache, ignore_errors=True)
    return bench.complete("pull")


def check_files(cache: Cache, manifest: Manifest) -> int:
    """Hashes what is in the version's folder; returns how many of its files are there, all of them right."""
    folder = cache.model_folder(manifest)
    expected = {folder / entry.path: entry.sha256 for entry in manifest.files}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path: hash_file(path) for path in files}.items() <= expected.items()
    return len(files)


def kill_publishing(bench: Bench, kills: int, sizes: tuple[int, ...], *, registry: bool) -> Counter[str]:
    """Publishes versions of one model, each killed and then completed; small files go whole, large ones in chunks."""
    found = Counter[str]()
    whole_s = {}
    for size_bytes in sizes:
        whole_s[size_bytes] = min(_publish_anew(bench, size_bytes) for _ in range(2))
    while found["cut_off"] < kills:
        size_bytes, before = bench.draw.choice(sizes), bench.versions()
        bench.write_model(size_bytes)
        found["cut_off"] += bench.cut_off("publish", bench.draw.uniform(0, whole_s[size_bytes]), registry=registry)
        seen = bench.versions()
        found["visible_before_next_run"] += seen - before
        if seen > before:
            check_version(bench)
        bench.complete("publish")
        assert bench.versions() == before + 1
        check_version(bench)
        found["completed"] += 1
    bench.program.stop()
    assert admin.scrub(bench.registry).is_sound
    return found


def _publish_anew(bench: Bench, size_bytes: int) -> float:
    bench.write_model(size_bytes)
    return bench.complete("publish")


def check_version(bench: Bench) -> None:
    """The newest version has the model folder's files and bytes."""
    fresh = replace(bench.user, cache=bench.user.cache.with_name("fresh"))
    folder = zoo.pull(NAME, settings=fresh)
    files = [path.relative_to(bench.model) for path in bench.model.rglob("*") if path.is_file()]
    assert all(hash_file(folder / path) == hash_file(bench.model / path) for path in files)
    shutil.rmtree(fresh.cache)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("victim", choices=("pull", "publish", "registry"))
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench.made(Path(name), given.seed)
        try:
            if given.victim == "pull":
                found = kill_pulls(bench, given.kills, 64 * MIB)
            else:
                found = kill_publishing(bench, given.kills, (MIB, 33 * MIB), registry=given.victim == "registry")
        finally:
            bench.program.stop()
    seconds = round(time.monotonic() - started)
    print(json.dumps({"victim": given.victim, "kills": given.kills, **found, "seconds": seconds}, indent=1))


if __name__ == "__main__":
    main()
