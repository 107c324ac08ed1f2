"""Memory that one training step frees and the next one asks for again.

glibc gives large freed blocks back to the system, which must then map and clear each of their pages anew, for every
activation and gradient of every step. Kept blocks cost no more memory at the peak: the next step needs them all.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h
_NEVER = -1


def keep_freed_memory() -> None:
    """Let this process keep what it frees for what it allocates next. Does nothing where malloc isn't glibc's."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_MMAP_MAX, 0)
