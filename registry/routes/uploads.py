"""Uploads in chunks: begin, send chunks in order, finish. A cut costs one chunk."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from registry.errors import RegistryError, TooLargeError
from registry.routes.bodies import StrictRoute
from registry.routes.content import OCTETS
from registry.routes.depends import BlobsDep, SettingsDep, WriterDep
from registry.routes.receive import check_headers, receive, refuse
from registry.schemas import BlobOut, UploadIn, UploadView

router = APIRouter(prefix="/uploads", tags=["uploads"], route_class=StrictRoute)
UploadId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="32 hex digits")]
Offset = Annotated[
    int, Header(alias="Upload-Offset", ge=0, le=1 << 53, description="where the chunk's first byte belongs")
]


@router.post(
    "", status_code=201, responses={200: {"model": UploadView, "description": "The upload that was begun before"}}
)
def begin(body: UploadIn, response: Response, blobs: BlobsDep, settings: SettingsDep, writer: WriterDep) -> UploadView:
    """Begins an upload of a blob, or answers with the caller's own one of the same blob, to be continued."""
    if body.size_bytes > settings.max_blob_bytes:
        raise TooLargeError(f"{body.size_bytes} bytes are more than the {settings.max_blob_bytes} accepted here")
    view, is_new = blobs.begin(body.digest, body.size_bytes, writer.name or "")
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/api/v1/uploads/{view.id}"
    return view


@router.get("/{upload_id}")
def show(upload_id: UploadId, blobs: BlobsDep, writer: WriterDep) -> UploadView:
    """Where the upload stands: the next chunk begins at `offset_bytes`."""
    return blobs.upload(upload_id, writer.name or "")


@router.patch("/{upload_id}", openapi_extra={"requestBody": {"required": True, "content": OCTETS}})
async def append(
    upload_id: UploadId, offset: Offset, request: Request, blobs: BlobsDep, settings: SettingsDep, writer: WriterDep
) -> UploadView:
    """Adds a chunk. 416: it isn't the next one; 409: another sender was faster; both say where the upload stands."""
    owner = writer.name or ""
    try:
        check_headers(request, settings.max_chunk_bytes)
        await run_in_threadpool(blobs.check_offset, upload_id, owner, offset)
    except RegistryError as error:
        raise await refuse(request, settings.upload_idle_s, error) from None
    file = await run_in_threadpool(blobs.store.receive)
    try:
        await receive(request, file, settings.max_chunk_bytes, settings.upload_idle_s)
        return await run_in_threadpool(blobs.append, upload_id, owner, offset, file)
    finally:
        await run_in_threadpool(file.discard)


@router.post(
    "/{upload_id}/finish", status_code=201, responses={200: {"model": BlobOut, "description": "It was here already"}}
)
def finish(upload_id: UploadId, response: Response, blobs: BlobsDep, writer: WriterDep) -> BlobOut:
    """Makes the blob visible, after all its bytes were found to have the digest. 409: bytes are missing."""
    digest, size_bytes, is_new = blobs.finish(upload_id, writer)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/api/v1/blobs/{digest}"
    return BlobOut(digest=digest, size_bytes=size_bytes)


@router.delete("/{upload_id}", status_code=204)
def cancel(upload_id: UploadId, blobs: BlobsDep, writer: WriterDep) -> None:
    """Forgets the upload and its chunks."""
    blobs.cancel(upload_id, writer.name or "")
