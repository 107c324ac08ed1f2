"""Blobs: bytes in and out, by digest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from registry.errors import InvalidRequestError, RegistryError, TooLargeError
from registry.routes.bodies import StrictRoute
from registry.routes.content import OCTETS, blob_content, serve
from registry.routes.depends import RegistryDep, SettingsDep, WriterDep
from registry.schemas import BlobOut, MissingIn, MissingOut
from registry.service import parse_digest
from registry.storage import BLOCK_BYTES

router = APIRouter(tags=["blobs"], route_class=StrictRoute)
DigestPath = Annotated[str, Path(max_length=128, description="sha256: and 64 lower-case hex digits")]

_DRAIN_BYTES = 1 << 24


@router.post("/blobs/missing")
def missing(body: MissingIn, registry: RegistryDep) -> MissingOut:
    """Which of these digests must be uploaded."""
    return MissingOut(missing=registry.missing(body.digests))


@router.head("/blobs/{digest}", response_class=Response)
@router.get(
    "/blobs/{digest}",
    response_class=StreamingResponse,
    responses={200: {"content": OCTETS}, 206: {"content": OCTETS, "description": "The range asked for"}},
)
def get_blob(digest: DigestPath, request: Request, registry: RegistryDep) -> Response:
    """A blob's bytes, or one range of them."""
    return serve(request, blob_content(registry, digest))


@router.put(
    "/blobs/{digest}",
    status_code=201,
    responses={200: {"model": BlobOut, "description": "It was here already"}},
    openapi_extra={"requestBody": {"required": True, "content": OCTETS}},
)
async def put_blob(
    digest: DigestPath,
    request: Request,
    response: Response,
    registry: RegistryDep,
    settings: SettingsDep,
    _writer: WriterDep,
) -> BlobOut:
    """Stores a blob; it becomes visible only after its bytes were found to have the digest."""
    try:
        _check_headers(request, parse_digest(digest), settings.max_blob_bytes)
    except RegistryError:
        await _drain(request, settings.upload_idle_s)
        raise
    upload = await run_in_threadpool(registry.store.begin)
    try:
        async for block in _blocks(request, settings.upload_idle_s):
            if upload.size_bytes + len(block) > settings.max_blob_bytes:
                raise TooLargeError(f"the body is larger than {settings.max_blob_bytes} bytes")
            await run_in_threadpool(upload.write, block)
        is_new = await run_in_threadpool(registry.keep_upload, upload, digest)
    finally:
        upload.discard()
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/api/v1/blobs/{digest}"
    return BlobOut(digest=digest, size_bytes=upload.size_bytes)


def _check_headers(request: Request, digest: str, limit: int) -> None:
    if request.headers.get("content-encoding", "identity") != "identity":
        raise InvalidRequestError(f"send the bytes of {digest} as they are, without Content-Encoding")
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or len(length) > 19:
        raise InvalidRequestError("the Content-Length is no number")
    if int(length) > limit:
        raise TooLargeError(f"{length} bytes are more than the {limit} that this registry accepts")


async def _blocks(request: Request, idle_s: float) -> AsyncIterator[bytes]:
    """The body in blocks of about a MiB; raises `InvalidRequestError` after a silence."""
    stream = request.stream()
    parts, size = list[bytes](), 0
    while True:
        try:
            part = await asyncio.wait_for(anext(stream, None), idle_s)
        except TimeoutError:
            raise InvalidRequestError(f"no bytes came for {idle_s:g} s; send the blob again") from None
        if part is None:
            break
        parts.append(part)
        size += len(part)
        if size >= BLOCK_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


async def _drain(request: Request, idle_s: float) -> None:
    """Reads some of a refused body, so that a client that is still sending gets to see the answer."""
    size = 0
    async for block in _blocks(request, idle_s):
        size += len(block)
        if size > _DRAIN_BYTES:
            return
