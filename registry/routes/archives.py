"""A folder of a version as one tar, made while it is sent: nothing is stored, and every range of it can be read.

    /archives/NAME@PIN/FOLDER.tar

It holds the folder's files and those below it, except for files that lie in sub-folders for another reason than the
folder's own, such as deployment/sample-inputs. The same version always gives the same bytes.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse

from registry.errors import UnknownFileError
from registry.routes.content import SERVED, Content, cache_control_of, serve
from registry.routes.depends import CallerDep, RegistryDep
from registry.routes.files import open_address
from registry.schemas import FileView, VersionView
from registry.service import Registry

router = APIRouter(tags=["files"])
SUFFIX = ".tar"
_END = bytes(2 * tarfile.BLOCKSIZE)


class _Piece(NamedTuple):
    """A part of the tar: bytes as they are, or a blob."""

    data: bytes
    digest: str | None
    size_bytes: int


@router.head("/archives/{address:path}", response_class=Response)
@router.get(
    "/archives/{address:path}",
    response_class=StreamingResponse,
    responses=SERVED,
)
def get_archive(
    address: Annotated[str, Path(max_length=2_048, description="NAME@PIN/FOLDER.tar")],
    request: Request,
    registry: RegistryDep,
    caller: CallerDep,
) -> Response:
    """A folder of a version as a tar."""
    stub, view, path = open_address(registry, address, caller)
    folder = path.removesuffix(SUFFIX)
    files = files_of_folder(view, folder) if path.endswith(SUFFIX) else []
    if not files:
        folders = ", ".join(sorted({file.path.rpartition("/")[0] + SUFFIX for file in view.files if "/" in file.path}))
        raise UnknownFileError(f"{view.name}@v{view.version} has no archive {path[:200]!a}; it has {folders}")
    pieces = _pieces(files, folder)
    return serve(
        request,
        Content(
            etag=_identity(pieces),
            size_bytes=_size(pieces),
            read=lambda start, stop: _read(registry, pieces, start, stop),
            name=folder.rpartition("/")[2] + SUFFIX,
            cache_control=cache_control_of(stub),
        ),
    )


def files_of_folder(view: VersionView, folder: str) -> list[FileView]:
    """The files that an archive of the folder holds; none where no file lies directly in it."""
    below = [file for file in view.files if file.path.startswith(f"{folder}/")]
    roles = {file.role for file in below if "/" not in file.path.removeprefix(f"{folder}/")}
    return [file for file in below if file.role in roles]


def archive_size(files: Sequence[FileView], folder: str) -> int:
    """The size in bytes of an archive of the folder's files."""
    return _size(_pieces(files, folder))


def _size(pieces: Sequence[_Piece]) -> int:
    return sum(piece.size_bytes for piece in pieces)


def _pieces(files: Sequence[FileView], folder: str) -> list[_Piece]:
    pieces = []
    for file in files:
        member = tarfile.TarInfo(file.path.removeprefix(f"{folder}/"))
        member.size = file.size_bytes
        header = member.tobuf(tarfile.GNU_FORMAT)
        padding = bytes(-file.size_bytes % tarfile.BLOCKSIZE)
        pieces += [
            _Piece(header, None, len(header)),
            _Piece(b"", file.sha256, file.size_bytes),
            _Piece(padding, None, len(padding)),
        ]
    return [*pieces, _Piece(_END, None, len(_END))]


def _identity(pieces: Sequence[_Piece]) -> str:
    """A name for the tar's bytes: headers and digests say all of them."""
    parts = (piece.digest.encode() if piece.digest else piece.data for piece in pieces)
    return "tar-" + hashlib.sha256(b"".join(parts)).hexdigest()


def _read(registry: Registry, pieces: Sequence[_Piece], start: int, stop: int) -> Iterator[bytes]:
    offset = 0
    for piece in pieces:
        first, last = max(start - offset, 0), min(stop - offset, piece.size_bytes)
        offset += piece.size_bytes
        if first >= last:
            continue
        if piece.digest is None:
            yield piece.data[first:last]
        elif (first, last) == (0, piece.size_bytes):
            yield from registry.blobs.read_whole(piece.digest, last)
        else:
            yield from registry.blobs.read(piece.digest, first, last)
