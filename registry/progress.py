"""How a long piece of work tells its caller how far it is; it prints nothing itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

EVERY = 500  # so many small things between two reports
T = TypeVar("T")


class Report(Protocol):
    """Takes what is being done, how much of it is done, and of how much; None where that isn't known yet."""

    def __call__(self, what: str, done: int, total: int | None, *, in_bytes: bool = False) -> None: ...  # noqa: D102


def silent(what: str, done: int, total: int | None, *, in_bytes: bool = False) -> None:
    """Tells nobody."""


def counted(items: Iterable[T], report: Report, what: str, total: int | None = None) -> Iterator[T]:
    """The items, of which every so many are reported, and the last."""
    done = 0
    for item in items:
        if done % EVERY == 0:
            report(what, done, total)
        yield item
        done += 1
    report(what, done, total)


class Sizes:
    """Adds up the bytes of several things to report them as one."""

    def __init__(self, report: Report, what: str, total_bytes: int) -> None:
        self._report, self._what, self._total_bytes, self._done_bytes = report, what, total_bytes, 0

    def blocks(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """The blocks, each of which is reported as it is given."""
        for block in blocks:
            self._done_bytes += len(block)
            self._report(self._what, self._done_bytes, self._total_bytes, in_bytes=True)
            yield block
