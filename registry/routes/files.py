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

from registry.errors import UnknownFileError
from registry.routes.content import MOVES, OCTETS, blob_content, cache_control_of, serve
from registry.routes.depends import CallerDep, RegistryDep
from registry.schemas import FileView, VersionView
from registry.service import parse_stub
from zoo.stub import PREFIX, Stub

router = APIRouter(tags=["files"])
_SPAN = {"content": OCTETS, "description": "The range asked for"}


@router.head("/files/{address:path}", response_class=Response)
@router.get(
    "/files/{address:path}",
    response_class=StreamingResponse,
    responses={200: {"content": OCTETS}, 206: _SPAN, 304: {"description": "The client has the file"}},
)
def get_file(
    address: Annotated[str, Path(max_length=2_048, description="NAME@PIN/PATH, or NAME@PIN for the list of digests")],
    request: Request,
    registry: RegistryDep,
    caller: CallerDep,
) -> Response:
    """A file of a version; its ETag is its digest."""
    stub, path = read_address(address)
    view = registry.resolve(str(stub), caller=caller)
    if not path:
        lines = [f"{file.sha256.removeprefix('sha256:')}  {file.path}\n" for file in view.files]
        return PlainTextResponse("".join(lines), headers={"ETag": f'"{view.digest}"', "Cache-Control": MOVES})
    file = find_file(view, path)
    content = replace(blob_content(registry, file.sha256), name=path.rsplit("/", 1)[-1])
    return serve(request, replace(content, cache_control=cache_control_of(stub)))


def read_address(address: str) -> tuple[Stub, str]:
    """Stub and path of an address; raises `InvalidStubError`, `UnknownFileError`."""
    name_end = address.find("@", 1)
    if name_end < 0:
        raise UnknownFileError(f"{address[:80]!a} names no version: write /files/NAME@latest/PATH, or @v1 for @latest")
    pin, _, path = address[name_end + 1 :].partition("/")
    return parse_stub(f"{PREFIX}{address[:name_end]}@{pin}"), path


def find_file(view: VersionView, path: str) -> FileView:
    """A version's file by its path; raises `UnknownFileError`."""
    found = next((file for file in view.files if file.path == path), None)
    if found is None:
        names = ", ".join(file.path for file in view.files[:10])
        raise UnknownFileError(f"{view.name}@v{view.version} has no file {path[:200]!a}; it has {names}")
    return found
