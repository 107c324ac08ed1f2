"""When a request is repeated, and how long it waits before."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from zoo.errors import UnavailableError
from zoo.settings import Patience

T = TypeVar("T")


class TransientError(UnavailableError):
    """A fault that may pass: a cut, a 5xx, a 429; or no connection at all, which is worth fewer attempts.

    `retry_after_s` is the wait that the peer asked for.
    """

    def __init__(self, message: str, retry_after_s: float | None = None, *, connected: bool = True) -> None:
        super().__init__(message)
        self.retry_after_s, self.connected = retry_after_s, connected

    def is_last(self, attempt: int, patience: Patience) -> bool:
        """Whether the failure number `attempt` (from 0) ends the call."""
        return attempt + 1 >= (patience.attempts if self.connected else patience.connect_attempts)


def parse_retry_after(text: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None if it is absent, past or nonsense."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    wait_s = (moment - (now or datetime.now(UTC))).total_seconds()
    return wait_s if wait_s > 0 else None


def wait_before(attempt: int, error: TransientError, patience: Patience) -> float:
    """Seconds to wait after the failure number `attempt` (from 0): the peer's wish up to the longest wait, else jitter.

    Full jitter over a doubling window, so that many clients that failed together don't come back together.
    """
    if error.retry_after_s is not None:
        return min(error.retry_after_s, patience.longest_wait_s)
    window_s = min(patience.first_wait_s * 2.0 ** min(attempt, 30), patience.longest_wait_s)
    return random.uniform(window_s / 2, window_s)  # noqa: S311  spreads load, guards nothing


def repeat(call: Callable[[], T], patience: Patience, sleep: Callable[[float], None] = time.sleep) -> T:
    """Calls until it succeeds, fails for good, or the patience ends; the last `TransientError` is then raised."""
    deadline = time.monotonic() + patience.total_s
    for attempt in range(patience.attempts):
        try:
            return call()
        except TransientError as error:
            wait_s = wait_before(attempt, error, patience)
            if error.is_last(attempt, patience) or time.monotonic() + wait_s >= deadline:
                raise
        sleep(wait_s)
    raise AssertionError("attempts is at least 1")
