"""Failures as HTTP answers: every error has a JSON body {"error": {"status", "message", ...}}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from engine.errors import PipelineError

# Nobody receives it; web servers write this number in their logs for a client that went away.
_CLIENT_GONE = 499


class HttpError(Exception):
    """A request can't be answered: the status, a sentence, and what is wrong with which field."""

    def __init__(
        self,
        status: int,
        message: str,
        problems: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.problems, self.headers = status, message, list(problems), headers

    def response(self) -> JSONResponse:
        """Return the answer that tells it."""
        error: dict[str, Any] = {"status": self.status, "message": self.message}
        if self.problems:
            error["problems"] = self.problems
        return JSONResponse({"error": error}, self.status, dict(self.headers or {}))


class BusyError(HttpError):
    """The server can't take the request now; the client may come again."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(503, message, headers={"Retry-After": str(retry_after_s)})


def add_handlers(app: FastAPI) -> None:
    """Answer every failure of `app` in one form."""
    app.add_exception_handler(HttpError, _told)
    app.add_exception_handler(PipelineError, _refused)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(HTTPException, _of_the_framework)
    app.add_exception_handler(Exception, _unexpected)


async def _told(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HttpError)  # noqa: S101 - registered for this type alone
    return error.response()


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    return HttpError(422, str(error)).response()


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=_CLIENT_GONE)


async def _of_the_framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    hint = f"{request.method} {request.url.path}: {error.detail}; /docs lists what there is"
    return HttpError(error.status_code, hint, headers=error.headers).response()


async def _unexpected(_request: Request, _error: Exception) -> JSONResponse:
    """The server framework logs the traceback; a stranger learns nothing from the answer."""
    return HttpError(500, "the server failed on this request; its log says why").response()
