"""JSON bodies, read strictly: bounded, UTF-8, no duplicate keys, no NaN, no Infinity.

Whatever is parsed keeps every other request waiting, and costs what it has of values rather than of bytes. So a body is
refused by its length, which each route bounds by what it can need, and by its number of values, before it is parsed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope

from registry.errors import InvalidRequestError, RegistryError, TooLargeError
from registry.routes.depends import check_writer
from registry.routes.receive import check_headers, parts, refuse

MAX_OPEN_BYTES = 1 << 20  # of a body whose model has no MAX_BODY_BYTES
MAX_MARKS = 80_000  # commas, brackets, braces and backslashes of a body; a manifest of ten thousand files has 50,000
MAX_KEYS = 256  # of an object; each that a model doesn't know is an error of its own, which takes longer than parsing
_LARGE_BYTES = 1 << 16  # takes longer to parse than to hand to a thread


def read_json(data: bytes) -> Any:
    """Parses JSON; raises `InvalidRequestError` for what RFC 8259 leaves to chance, `TooLargeError` for many values."""
    if sum(data.count(mark) for mark in b",[{\\") > MAX_MARKS:
        raise TooLargeError("the JSON has more values than any request needs")
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_float
        )
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"the JSON is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InvalidRequestError(f"no valid JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise InvalidRequestError("the JSON is nested too deeply") from None
    except ValueError:  # an integer of thousands of digits
        raise InvalidRequestError("the JSON has a number with too many digits") from None


class StrictRoute(APIRoute):
    """A route whose JSON body is read by `read_json`, up to a limit, and after the token that writing needs."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, on a stricter request."""
        handler = super().get_route_handler()
        writes = any(needed.call is check_writer for needed in self.dependant.dependencies)
        sent = self.body_field.field_info.annotation if self.body_field else None
        own_limit = getattr(sent, "MAX_BODY_BYTES", MAX_OPEN_BYTES)

        async def strict(request: Request) -> Response:
            if writes:  # FastAPI itself asks after it has read the body
                await run_in_threadpool(check_writer, request)
            limit = min(own_limit, request.app.state.settings.max_body_bytes)
            return await handler(_StrictRequest(request.scope, request.receive, limit))

        return strict


class _StrictRequest(Request):
    def __init__(self, scope: Scope, receive: Receive, limit_bytes: int) -> None:
        super().__init__(scope, receive)
        self._limit_bytes = limit_bytes

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            idle_s = self.app.state.settings.upload_idle_s
            try:
                check_headers(self, self._limit_bytes)
            except RegistryError as error:
                raise await refuse(self, idle_s, error) from None
            held, size = list[bytes](), 0
            async for part in parts(self, idle_s):
                size += len(part)
                if size > self._limit_bytes:
                    raise TooLargeError(f"the body is larger than {self._limit_bytes} bytes")
                held.append(part)
            self._body = b"".join(held)
        return self._body

    async def json(self) -> Any:
        data = await self.body()
        return await run_in_threadpool(read_json, data) if len(data) > _LARGE_BYTES else read_json(data)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise TooLargeError(f"the JSON has an object with more than {MAX_KEYS} keys")
    document = dict(pairs)
    if len(document) != len(pairs):
        raise InvalidRequestError("the JSON has an object with the same key twice")
    return document


def _refuse_constant(text: str) -> NoReturn:
    raise InvalidRequestError(f"the JSON has {text}, which is no JSON number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidRequestError("the JSON has a number that is too large")
    return value
