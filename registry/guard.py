"""What every request passes first: host, origin, load and secrets in URLs; and what every answer carries."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.auth import TOKEN, hash_token, redact, token_in
from registry.errors import ForbiddenError, InvalidRequestError, RegistryError, UnavailableError
from registry.rate import RateLimit
from registry.routes.problems import answer_of
from registry.settings import LOOPBACK_NAMES, Settings, is_address

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser sends our own forms from the origin "null"
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
MAX_QUERY_BYTES = 8_192
_SECRET_KEYS = {"token", "access_token", "api_key", "apikey", "authorization", "password"}
_REPEATED_KEYS = {"expand", "filter"}  # lists, as the Hugging Face libraries write them
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}

log = logging.getLogger("registry.access")


class Guard:
    """An ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._hosts = frozenset(_names(settings)) - {""}
        self._running = 0
        self._rate = RateLimit(settings.rate) if settings.rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses the request, or passes it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                _keep_to_the_caller(scope, headers)
            await send(message)

        self._running += 1
        try:
            self._check(scope)
            await self._app(scope, receive, send_guarded)
        except RegistryError as error:
            if status:  # the answer has begun: all that is left is to cut it off
                raise
            await answer_of(Request(scope), error)(scope, receive, send_guarded)
        finally:
            self._running -= 1
            self._remember(scope)
            _log(scope, status, time.monotonic() - started)

    def _check(self, scope: Scope) -> None:
        if self._running > self._settings.max_requests:
            raise UnavailableError("the registry serves as many requests as it may; try again in a second")
        headers = Headers(scope=scope)
        if self._rate:
            key = _key(headers)
            self._rate.take(key if key and self._rate.knows(key) else str((scope.get("client") or ("-", 0))[0]))
        host = headers.get("host", "")
        if not self._is_known(_host_name(host)):
            raise InvalidRequestError(
                f"the Host header {host[:100]!a} is none of this registry's names; "
                "its operator can add it to ZOO_REGISTRY_TRUSTED_HOSTS"
            )
        if scope["method"] not in _SAFE_METHODS:
            _check_origin(headers, host)
        _check_query(scope)

    def _remember(self, scope: Scope) -> None:
        """Counts a token for itself from now on, if a route found that it holds; until then its address is counted."""
        key, caller = _key(Headers(scope=scope)), getattr(Request(scope).state, "caller", None)
        if self._rate and key and caller is not None and caller.name is not None:
            self._rate.admit(key)

    def _is_known(self, name: str) -> bool:
        if name in self._hosts:
            return True
        return self._settings.is_any_address and is_address(name)


def _key(headers: Headers) -> str | None:
    """What the token that was sent is remembered by."""
    token = token_in(headers.get("authorization", ""))
    return hash_token(token) if token else None


def _keep_to_the_caller(scope: Scope, headers: MutableHeaders) -> None:
    """What a token opened is for its owner's cache alone."""
    given = Headers(scope=scope)
    if "authorization" in given or "cookie" in given:
        cached = headers.get("cache-control", "private")
        headers["Cache-Control"] = cached.replace("public", "private")
    headers.append("Vary", "Authorization, Cookie")


def _names(settings: Settings) -> Iterable[str]:
    yield from settings.trusted_hosts
    yield from (settings.host.lower(), _host_name(urlsplit(settings.public_url).netloc))
    if settings.listens_on_loopback or settings.is_any_address:
        yield from LOOPBACK_NAMES


def _host_name(host: str) -> str:
    """The host without its port, lower case; empty if it is malformed."""
    try:
        parts = urlsplit("//" + host)
        _ = parts.port
    except ValueError:
        return ""
    return (parts.hostname or "") if parts.netloc == host and "@" not in host else ""


def _check_origin(headers: Headers, host: str) -> None:
    """Lets no other site write through a visitor's browser; programs send neither header."""
    origin = headers.get("origin")
    crosses = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    if crosses or (origin is not None and urlsplit(origin).netloc != host):
        raise ForbiddenError("other sites can't write to this registry through a browser")


def _check_query(scope: Scope) -> None:
    query = scope["query_string"]
    if len(query) > MAX_QUERY_BYTES or len(scope.get("raw_path") or b"") > MAX_QUERY_BYTES:
        raise InvalidRequestError(f"the URL is longer than {MAX_QUERY_BYTES} bytes")
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=64)
    except (UnicodeDecodeError, ValueError):
        raise InvalidRequestError("the query is not UTF-8 in percent encoding, or has too many fields") from None
    keys = [key.lower() for key, _ in pairs]
    has_token = any(TOKEN.search(text) for pair in pairs for text in pair) or TOKEN.search(scope["path"])
    if has_token or not _SECRET_KEYS.isdisjoint(keys):
        raise InvalidRequestError(
            "URLs are logged on their way, so a token in one is refused; send it as 'Authorization: Bearer ...', "
            "and revoke this one if it was real"
        )
    single = [key for key in keys if key not in _REPEATED_KEYS]
    if len(set(single)) != len(single):
        raise InvalidRequestError("the query has the same field twice")


def _log(scope: Scope, status: int, seconds: float) -> None:
    path = redact(ascii(scope["path"][:300])[1:-1])
    client = scope.get("client") or ("-", 0)
    log.info("%s %s %s %d %.0f ms", client[0], scope["method"], path, status, seconds * 1000)
