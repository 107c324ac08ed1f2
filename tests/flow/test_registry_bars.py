"""Commands on a registry that may take long show how far they are: on a terminal's standard error, nowhere else."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry import admin
from registry.settings import Settings
from tests.registry.builders import bert, digest_of, small
from tests.registry.conftest import open_site
from tests.zoo.live_registry import serving

ROOT = Path(__file__).parents[2]
NEVER_PUBLISHED = b"nobody names this"
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("ZOO_")} | {"TERM": "xterm"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a registry with two models and a loose file in `full`, a backup of it and a bundle of models."""
    folder = tmp_path_factory.mktemp("bars")
    settings = Settings(storage=folder / "full")
    with open_site(settings) as site:
        bert().publish(site.client)
        small().publish(site.client)
        site.client.put(f"/api/v1/blobs/{digest_of(NEVER_PUBLISHED)}", content=NEVER_PUBLISHED)
    admin.backup(settings, folder / "backup.tar")
    admin.export_bundle(settings, folder / "models.tar")
    return folder


@pytest.fixture(scope="module")
def remote(folder: Path) -> Iterator[str]:
    with serving(folder / "full") as url:
        yield url


def run(command: list[str], folder: Path) -> tuple[str, str]:
    """Standard output, and what a terminal on standard error got."""
    ours, theirs = pty.openpty()
    seen: list[bytes] = []

    def watch() -> None:
        try:
            while part := os.read(ours, 4096):
                seen.append(part)
        except OSError:  # the other side of the terminal was closed
            pass

    watcher = threading.Thread(target=watch)
    watcher.start()
    line = [sys.executable, "cli.py", "--json", "registry", *command]
    home = {"ZOO_HOME": str(folder / "home")}
    done = subprocess.run(
        line, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, text=True, env=ENVIRONMENT | home, timeout=60
    )
    os.close(theirs)
    watcher.join(10)
    os.close(ours)
    shown = b"".join(seen).decode()
    assert done.returncode == 0, shown
    return done.stdout, shown


@pytest.mark.parametrize(
    ("command", "steps"),
    [
        (["backup", "{new}.tar", "--folder", "{full}"], ("rows", "files")),
        (["restore", "{backup}", "--folder", "{new}"], ("bundle", "rows")),
        (["export", "{new}.tar", "--folder", "{full}"], ("versions", "files")),
        (["export", "--static", "{new}", "--folder", "{full}"], ("models", "files")),
        (["import", "{models}", "--folder", "{new}"], ("bundle", "versions")),
        (["gc", "--grace-hours", "0", "--dry-run", "--folder", "{full}"], ("files looked at", "files removed")),
        (["scrub", "--folder", "{full}"], ("files",)),
        (["verify", "--folder", "{full}"], ("files",)),
        (["mirror", "{remote}", "--folder", "{new}"], ("models", "download")),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_bar_on_the_terminal_and_json_alone_on_standard_output(
    folder: Path, remote: str, tmp_path: Path, command: list[str], steps: tuple[str, ...]
) -> None:
    places = {"full": folder / "full", "backup": folder / "backup.tar", "models": folder / "models.tar"}
    line = [part.format(new=tmp_path / "new", remote=remote, **places) for part in command]
    printed, shown = run(line, tmp_path)
    json.loads(printed)
    assert "\x1b" not in printed
    for step in steps:
        assert step in shown


def test_nothing_but_the_report_where_no_terminal_is(folder: Path, tmp_path: Path) -> None:
    line = [sys.executable, "cli.py", "registry", "backup", str(tmp_path / "new.tar"), "--folder", str(folder / "full")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "files" in done.stdout
    assert "\x1b" not in done.stdout
