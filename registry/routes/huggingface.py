"""What the Hugging Face libraries ask of their hub, read only, answered from the same models.

With `HF_ENDPOINT` set to this registry, huggingface_hub and transformers find, download and load its models.
Ids are those of `registry.hub_names`. The revision `main` is the tag latest; v3, tags and digests are revisions too; a
commit is the first 40 hex digits of a version's digest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import ValidationError

from registry.caller import Caller
from registry.errors import (
    InvalidRequestError,
    RegistryError,
    UnknownFileError,
    UnknownModelError,
    UnknownVersionError,
)
from registry.hub_names import read_repo_id, write_repo_id
from registry.routes.content import blob_content, cache_control_of, serve
from registry.routes.depends import GateDep, RegistryDep, SettingsDep
from registry.routes.huggingface_files import repository_files
from registry.routes.problems import problem_of
from registry.schemas import FileView, ModelSummary, SearchIn, VersionSummary
from registry.service import Registry
from zoo.manifest import Metadata
from zoo.stub import Stub, is_tag

MAIN = "main"
MAX_PAGE = 100
COMMIT_DIGITS = 40
_POINTER_BYTES = 134  # of git's large file storage; the library asks for it, and uses it for nothing
_COMMIT = re.compile(rf"[0-9a-f]{{{COMMIT_DIGITS}}}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_VERSION = re.compile(r"v[1-9][0-9]{0,8}\Z")
_FOREIGN_TOKEN = re.compile(r"bearer +(hf|api)_", re.IGNORECASE)
_ERROR_CODES: Mapping[type[RegistryError], str] = {
    UnknownModelError: "RepoNotFound",
    UnknownVersionError: "RevisionNotFound",
    UnknownFileError: "EntryNotFound",
}


class HubRoute(APIRoute):
    """A route whose errors carry the header by which the libraries tell them apart."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with the header."""
        handler = super().get_route_handler()

        async def named(request: Request) -> Response:
            try:
                return await handler(request)
            except RegistryError as error:
                code = _ERROR_CODES.get(type(error))
                if code is None:
                    raise
                response = problem_of(error)
                response.headers["X-Error-Code"] = code
                response.headers["X-Error-Message"] = ascii(str(error))[1:-1]
                return response

        return named


router = APIRouter(include_in_schema=False, route_class=HubRoute)


def _repository(request: Request) -> Stub:
    return read_repo_id(request.path_params.get("owner"), request.path_params["name"])


def _reader(request: Request, gate: GateDep) -> Caller:
    """Who asks; a token of the Hugging Face Hub, which its library sends to whatever hub it talks to, says nothing."""
    authorization = request.headers.get("authorization")
    return gate.identify(None if authorization and _FOREIGN_TOKEN.match(authorization) else authorization)


RepositoryDep = Annotated[Stub, Depends(_repository)]
ReaderDep = Annotated[Caller, Depends(_reader)]


@router.get("/api/models")
def models(request: Request, registry: RegistryDep, reader: ReaderDep, settings: SettingsDep) -> Response:
    """One page of models; the next one's address stands in the Link header."""
    asked = request.query_params
    task = asked.get("pipeline_tag", "").replace("-", "_")
    try:
        wanted = SearchIn.model_validate(
            {
                "q": asked.get("search", ""),
                "task": task or None,
                "limit": _page_size(asked.get("limit")),
                "cursor": asked.get("cursor") or None,
            }
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise InvalidRequestError(f"{first['loc'][0]}: {first['msg']}") from None
    page = registry.search(wanted, reader)
    author = asked.get("author")
    items = [found for item in page.items if (found := _summary(item)) and author in (None, found["author"])]
    following = f"{request.url.path}?{urlencode({**asked, 'cursor': page.next_cursor})}"
    endpoint = settings.public_url.rstrip("/") or str(request.base_url).rstrip("/")
    headers = {"Link": f'<{endpoint}{following}>; rel="next"'} if page.next_cursor else {}
    return JSONResponse(items, headers=headers)


def _page_size(asked: str | None) -> int | str:
    """How many models a page has; the hub's clients ask for up to 1,000. What is no number is left to be refused."""
    if asked is None:
        return MAX_PAGE
    return min(int(asked), MAX_PAGE) if asked.isascii() and asked.isdigit() and len(asked) < 10 else asked


@router.get("/api/models/{owner}/{name}/refs")
@router.get("/api/models/{name}/refs")
def refs(repository: RepositoryDep, registry: RegistryDep, reader: ReaderDep) -> dict[str, Any]:
    """Versions and tags as git would list them."""
    versions = registry.versions(str(repository), reader)
    named = [(f"v{version.version}", version) for version in versions]
    named += [(tag, version) for version in versions for tag in version.tags if tag != "latest"]
    latest = [version for version in versions if "latest" in version.tags]
    return {
        "branches": [_ref(MAIN, "heads", version) for version in latest],
        "converts": [],
        "tags": [_ref(name, "tags", version) for name, version in named],
        "pullRequests": [],
    }


@router.get("/api/models/{owner}/{name}/tree/{revision}/{path:path}")
@router.get("/api/models/{owner}/{name}/tree/{revision}")
@router.get("/api/models/{name}/tree/{revision}/{path:path}")
@router.get("/api/models/{name}/tree/{revision}")
def tree(
    repository: RepositoryDep,
    revision: str,
    registry: RegistryDep,
    reader: ReaderDep,
    path: str = "",
    recursive: bool = False,
) -> list[dict[str, Any]]:
    """The files and folders of a folder, or everything below it."""
    view = registry.resolve(_pinned(registry, repository, revision, reader), caller=reader)
    prefix = f"{path.rstrip('/')}/" if path else ""
    below = {
        name.removeprefix(prefix): file for name, file in repository_files(view).items() if name.startswith(prefix)
    }
    if not below:
        raise UnknownFileError(f"{view.name}@v{view.version} has no folder {path[:200]!a}")
    folders = {str(parent) for name in below for parent in PurePosixPath(name).parents} - {"."}
    listed = [_folder_entry(prefix + name) for name in sorted(folders) if recursive or "/" not in name]
    return listed + [_file_entry(prefix + name, file) for name, file in below.items() if recursive or "/" not in name]


@router.get("/api/models/{owner}/{name}/revision/{revision:path}")
@router.get("/api/models/{name}/revision/{revision:path}")
@router.get("/api/models/{owner}/{name}")
@router.get("/api/models/{name}")
def model(
    repository: RepositoryDep, registry: RegistryDep, reader: ReaderDep, revision: str = MAIN, blobs: bool = False
) -> dict[str, Any]:
    """What is known of a model at a revision."""
    view = registry.resolve(_pinned(registry, repository, revision, reader), caller=reader)
    facts = Metadata.model_validate(view.manifest["metadata"])
    return {
        **_info(write_repo_id(repository) or repository.name, view, view.created_at, facts),
        "siblings": [_sibling(path, file, blobs) for path, file in repository_files(view).items()],
    }


@router.api_route("/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
@router.api_route("/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
def resolve(
    repository: RepositoryDep, revision: str, path: str, request: Request, registry: RegistryDep, reader: ReaderDep
) -> Response:
    """A file's bytes at a revision; the ETag is the plain hex digest, under which the library caches the file."""
    stub = _pinned(registry, repository, revision, reader)
    view = registry.resolve(stub, caller=reader)
    file = repository_files(view).get(path)
    if file is None:
        raise UnknownFileError(f"{view.name}@v{view.version} has no file {path[:200]!a}")
    content = blob_content(registry, file.sha256)
    digest = file.sha256.removeprefix("sha256:")
    headers = {
        "X-Repo-Commit": _commit(view.digest),
        "X-Linked-Etag": f'"{digest}"',
        "X-Linked-Size": str(file.size_bytes),
    }
    name = path.rpartition("/")[2]
    cache_control = cache_control_of(Stub.parse(stub))
    return serve(request, replace(content, etag=digest, name=name, cache_control=cache_control, headers=headers))


def _pinned(registry: Registry, repository: Stub, revision: str, reader: Caller) -> str:
    """The stub of a repository at a revision; raises `UnknownVersionError`."""
    if revision == MAIN:
        return str(repository.pinned("latest"))
    if _COMMIT.match(revision):
        digest = registry.find_digest(str(repository), revision, reader)
        if digest:
            return str(repository.pinned(digest))
    elif is_tag(revision) or _VERSION.match(revision) or _DIGEST.match(revision):
        return str(repository.pinned(revision))
    raise UnknownVersionError(f"{repository} has no revision {revision[:100]!a}: it is main, v1, a tag or a commit")


def _commit(digest: str) -> str:
    return digest.removeprefix("sha256:")[:COMMIT_DIGITS]


def _summary(item: ModelSummary) -> dict[str, Any] | None:
    """A model of a list; None for one whose names are too long for an id."""
    names = (Stub.parse(name) for name in (item.alias, item.name) if name)
    repo_id = next((written for written in map(write_repo_id, names) if written), None)
    return _info(repo_id, item, item.updated_at, item.metadata) if repo_id else None


def _info(repo_id: str, of: ModelSummary | VersionSummary, created_at: datetime, facts: Metadata) -> dict[str, Any]:
    task = facts.task.replace("_", "-") if facts.task else None
    tags = [facts.domain, task, facts.pattern, f"license:{facts.license.lower()}" if facts.license else None]
    tags += [f"dataset:{facts.dataset}" if facts.dataset else None, "transformers"]
    time = created_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "id": repo_id,
        "modelId": repo_id,
        "author": repo_id.partition("/")[0] if "/" in repo_id else None,
        "sha": _commit(of.digest),
        "private": of.private,
        "gated": False,
        "disabled": False,
        "createdAt": time,
        "lastModified": time,
        "pipeline_tag": task,
        "library_name": "transformers",
        "tags": [tag for tag in tags if tag],
        "cardData": {"license": facts.license.lower()} if facts.license else {},
    }


def _sibling(path: str, file: FileView, with_sizes: bool) -> dict[str, Any]:
    if not with_sizes:
        return {"rfilename": path}
    return {"rfilename": path, "size": file.size_bytes, **_stored(file, "blobId", "sha256")}


def _file_entry(path: str, file: FileView) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": file.size_bytes, **_stored(file, "oid", "oid")}


def _stored(file: FileView, id_key: str, digest_key: str) -> dict[str, Any]:
    """Every file is listed as one of large file storage: then its sha256 is what the library verifies by."""
    digest = file.sha256.removeprefix("sha256:")
    return {
        id_key: digest[:COMMIT_DIGITS],
        "lfs": {digest_key: digest, "size": file.size_bytes, "pointerSize": _POINTER_BYTES},
    }


def _folder_entry(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": "0" * COMMIT_DIGITS}


def _ref(name: str, kind: str, version: VersionSummary) -> Mapping[str, str]:
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": _commit(version.digest)}
