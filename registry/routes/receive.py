"""Bodies, taken in bounded by size, by silence and by slowness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from registry.errors import InvalidRequestError, RegistryError, TooLargeError
from registry.storage import BLOCK_BYTES, IncomingFile

MIN_BYTES_PER_S = 4_096  # on average, after a first silence: who sends a byte now and then holds no place for long
_DRAIN_BYTES = 1 << 24


async def receive(request: Request, file: IncomingFile, limit_bytes: int, idle_s: float) -> None:
    """Writes the body to the file; raises `TooLargeError`, or `InvalidRequestError` after a silence."""
    async for block in _blocks(request, idle_s):
        if file.size_bytes + len(block) > limit_bytes:
            raise TooLargeError(f"the body is larger than {limit_bytes} bytes")
        await run_in_threadpool(file.write, block)


def check_headers(request: Request, limit_bytes: int) -> None:
    """Refuses a body that says itself that it can't be taken."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise InvalidRequestError("send the bytes as they are, without Content-Encoding")
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or len(length) > 19:
        raise InvalidRequestError("the Content-Length is no number")
    if int(length) > limit_bytes:
        raise TooLargeError(f"{length} bytes are more than the {limit_bytes} that this registry accepts")


async def refuse(request: Request, idle_s: float, error: RegistryError) -> RegistryError:
    """Reads some of a refused body, so that a client that is still sending gets to see the answer."""
    size = 0
    async for block in _blocks(request, idle_s):
        size += len(block)
        if size > _DRAIN_BYTES:
            break
    return error


async def parts(request: Request, idle_s: float) -> AsyncIterator[bytes]:
    """The body as it comes; raises `InvalidRequestError` after a silence, or when it comes too slowly."""
    stream, size, waited = request.stream(), 0, 0.0
    while True:
        started = time.monotonic()
        try:
            part = await asyncio.wait_for(anext(stream, None), min(idle_s, idle_s + size / MIN_BYTES_PER_S - waited))
        except TimeoutError:
            raise InvalidRequestError(f"the body came too slowly, or stopped for {idle_s:g} s; send it again") from None
        if part is None:
            return
        waited += time.monotonic() - started
        size += len(part)
        yield part


async def _blocks(request: Request, idle_s: float) -> AsyncIterator[bytes]:
    """The body in blocks of about a MiB."""
    held, size = list[bytes](), 0
    async for part in parts(request, idle_s):
        held.append(part)
        size += len(part)
        if size >= BLOCK_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)
