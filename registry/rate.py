"""How many requests a client may send: a bucket each, which refills steadily and holds what a minute brings."""

from __future__ import annotations

import time
from collections import OrderedDict

from registry.errors import TooManyRequestsError

MAX_CLIENTS = 100_000  # buckets that are remembered; the longest unused goes first


class RateLimit:
    """Buckets by client, in this process."""

    def __init__(self, requests_per_minute: int) -> None:
        self._capacity = float(requests_per_minute)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def knows(self, client: str) -> bool:
        """Whether the client has a bucket."""
        return client in self._buckets

    def admit(self, client: str) -> None:
        """Gives the client a bucket of its own, if it has none."""
        self._buckets.setdefault(client, (self._capacity, time.monotonic()))

    def take(self, client: str) -> None:
        """Counts a request; raises `TooManyRequestsError` with the seconds to wait."""
        now, refill = time.monotonic(), self._capacity / 60
        left, seen = self._buckets.pop(client, (self._capacity, now))
        left = min(self._capacity, left + (now - seen) * refill)
        if left < 1:
            self._buckets[client] = (left, now)
            wait_s = round((1 - left) / refill + 0.5)
            raise TooManyRequestsError(
                f"more than {self._capacity:.0f} requests a minute; try again in {wait_s} s", retry_after_s=wait_s
            )
        self._buckets[client] = (left - 1, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
