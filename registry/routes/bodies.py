"""JSON bodies, read strictly: bounded, UTF-8, no duplicate keys, no NaN, no Infinity."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope

from registry.errors import InvalidRequestError, TooLargeError
from registry.routes.depends import check_writer
from registry.routes.receive import parts

MAX_OPEN_BYTES = 1 << 20  # of a body that anybody may send; ten thousand digests fit
_LARGE_BYTES = 1 << 16  # takes longer to parse than to hand to a thread


def read_json(data: bytes) -> Any:
    """Parses JSON; raises `InvalidRequestError` for what RFC 8259 leaves to chance."""
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

        async def strict(request: Request) -> Response:
            if writes:  # FastAPI itself asks after it has read the body
                await run_in_threadpool(check_writer, request)
            largest = request.app.state.settings.max_body_bytes
            limit = largest if writes else min(largest, MAX_OPEN_BYTES)
            return await handler(_StrictRequest(request.scope, request.receive, limit))

        return strict


class _StrictRequest(Request):
    def __init__(self, scope: Scope, receive: Receive, limit_bytes: int) -> None:
        super().__init__(scope, receive)
        self._limit_bytes = limit_bytes

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            held, size = list[bytes](), 0
            async for part in parts(self, self.app.state.settings.upload_idle_s):
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
