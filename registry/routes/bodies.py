"""JSON bodies, read strictly: bounded, UTF-8, no duplicate keys, no NaN, no Infinity."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute

from registry.errors import InvalidRequestError, TooLargeError


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
    """A route whose JSON body is read by `read_json`, up to the limit of the settings."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, on a stricter request."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


class _StrictRequest(Request):
    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            limit, parts, size = self.app.state.settings.max_body_bytes, [], 0
            async for part in self.stream():
                size += len(part)
                if size > limit:
                    raise TooLargeError(f"the body is larger than {limit} bytes")
                parts.append(part)
            self._body = b"".join(parts)
        return self._body

    async def json(self) -> Any:
        return read_json(await self.body())


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
