"""What the command line shows on a terminal, seen through a real one."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

PROGRAM = """
import time
from zoo.terminal import waiting
with waiting("compiling"):
    time.sleep({seconds})
print("done")
"""


def shown(seconds: float) -> tuple[str, str]:
    """Standard output, and what a terminal on standard error got."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", PROGRAM.format(seconds=seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}) as child:
        os.close(theirs)
        seen = b""
        try:
            while part := os.read(ours, 4096):
                seen += part
        except OSError:  # the other side of a terminal was closed
            pass
        os.close(ours)
        assert child.stdout is not None
        printed = child.stdout.read().decode()
    assert child.returncode == 0
    return printed, seen.decode()


@pytest.mark.parametrize(("seconds", "visible"), [(0.01, False), (2.6, True)])
def test_only_a_long_wait_is_shown(seconds: float, visible: bool) -> None:
    printed, seen = shown(seconds)
    assert printed == "done\n"
    assert ("compiling" in seen) == visible
