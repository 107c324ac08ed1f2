"""Every file under a stable URL, for curl and browsers.

    /files/NAME@PIN             the version's files as `sha256sum --check` reads them
    /files/NAME@PIN/PATH        one file

NAME is a stub's name, long or short, with its scope if it has one; PIN is v3, latest, a tag or a digest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse

from registry.caller import Caller
from registry.errors import UnknownFileError
from registry.resolution import parse_stub
from registry.routes.content import MOVES, SERVED, blob_content, cache_control_of, serve
from registry.routes.depends import CallerDep, RegistryDep
from registry.schemas import FileView, VersionView
from registry.service import Registry
from zoo.stub import PREFIX, Stub

router = APIRouter(tags=["files"])


@router.head("/files/{address:path}", response_class=Response)
@router.get(
    "/files/{address:path}",
    response_class=StreamingResponse,
    responses=SERVED,
)
def get_file(
    address: Annotated[str, Path(max_length=2_048, description="NAME@PIN/PATH, or NAME@PIN for the list of digests")],
    request: Request,
    registry: RegistryDep,
    caller: CallerDep,
) -> Response:
    """A file of a version; its ETag is its digest."""
    stub, view, path = open_address(registry, address, caller)
    if not path:
        lines = [f"{file.sha256.removeprefix('sha256:')}  {file.path}\n" for file in view.files]
        return PlainTextResponse("".join(lines), headers={"ETag": f'"{view.digest}"', "Cache-Control": MOVES})
    file = find_file(view, path)
    content = replace(blob_content(registry, file.sha256), name=path.rsplit("/", 1)[-1])
    return serve(request, replace(content, cache_control=cache_control_of(stub)))


def open_address(registry: Registry, address: str, caller: Caller) -> tuple[Stub, VersionView, str]:
    """Stub, version and path of an address; raises `InvalidStubError`, `UnknownFileError`, or what resolving does."""
    name_end = address.find("@", 1)
    if name_end < 0:
        raise UnknownFileError(f"{address[:80]!a} names no version: write /files/NAME@latest/PATH, or @v1 for @latest")
    pin, _, path = address[name_end + 1 :].partition("/")
    stub = parse_stub(f"{PREFIX}{address[:name_end]}@{pin}")
    return stub, registry.resolve(str(stub), caller=caller), path


def find_file(view: VersionView, path: str) -> FileView:
    """A version's file by its path; raises `UnknownFileError`."""
    found = next((file for file in view.files if file.path == path), None)
    if found is None:
        names = ", ".join(file.path for file in view.files[:10])
        raise UnknownFileError(f"{view.name}@v{view.version} has no file {path[:200]!a}; it has {names}")
    return found
