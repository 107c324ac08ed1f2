"""One registry over HTTP: requests, redirects, time limits; the only place that imports httpx.

Redirects are followed here, not by httpx: at most five, http or https only, never from https to http, and the token
goes to the registry's own origin alone. Answers are asked for unencoded; their sizes and times are bounded.
"""

from __future__ import annotations

import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib import metadata
from typing import Any
from weakref import WeakSet

import httpx

from zoo.addresses import is_public
from zoo.answer import read_document
from zoo.errors import UnavailableError, ZooError
from zoo.problems import error_of
from zoo.progress import ZooWarning
from zoo.retry import TransientError, repeat
from zoo.settings import APP, Settings, SettingsError

BASE = "/api/v1"
MAX_REDIRECTS = 5
MAX_DOCUMENT_BYTES = 32 << 20
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_WITHOUT_PROXY = ("all://localhost", "all://127.0.0.1", "all://[::1]")
_CREDENTIALS = ("authorization", "cookie", "proxy-authorization")


class Connection:
    """The connections of one thread to one registry.

    `public_hops`: redirects to other hosts are followed to public addresses only, whatever their names resolve to.
    Raises `NotFoundError`, `AccessError`, `ConflictError`, `UnavailableError`, and what `zoo.problems` lists.
    """

    def __init__(self, settings: Settings, *, public_hops: bool = False) -> None:
        self._public_hops = public_hops
        self.endpoint, self.patience = settings.endpoint, settings.patience
        self._token = settings.token
        self._origin = _origin(httpx.URL(settings.endpoint))
        if self._token and self._origin[0] == "http" and self._origin[1] not in _LOOPBACK:
            warnings.warn(f"the token goes unencrypted to {self.endpoint}; use https", ZooWarning, stacklevel=3)
        self._watchdog = _Watchdog()
        self._http = self._connections()

    def _connections(self) -> httpx.Client:
        timeout = httpx.Timeout(self.patience.read_s, connect=self.patience.connect_s)
        try:
            return httpx.Client(
                headers={"User-Agent": f"{APP}/{_release()}", "Accept-Encoding": "identity"},
                timeout=timeout,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                mounts=dict.fromkeys(_WITHOUT_PROXY),
                follow_redirects=False,
            )
        except (OSError, ValueError, ImportError, httpx.InvalidURL) as error:
            names = "SSL_CERT_FILE, SSL_CERT_DIR, HTTP_PROXY, HTTPS_PROXY or ALL_PROXY"
            raise SettingsError(f"one of the variables {names} can't be used: {error}") from error

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        on_status: Callable[[int], None] = lambda _: None,
    ) -> Any:
        """Sends until it is answered, for as long as the patience lasts; returns the JSON document that came."""

        def attempt() -> Any:
            with self.send(method, path, self.patience.request_s, params=params, json=body) as response:
                on_status(response.status_code)
                return read_document(read_body(response, MAX_DOCUMENT_BYTES), self.endpoint)

        return repeat(attempt, self.patience)

    @contextmanager
    def send(
        self, method: str, path: str, limit_s: float, *, whole: bool = True, **parts: Any
    ) -> Iterator[httpx.Response]:
        """Sends once, follows redirects, raises for a refusal. `whole`: the time limit covers the body too."""
        response = None
        try:
            with self._watchdog.limit(limit_s) as stop_watching:
                request = self._http.build_request(
                    method, self.endpoint + BASE + path, extensions=self._extensions(), **parts
                )
                response = self._follow(request)
                if response.is_error:
                    raise error_of(response.status_code, response.headers, read_body(response, 1 << 20), self.endpoint)
                if not whole:
                    stop_watching()
                yield response
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            raise self._mapped(error, limit_s) from error
        finally:
            if response is not None:
                response.close()

    def paced(self, response: httpx.Response) -> Iterator[bytes]:
        """The body as it comes; raises `TransientError` where that is slower than the patience allows."""
        window_start, window_bytes = time.monotonic(), 0
        for chunk in response.iter_bytes():
            yield chunk
            window_bytes += len(chunk)
            elapsed_s = time.monotonic() - window_start
            if elapsed_s >= self.patience.slow_window_s:
                if window_bytes < self.patience.slow_bytes_per_s * elapsed_s:
                    raise TransientError(f"{where(response)} sends only {window_bytes / elapsed_s:.0f} bytes a second")
                window_start, window_bytes = time.monotonic(), 0

    def _follow(self, request: httpx.Request) -> httpx.Response:
        for _ in range(MAX_REDIRECTS + 1):
            if self._token and _origin(request.url) == self._origin:
                request.headers["Authorization"] = f"Bearer {self._token}"
            response = self._http.send(request, stream=True)
            if not response.has_redirect_location:
                return response
            response.close()
            request = self._next_hop(request, response)
        raise UnavailableError(f"{self.endpoint} redirects more than {MAX_REDIRECTS} times; check ZOO_ENDPOINT")

    def _next_hop(self, request: httpx.Request, response: httpx.Response) -> httpx.Request:
        target = request.url.join(response.headers["location"])
        shown = f"{where(response)} redirects to {str(target)[:200]!r}"
        if target.scheme not in ("http", "https") or not target.host:
            raise UnavailableError(f"{shown}, which is neither http nor https; not followed")
        if request.url.scheme == "https" and target.scheme != "https":
            raise UnavailableError(f"{shown}, from https to http; not followed")
        if request.method != "GET":
            raise UnavailableError(f"{shown}; writes aren't redirected: set ZOO_ENDPOINT to the registry's own address")
        headers = {k: v for k, v in request.headers.items() if k not in (*_CREDENTIALS, "host")}
        checked = self._public_hops and _origin(target) != self._origin
        return self._http.build_request("GET", target, headers=headers, extensions=self._extensions(checked=checked))

    def _extensions(self, *, checked: bool = False) -> dict[str, Any]:
        return {"trace": self._watchdog.trace_public if checked else self._watchdog.trace}

    def _mapped(self, error: Exception, limit_s: float) -> ZooError:
        reason = str(error) or type(error).__name__
        if self._watchdog.fired:
            return TransientError(f"the registry at {self.endpoint} took longer than {limit_s:.0f} s")
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            return UnavailableError(f"the certificate of {self.endpoint} isn't trusted: {reason}; see SSL_CERT_FILE")
        if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return UnavailableError(f"{self.endpoint} can't be used: {reason}")
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
            return TransientError(
                f"the registry at {self.endpoint} can't be reached: {reason}. "
                "Start one with `zoo registry serve`, or set ZOO_ENDPOINT",
                connected=False,
            )
        return TransientError(f"the connection to {self.endpoint} broke: {reason}")


class _Watchdog:
    """Cuts the connections when a limit is over: a peer that sends a byte a second never trips a read timeout."""

    def __init__(self) -> None:
        self.fired = False
        self._sockets: WeakSet[socket.socket] = WeakSet()

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Called by httpcore at each step of a request: notes new connections."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            opened = info["return_value"].get_extra_info("socket")
            if isinstance(opened, socket.socket):
                self._sockets.add(opened)

    def trace_public(self, event: str, info: Mapping[str, Any]) -> None:
        """The same; closes a new connection to an address that isn't public before anything is sent."""
        if event.endswith("connect_tcp.complete"):
            stream = info["return_value"]
            address = str(stream.get_extra_info("server_addr")[0])
            if not is_public(address):
                stream.close()
                raise UnavailableError(
                    f"a redirect leads to {address}, an address of this machine's own network; refused. "
                    "If that is your registry, name it itself"
                )
        self.trace(event, info)

    @contextmanager
    def limit(self, limit_s: float) -> Iterator[Callable[[], None]]:
        """Cuts after `limit_s`, unless the block ends or the function that it gets is called before."""
        self.fired = False
        timer = threading.Timer(limit_s, self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield timer.cancel
        finally:
            timer.cancel()

    def _cut(self) -> None:
        self.fired = True
        for opened in list(self._sockets):
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)


def read_body(response: httpx.Response, limit_bytes: int) -> bytes:
    """The whole body; raises `UnavailableError` if it is longer than the limit."""
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > limit_bytes:
            raise UnavailableError(f"{where(response)} answers with more than {limit_bytes} bytes; refused")
    return bytes(body)


def where(response: httpx.Response) -> str:
    """An answer's address for messages, without its query."""
    return str(response.request.url.copy_with(query=None))[:300]


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _release() -> str:
    try:
        return metadata.version(APP)
    except metadata.PackageNotFoundError:
        return "0"
