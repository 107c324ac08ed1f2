"""Versions, tags and stubs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from registry import retire
from registry.errors import InvalidRequestError
from registry.routes.bodies import StrictRoute
from registry.routes.depends import CallerDep, RegistryDep, WriterDep
from registry.schemas import (
    MAX_STUB,
    DeletedOut,
    DeleteIn,
    LineageView,
    TagIn,
    VersionIn,
    VersionList,
    VersionSummary,
    VersionView,
    YankIn,
)
from zoo.manifest import Digest, Role

router = APIRouter(tags=["versions"], route_class=StrictRoute)
StubQuery = Annotated[str, Query(max_length=MAX_STUB, description="a stub: zoo:NAME[@PIN]")]


@router.post(
    "/versions",
    status_code=201,
    responses={200: {"model": VersionView, "description": "The same manifest was here already"}},
)
def publish(body: VersionIn, response: Response, registry: RegistryDep, writer: WriterDep) -> VersionView:
    """Publishes a version whose blobs are all here; safe to repeat after a lost answer."""
    view, is_new = registry.publish(body, writer)
    response.status_code = 201 if is_new else 200
    response.headers["ETag"] = f'"{view.digest}"'
    return view


@router.get("/versions")
def versions(stub: StubQuery, registry: RegistryDep, caller: CallerDep) -> VersionList:
    """A model's versions, newest first."""
    return VersionList(items=registry.versions(stub, caller))


@router.get("/resolve")
def resolve(
    stub: StubQuery, response: Response, registry: RegistryDep, caller: CallerDep, role: Role | None = None
) -> VersionView:
    """The version that a stub names; `role` narrows `files`."""
    view = registry.resolve(stub, role, caller)
    response.headers["ETag"] = f'W/"{view.digest}"'  # weak: the same version is told of with other tags and files
    return view


@router.put("/tags")
def move_tag(
    body: TagIn,
    response: Response,
    registry: RegistryDep,
    writer: WriterDep,
    if_match: Annotated[str | None, Header(max_length=80, description="digest that the tag must point to")] = None,
) -> VersionView:
    """Points a tag to a version; with If-Match only if nobody moved it in between."""
    expected = None if if_match is None else if_match.removeprefix("W/").strip('"')
    view = registry.move_tag(body.stub, body.tag, expected, writer)
    response.headers["ETag"] = f'"{view.digest}"'
    return view


@router.put("/yanks")
def yank(body: YankIn, registry: RegistryDep, writer: WriterDep) -> VersionSummary:
    """Leaves a version out wherever nothing pins it, with the reason; a reason of null takes that back."""
    return retire.yank(registry, body.stub, body.reason, writer)


@router.post("/versions/delete")
def delete(body: DeleteIn, registry: RegistryDep, writer: WriterDep) -> DeletedOut:
    """Deletes a version for good. 409 while a tag points to it, or another model was made from it."""
    retire.delete(registry, body.stub, body.reason, writer, force=body.force)
    return DeletedOut(stub=body.stub, reason=body.reason)


@router.get("/lineage")
def lineage(
    registry: RegistryDep,
    caller: CallerDep,
    stub: Annotated[str | None, Query(max_length=MAX_STUB, description="a stub: zoo:NAME[@PIN]")] = None,
    digest: Annotated[Digest | None, Query(max_length=128, description="a recipe file's, or a data set's")] = None,
) -> LineageView:
    """What a version was made from, and what was made from it; or what was made by a recipe or from data."""
    if (stub is None) == (digest is None):
        raise InvalidRequestError("give either a stub or a digest")
    return registry.lineage(stub, caller) if stub is not None else registry.made_from_digest(str(digest), caller)
