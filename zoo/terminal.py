"""What the command line shows: documents on standard output, progress and errors on standard error."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from zoo.progress import ZooWarning
from zoo.stub import Stub

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from zoo.progress import Progress, ProgressEvent

EXIT_PIPE = 141
PATIENCE_S = 2.0


class Output:
    """How this process prints; set once, from the command line."""

    as_json = False
    debug = False

    @classmethod
    def emit(cls, document: object, text: str) -> None:
        """Prints the document as JSON where that was asked for, else the text.

        A reader that has gone away, as `head` does, ends the process with 141, as the signal would.
        """
        try:
            print(json.dumps(plain(document), indent=1, allow_nan=False) if cls.as_json else text, flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(EXIT_PIPE) from None

    @classmethod
    def fail(cls, error: BaseException, exit_code: int) -> None:
        """Prints an error on standard error: one line for people, one JSON object for machines."""
        kind, text = type(error).__name__, str(error) or type(error).__name__
        if cls.as_json:
            text = json.dumps({"error": {"kind": kind, "message": text, "exit_code": exit_code}})
        else:
            text = f"error: {text}"
        print(text, file=sys.stderr, flush=True)


def show_warnings_plainly() -> None:
    """Makes the library's own warnings one line each on standard error; others keep Python's form."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, ZooWarning):
            print(f"note: {message}", file=sys.stderr, flush=True)
        else:
            usual(message, category, *rest, **more)

    warnings.simplefilter("always", ZooWarning)
    warnings.showwarning = show


def plain(value: object) -> Any:
    """A value as JSON can hold it: models and dataclasses as objects, stubs, paths and enums as text."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_none=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Stub):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)


def size_text(size_bytes: int) -> str:
    """A size for people: 12.3 MB, MB = 10^6 bytes."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.1f} {unit}"
    return f"{size_bytes} B"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, with the columns one below another."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


@contextmanager
def _bars(*columns: Any) -> Iterator[Bars]:
    """Bars on standard error; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    middle = (TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn())
    with Progress(*middle, console=console, disable=not console.is_terminal, transient=True) as bars:
        yield bars


@contextmanager
def transfer_bars() -> Iterator[Progress]:
    """A bar for all bytes of a call and one for the file under way; yields the callback that the library takes.

    They are drawn, and what draws them is loaded, from the first step on: often there is nothing to transfer.
    """
    with ExitStack() as drawn:
        bars = cache(lambda: drawn.enter_context(_drawn_transfer()))
        yield lambda event: bars()(event)


@contextmanager
def _drawn_transfer() -> Iterator[Progress]:
    from rich.progress import DownloadColumn, TransferSpeedColumn

    with _bars(DownloadColumn(), TransferSpeedColumn()) as bars:
        overall = bars.add_task("all files", total=None)
        current = bars.add_task("", total=None)

        def report(event: ProgressEvent) -> None:
            bars.update(overall, completed=event.overall_done_bytes, total=event.overall_total_bytes)
            name = f"{event.action} {event.name}"
            bars.update(current, description=name, completed=event.done_bytes, total=event.total_bytes)

        yield report


@contextmanager
def step_bars() -> Iterator[Callable[..., None]]:
    """A bar for each step of long work, drawn from the first report on; yields what is called with each.

    It takes what is being done, how much of it is done, and of how much (None where that isn't known yet), and
    `in_bytes`: what `registry.progress.Report` is.
    """
    from rich.progress import TextColumn

    with ExitStack() as drawn:
        bars = cache(lambda: drawn.enter_context(_bars(TextColumn("{task.fields[at]}"))))
        task = cache(lambda what: bars().add_task(what, total=None, at=""))

        def report(what: str, done: int, total: int | None, *, in_bytes: bool = False) -> None:
            amount = size_text if in_bytes else "{:,}".format
            at = amount(done) if total is None else f"{amount(done)} of {amount(total)}"
            bars().update(task(what), completed=done, total=total, at=at)

        yield report


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A spinner on standard error once the block has taken two seconds; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    spinner = ExitStack()

    def show() -> None:
        from rich.console import Console

        spinner.enter_context(Console(stderr=True).status(what))

    timer = threading.Timer(PATIENCE_S, show)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        spinner.close()


@contextmanager
def counting_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of things done; yields a callback that takes (done, total)."""
    from rich.progress import MofNCompleteColumn

    with _bars(MofNCompleteColumn()) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
