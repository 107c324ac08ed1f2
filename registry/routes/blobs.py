"""Blobs: bytes in and out, by digest."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from registry.blobs import parse_digest
from registry.errors import RegistryError
from registry.routes.bodies import StrictRoute
from registry.routes.content import OCTETS, blob_content, serve
from registry.routes.depends import BlobsDep, CallerDep, RegistryDep, SettingsDep, WriterDep
from registry.routes.receive import check_headers, receive, refuse
from registry.schemas import BlobOut, MissingIn, MissingOut

router = APIRouter(tags=["blobs"], route_class=StrictRoute)
DigestPath = Annotated[str, Path(max_length=128, description="sha256: and 64 lower-case hex digits")]


@router.post("/blobs/missing")
def missing(body: MissingIn, blobs: BlobsDep, caller: CallerDep) -> MissingOut:
    """Which of these digests must be uploaded."""
    return MissingOut(missing=blobs.missing(body.digests, caller))


@router.head("/blobs/{digest}", response_class=Response)
@router.get(
    "/blobs/{digest}",
    response_class=StreamingResponse,
    responses={200: {"content": OCTETS}, 206: {"content": OCTETS, "description": "The range asked for"}},
)
def get_blob(digest: DigestPath, request: Request, registry: RegistryDep, caller: CallerDep) -> Response:
    """A blob's bytes, or one range of them."""
    registry.blobs.check_readable(digest, caller)
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
    blobs: BlobsDep,
    settings: SettingsDep,
    writer: WriterDep,
) -> BlobOut:
    """Stores a blob; it becomes visible only after its bytes were found to have the digest."""
    try:
        parse_digest(digest)
        check_headers(request, settings.max_blob_bytes)
    except RegistryError as error:
        raise await refuse(request, settings.upload_idle_s, error) from None
    file = await run_in_threadpool(blobs.store.receive)
    try:
        await receive(request, file, settings.max_blob_bytes, settings.upload_idle_s)
        is_new = await run_in_threadpool(blobs.keep, file, digest, writer)
    finally:
        await run_in_threadpool(file.discard)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/api/v1/blobs/{digest}"
    return BlobOut(digest=digest, size_bytes=file.size_bytes)
