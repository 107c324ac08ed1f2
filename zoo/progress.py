"""How the library tells a caller how far it is; it prints nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Action = Literal["download", "upload", "hash", "replay"]


class ZooWarning(UserWarning):
    """Something that a user should know and that is no error: a fallback, a healed file, an ignored setting."""


@dataclass(frozen=True)
class ProgressEvent:
    """Where one file stands, and all files of the same call together. A resumed file starts above 0."""

    action: Action
    name: str
    done_bytes: int
    total_bytes: int
    overall_done_bytes: int
    overall_total_bytes: int


Progress = Callable[[ProgressEvent], None]


class Meter:
    """Adds up the bytes of one call's files and reports each step to a callback, if there is one."""

    def __init__(self, action: Action, total_bytes: int, report: Progress | None) -> None:
        self._action: Action = action
        self._total_bytes, self._report = total_bytes, report
        self._finished_bytes = 0

    @contextmanager
    def file(self, name: str, size_bytes: int) -> Iterator[Callable[[int], None]]:
        """Gives a function that reports how many bytes of the file are there; its end reports the whole file."""

        def at(done_bytes: int) -> None:
            if self._report is not None:
                overall = self._finished_bytes + done_bytes
                self._report(ProgressEvent(self._action, name, done_bytes, size_bytes, overall, self._total_bytes))

        yield at
        at(size_bytes)
        self._finished_bytes += size_bytes
