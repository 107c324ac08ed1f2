from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from zoo.train.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
before = 0
for _ in range(3):
    np.full(2**24, 1.5)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    print(faults - before)
    before = faults
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told to keep memory")
def test_freed_memory_is_used_again_without_faulting_its_pages_in() -> None:
    last = {}
    for mode in ("keep", "default"):
        done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
        last[mode] = int(done.stdout.split()[-1])
    assert last["keep"] < 10
    assert last["default"] > 50  # 128 MB, in huge pages at the least
