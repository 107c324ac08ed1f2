"""Threads that run pipelines, so that the event loop stays free; a bounded queue stands before them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from engine.server.errors import BusyError, HttpError

_T = TypeVar("_T")


async def in_daemon_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread that the end of the process doesn't wait for, as it would for asyncio.to_thread's.

    Raises what `work` raises. A cancelled caller leaves the thread behind.
    """
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the caller's to handle
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, name="sparrow-loader", daemon=True).start()
    await asyncio.wrap_future(future)


class Workers:
    """`count` threads and at most `queue_limit` calls waiting for one. Used from one event loop."""

    def __init__(self, count: int, queue_limit: int) -> None:
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="sparrow-worker")
        self._most = count + queue_limit
        self._taken = 0

    async def run(self, work: Callable[[Callable[[], bool]], _T], timeout_s: float) -> _T:
        """Run `work(stop)` in a thread and return what it returns.

        Raises BusyError (503) when the queue is full, HttpError 504 after `timeout_s`. When the time is over or
        the caller is cancelled, `stop()` turns true: a call that waits never starts, and one that runs keeps
        its place until it ends, which it should do soon.
        """
        if self._taken >= self._most:
            raise BusyError(f"{self._taken} requests are being answered or waiting; try again")
        self._taken += 1
        stop = threading.Event()
        future = self._threads.submit(work, stop.is_set)
        future.add_done_callback(self._release(asyncio.get_running_loop()))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout_s)
        except TimeoutError:
            raise HttpError(504, f"no answer within {timeout_s:g} s; ask for less at once") from None
        finally:
            stop.set()

    def _release(self, loop: asyncio.AbstractEventLoop) -> Callable[[Future[Any]], None]:
        def on_loop() -> None:
            self._taken -= 1

        def on_worker(_future: Future[Any]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(on_loop)

        return on_worker

    def close(self) -> None:
        """Let the running calls end and drop the waiting ones."""
        self._threads.shutdown(wait=True, cancel_futures=True)
