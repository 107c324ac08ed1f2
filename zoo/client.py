"""HTTP to a registry; the only place that imports httpx.

Redirects are followed here, not by httpx: at most five, http or https only, never from https to http, and the token
goes to the registry's own origin alone. Answers are asked for unencoded; their sizes and times are bounded.
"""

from __future__ import annotations

import hashlib
import re
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

import httpx

from zoo import static_registry
from zoo.benchmark import BenchmarkRecord, Hardware
from zoo.disk import CHUNK_BYTES
from zoo.errors import IntegrityError, UnavailableError, ZooError
from zoo.manifest import Manifest
from zoo.problems import RangeRefusedError, error_of, first_line, read_document
from zoo.progress import ZooWarning
from zoo.retry import TransientError, repeat
from zoo.settings import APP, Settings, SettingsError
from zoo.stub import Stub
from zoo.version import BenchmarkView, BestPage, SearchPage, VersionSummary, VersionView

BASE = "/api/v1"
MAX_REDIRECTS = 5
MAX_DOCUMENT_BYTES = 32 << 20
_ASSEMBLED_BYTES_PER_S = 16 << 20  # a registry that puts an upload together is at least so fast
_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})\Z")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_WITHOUT_PROXY = ("all://localhost", "all://127.0.0.1", "all://[::1]")
_CREDENTIALS = ("authorization", "cookie", "proxy-authorization")


@dataclass(frozen=True)
class BlobStream:
    """A blob's bytes from `start` on. `declared_bytes` is the whole blob's size as the sender says, if it does."""

    start: int
    declared_bytes: int | None
    etag: str | None
    chunks: Iterator[bytes]


class RegistryClient:
    """One registry, one thread. A context manager that closes its connections.

    Raises `NotFoundError`, `AccessError`, `ConflictError`, `UnavailableError`, `IntegrityError`, `ManifestError`.
    """

    def __init__(self, settings: Settings) -> None:
        self.endpoint = settings.endpoint
        self._token = settings.token
        self._patience = settings.patience
        self._origin = _origin(httpx.URL(settings.endpoint))
        if self._token and self._origin[0] == "http" and self._origin[1] not in _LOOPBACK:
            warnings.warn(f"the token goes unencrypted to {self.endpoint}; use https", ZooWarning, stacklevel=3)
        self._watchdog = _Watchdog()
        self._http = self._connections()

    def _connections(self) -> httpx.Client:
        timeout = httpx.Timeout(self._patience.read_s, connect=self._patience.connect_s)
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def resolve(self, stub: Stub) -> VersionView:
        """The version that a stub names now."""
        answer = self._get("/resolve", {"stub": str(stub)})
        if static_registry.is_static(answer):
            answer = static_registry.choose(self._get(static_registry.path_of(stub)), stub)
        return VersionView.read(answer, stub)

    def search(self, text: str = "", *, limit: int = 20, cursor: str | None = None, **filters: object) -> SearchPage:
        """One page of models; filters are domain, task, architecture, dataset, pattern, license, quantized, ..."""
        wanted = {"q": text, "limit": limit, "cursor": cursor, **filters}
        asked = {k: v for k, v in wanted.items() if v not in (None, "")}
        answer = self._get("/models", {k: _plain(v) for k, v in asked.items()})
        if static_registry.is_static(answer):
            del asked["limit"]
            answer = {"items": static_registry.matching(answer["items"], asked, limit), "next_cursor": None}
        return SearchPage.parse(answer)

    def versions(self, stub: Stub) -> tuple[VersionSummary, ...]:
        """All versions of a model."""
        answer = self._get("/versions", {"stub": str(stub)})
        if static_registry.is_static(answer):
            answer = {"items": static_registry.versions_in(self._get(static_registry.path_of(stub)))}
        return tuple(VersionSummary.parse(item) for item in _items(answer))

    def post_benchmark(self, stub: Stub, record: BenchmarkRecord) -> BenchmarkView:
        """Adds a measurement to the version that the stub names; sending the same one again changes nothing."""
        body = {"stub": str(stub), "record": record.model_dump(mode="json", exclude_none=True)}
        return BenchmarkView.parse(self._call("POST", "/benchmarks", body=body))

    def best(self, hardware: Hardware, *, limit: int = 10, **wanted: object) -> BestPage:
        """The models with the highest F1 on this hardware; wanted are f1_min (percent), latency_max_ms, task, ..."""
        asked = {"cpu": hardware.cpu, "isa": hardware.isa, "cores": hardware.cores, "limit": limit, **wanted}
        return BestPage.parse(self._get("/best", {k: _plain(v) for k, v in asked.items() if v not in (None, "")}))

    def whoami(self) -> dict[str, Any]:
        """What the registry knows of the token."""
        return _object(self._get("/whoami"))

    def missing_blobs(self, digests: Sequence[str]) -> frozenset[str]:
        """Those digests whose bytes the registry doesn't have."""
        answer = _object(self._call("POST", "/blobs/missing", body={"digests": list(digests)}))
        missing = answer.get("missing")
        if not isinstance(missing, list):
            raise UnavailableError(f"the answer of {self.endpoint} to blobs/missing has no list of digests")
        return frozenset(digests) & frozenset(str(digest) for digest in missing)

    def post_version(
        self, manifest: Manifest, tags: Sequence[str] = (), version: int | None = None
    ) -> tuple[VersionView, bool]:
        """Publishes a version whose blobs are there; returns it and whether it is new."""
        body: dict[str, Any] = {"manifest": manifest.model_dump(mode="json", exclude_none=True), "tags": list(tags)}
        if version is not None:
            body["version"] = version
        statuses: list[int] = []
        view = VersionView.read(self._call("POST", "/versions", body=body, on_status=statuses.append))
        if view.digest != manifest.digest():
            raise IntegrityError(f"published {manifest.digest()}, the registry answered with {view.digest}")
        return view, statuses[-1] == httpx.codes.CREATED

    def put_tag(self, stub: Stub, tag: str) -> VersionView:
        """Moves a tag to the version that the stub names."""
        return VersionView.read(self._call("PUT", "/tags", body={"stub": str(stub), "tag": tag}))

    def put_blob(
        self, path: Path, digest: str, size_bytes: int, report: Callable[[int], None] = lambda _: None
    ) -> None:
        """Streams a file to the registry; raises `IntegrityError` if it isn't the file that was hashed any more."""
        limit_s = self._patience.request_s + size_bytes / self._patience.slow_bytes_per_s
        headers = {"Content-Length": str(size_bytes), "Content-Type": "application/octet-stream"}

        def attempt() -> None:
            content = _file_chunks(path, digest, size_bytes, report)
            with self._open("PUT", f"/blobs/{digest}", limit_s, headers=headers, content=content) as response:
                _read(response, MAX_DOCUMENT_BYTES)

        repeat(attempt, self._patience)

    def begin_upload(self, digest: str, size_bytes: int) -> tuple[str, int]:
        """Begins an upload in chunks, or finds the one begun before: its id, and the offset where it goes on."""
        answer = _object(self._call("POST", "/uploads", body={"digest": digest, "size_bytes": size_bytes}))
        return _text(answer, "id"), _count(answer, "offset_bytes")

    def append_chunk(self, upload: str, path: Path, offset: int, length: int) -> int:
        """Sends a file's bytes from the offset on; returns the offset after them. Raises `OffsetMovedError`."""
        limit_s = self._patience.request_s + length / self._patience.slow_bytes_per_s
        headers = {"Upload-Offset": str(offset), "Content-Length": str(length)}

        def attempt() -> int:
            content = _span_chunks(path, offset, length)
            with self._open("PATCH", f"/uploads/{upload}", limit_s, headers=headers, content=content) as response:
                answer = _object(read_document(_read(response, MAX_DOCUMENT_BYTES), self.endpoint))
                return _count(answer, "offset_bytes")

        return repeat(attempt, self._patience)

    def finish_upload(self, upload: str, size_bytes: int) -> None:
        """Makes a complete upload a blob; raises `OffsetMovedError`, `IntegrityError`."""
        limit_s = self._patience.request_s + size_bytes / _ASSEMBLED_BYTES_PER_S

        def attempt() -> None:
            with self._open("POST", f"/uploads/{upload}/finish", limit_s) as response:
                _read(response, MAX_DOCUMENT_BYTES)

        repeat(attempt, self._patience)

    def lineage(self, stub: Stub) -> dict[str, Any]:
        """What a version was made from, and what was made from it."""
        return _object(self._get("/lineage", {"stub": str(stub)}))

    def yank(self, stub: Stub, reason: str | None) -> VersionSummary:
        """Leaves a version out where nothing pins it; without a reason, takes that back."""
        return VersionSummary.parse(self._call("PUT", "/yanks", body={"stub": str(stub), "reason": reason}))

    def delete_version(self, stub: Stub, reason: str, *, force: bool = False) -> None:
        """Deletes a version for good."""
        self._call("POST", "/versions/delete", body={"stub": str(stub), "reason": reason, "force": force})

    @contextmanager
    def open_blob(self, digest: str, start: int = 0, etag: str | None = None) -> Iterator[BlobStream]:
        """Asks once for a blob's bytes from `start` on; `etag` is that of the bytes that are there already.

        Where the answer starts at byte 0 all the same, `BlobStream.start` says so. Raises `RangeRefusedError` for an
        answer that fits nothing, `TransientError` for what may pass, also while the chunks are read.
        """
        headers = {}
        if start:
            headers = {"Range": f"bytes={start}-", "If-Range": etag or f'"{digest}"'}
        with self._open("GET", f"/blobs/{digest}", self._patience.request_s, headers=headers, whole=False) as response:
            if response.headers.get("content-type", "").startswith("text/html"):
                page = first_line(next(response.iter_bytes(), b""))
                raise UnavailableError(
                    f"a web page came instead of a file from {_where(response)}; it begins with {page}. "
                    "A proxy or a login page of the network may stand in between"
                )
            at, declared = _span(response, start)
            yield BlobStream(at, declared, response.headers.get("etag"), self._paced(response))

    def _paced(self, response: httpx.Response) -> Iterator[bytes]:
        window_start, window_bytes = time.monotonic(), 0
        for chunk in response.iter_bytes():
            yield chunk
            window_bytes += len(chunk)
            elapsed_s = time.monotonic() - window_start
            if elapsed_s >= self._patience.slow_window_s:
                if window_bytes < self._patience.slow_bytes_per_s * elapsed_s:
                    raise TransientError(f"{_where(response)} sends only {window_bytes / elapsed_s:.0f} bytes a second")
                window_start, window_bytes = time.monotonic(), 0

    def _get(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        return self._call("GET", path, params=params)

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        on_status: Callable[[int], None] = lambda _: None,
    ) -> Any:
        def attempt() -> Any:
            with self._open(method, path, self._patience.request_s, params=params, json=body) as response:
                on_status(response.status_code)
                return read_document(_read(response, MAX_DOCUMENT_BYTES), self.endpoint)

        return repeat(attempt, self._patience)

    @contextmanager
    def _open(
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
                    raise error_of(response.status_code, response.headers, _read(response, 1 << 20), self.endpoint)
                if not whole:
                    stop_watching()
                yield response
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            raise self._mapped(error, limit_s) from error
        finally:
            if response is not None:
                response.close()

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
        shown = f"{_where(response)} redirects to {str(target)[:200]!r}"
        if target.scheme not in ("http", "https") or not target.host:
            raise UnavailableError(f"{shown}, which is neither http nor https; not followed")
        if request.url.scheme == "https" and target.scheme != "https":
            raise UnavailableError(f"{shown}, from https to http; not followed")
        if request.method != "GET":
            raise UnavailableError(f"{shown}; writes aren't redirected: set ZOO_ENDPOINT to the registry's own address")
        headers = {k: v for k, v in request.headers.items() if k not in (*_CREDENTIALS, "host")}
        return self._http.build_request("GET", target, headers=headers, extensions=self._extensions())

    def _extensions(self) -> dict[str, Any]:
        return {"trace": self._watchdog.trace}

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


def _span(response: httpx.Response, start: int) -> tuple[int, int | None]:
    """First byte of an answer's body and the whole size that it declares; raises `RangeRefusedError`."""
    if response.status_code == httpx.codes.OK:
        length = response.headers.get("content-length", "")
        plain = "content-encoding" not in response.headers and length.isascii() and length.isdigit()
        return 0, int(length[:18]) if plain else None
    match = _CONTENT_RANGE.match(response.headers.get("content-range", ""))
    if response.status_code != httpx.codes.PARTIAL_CONTENT or not match or "content-encoding" in response.headers:
        raise RangeRefusedError(f"HTTP {response.status_code} from {_where(response)} for a range")
    first, last, total = (int(number) for number in match.groups())
    if first != start or not first <= last < total:
        raise RangeRefusedError(f"asked for bytes from {start}, got {match[0]!r}")
    return first, total


def _read(response: httpx.Response, limit_bytes: int) -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > limit_bytes:
            raise UnavailableError(f"{_where(response)} answers with more than {limit_bytes} bytes; refused")
    return bytes(body)


def _file_chunks(path: Path, digest: str, size_bytes: int, report: Callable[[int], None]) -> Iterator[bytes]:
    """The file's bytes; raises `IntegrityError` before the last of them if they aren't those of the digest."""
    state, sent = hashlib.sha256(), 0
    with path.open("rb") as stream:
        chunk = stream.read(CHUNK_BYTES)
        while chunk:
            state.update(chunk)
            sent += len(chunk)
            following = stream.read(CHUNK_BYTES)
            whole = sent == size_bytes and f"sha256:{state.hexdigest()}" == digest
            if sent > size_bytes or (not following and not whole):
                raise IntegrityError(f"{path} changed while it was being published; publish again")
            yield chunk
            report(sent)
            chunk = following
    if sent != size_bytes:
        raise IntegrityError(f"{path} changed while it was being published; publish again")


def _span_chunks(path: Path, offset: int, length: int) -> Iterator[bytes]:
    """A part of a file; raises `IntegrityError` if the file has become shorter."""
    with path.open("rb") as stream:
        stream.seek(offset)
        while length:
            chunk = stream.read(min(length, CHUNK_BYTES))
            if not chunk:
                raise IntegrityError(f"{path} changed while it was being published; publish again")
            length -= len(chunk)
            yield chunk


def _text(answer: Mapping[str, Any], key: str) -> str:
    value = answer.get(key)
    if not isinstance(value, str) or not value.isalnum():
        raise UnavailableError(f"the registry's answer has no {key}")
    return value


def _count(answer: Mapping[str, Any], key: str) -> int:
    value = answer.get(key)
    if not isinstance(value, int) or value < 0:
        raise UnavailableError(f"the registry's answer has no {key}")
    return value


def _items(answer: Any) -> list[Any]:
    items = _object(answer).get("items")
    if not isinstance(items, list):
        raise UnavailableError("the registry's answer has no list of items")
    return items


def _object(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise UnavailableError("the registry's answer is no JSON object")
    return answer


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _where(response: httpx.Response) -> str:
    return str(response.request.url.copy_with(query=None))[:300]


def _release() -> str:
    try:
        return metadata.version(APP)
    except metadata.PackageNotFoundError:
        return "0"
