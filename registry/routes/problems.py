"""Errors over HTTP: RFC 9457 problem documents, and the status of each code."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path

from registry.errors import RegistryError
from registry.schemas import Problem
from registry.web import error_page, wants_page

STATUS = {
    "REQUEST_INVALID": 400,
    "STUB_INVALID": 400,
    "MANIFEST_INVALID": 422,
    "MANIFEST_BLOB_UNKNOWN": 400,
    "CHECK_FAILED": 422,
    "SIZE_INVALID": 400,
    "DIGEST_INVALID": 400,
    "TAG_INVALID": 400,
    "RANGE_INVALID": 416,
    "CURSOR_INVALID": 400,
    "UPLOAD_OFFSET_INVALID": 416,
    "UPLOAD_UNKNOWN": 404,
    "UPLOAD_MOVED": 409,
    "UPLOAD_INCOMPLETE": 409,
    "BLOB_DAMAGED": 502,
    "TOO_LARGE": 413,
    "BLOB_UNKNOWN": 404,
    "MODEL_UNKNOWN": 404,
    "VERSION_UNKNOWN": 404,
    "RECIPE_UNKNOWN": 404,
    "FILE_UNKNOWN": 404,
    "VERSION_DELETED": 410,
    "VERSION_IN_USE": 409,
    "VERSION_EXISTS": 409,
    "ALIAS_TAKEN": 409,
    "TAG_MOVED": 412,
    "UNAUTHORIZED": 401,
    "FORBIDDEN": 403,
    "TOO_MANY_REQUESTS": 429,
    "UNAVAILABLE": 503,
}
_HTTP_CODES = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}
_HEADERS = {"UNAUTHORIZED": {"WWW-Authenticate": "Bearer"}, "UNAVAILABLE": {"Retry-After": "1"}}
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "The request can't be served as it stands"},
    "503": {"model": Problem, "description": "Try again later"},
}

PROBLEM = "application/problem+json"

log = logging.getLogger("registry.errors")


def problem(
    status: int,
    code: str,
    detail: str,
    extras: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document; ASCII, so that no text of a client can break it."""
    document = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    body = json.dumps({**document, "code": code, **(extras or {})}, allow_nan=False)
    return Response(body, status, dict(headers or {}), PROBLEM)


def problem_of(error: RegistryError) -> Response:
    """The problem document of one of our errors."""
    return problem(STATUS.get(error.code, 500), error.code, str(error), error.extras, _headers_of(error))


def answer_of(request: Request, error: RegistryError) -> Response:
    """The answer to a request that failed with one of our errors: a page where a person asked."""
    if wants_page(request):
        return error_page(request, STATUS.get(error.code, 500), str(error), error.extras, _headers_of(error))
    return problem_of(error)


def _headers_of(error: RegistryError) -> dict[str, str]:
    headers = dict(_HEADERS.get(error.code, {}))
    if error.code == "RANGE_INVALID":
        headers["Content-Range"] = f"bytes */{error.extras['size_bytes']}"
    if error.code == "TOO_MANY_REQUESTS":
        headers["Retry-After"] = str(error.extras["retry_after_s"])
    return headers


def install(app: FastAPI) -> None:
    """Makes the app answer every error with a problem document, or with a page where a person asked."""
    app.add_exception_handler(RegistryError, _on_registry_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_departure)
    app.add_exception_handler(Exception, _on_bug)
    described = app.openapi
    app.openapi = lambda: _with_problems(described())  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _with_problems(description: dict[str, Any]) -> dict[str, Any]:
    """The description with the media type that errors have; FastAPI writes application/json for each."""
    for methods in description["paths"].values():
        for operation in methods.values():
            responses = operation["responses"]
            responses.pop("422", None)  # one of 4XX, and not of FastAPI's form
            for status in ("4XX", "503"):
                content = responses.get(status, {}).get("content", {})
                if "application/json" in content:
                    content[PROBLEM] = content.pop("application/json")
    return description


async def _on_registry_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RegistryError)  # noqa: S101  # starlette picks the handler by type
    return answer_of(request, error)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    errors = [
        {"where": ".".join(_shown(part) for part in item["loc"]), "reason": _shown(item["msg"])}
        for item in error.errors()[:20]
    ]
    detail = f"the request is wrong at {errors[0]['where']}: {errors[0]['reason']}"
    if wants_page(request):
        return error_page(request, 422, detail)
    return problem(422, "REQUEST_INVALID", detail, {"errors": errors})


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    cause = error.__cause__
    if isinstance(cause, RegistryError):  # FastAPI wraps what is raised while a body is read
        return await _on_registry_error(request, cause)
    headers = dict(error.headers or {}) | ({"Allow": _allowed(request)} if error.status_code == 405 else {})
    if wants_page(request):
        said = {404: "There is no such page.", 405: f"This address takes no {_shown(request.method)}."}
        detail = said.get(error.status_code, str(error.detail))
        return error_page(request, error.status_code, detail, headers=headers)
    code = _HTTP_CODES.get(error.status_code, "REQUEST_INVALID")
    return problem(error.status_code, code, str(error.detail), None, headers)


def _allowed(request: Request) -> str:
    """Every method of the path: the routing knows only those of the first route that matches."""
    found, paths = set[str](), request.app.openapi()["paths"]
    own = request.url.path
    for template, methods in {own: paths[own]}.items() if own in paths else paths.items():
        if compile_path(template)[0].match(request.url.path):
            found.update(method.upper() for method in methods)
    return ", ".join(sorted(found)) or "GET"


async def _on_departure(_request: Request, _error: Exception) -> Response:
    """For the log alone, since nobody reads the answer; nginx has this status for it."""
    return Response(status_code=499)


async def _on_bug(request: Request, error: Exception) -> Response:
    log.error("a bug in the registry, at %s %s", request.method, ascii(request.url.path)[:200], exc_info=error)
    detail = "the registry failed; its log says where"
    return error_page(request, 500, detail) if wants_page(request) else problem(500, "INTERNAL", detail)


def _shown(part: object) -> str:
    """A client's text, made harmless."""
    return ascii(str(part)[:200])[1:-1]
