"""The ASGI application: routes of the originals, all generations of them at once."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from engine.server import pages
from engine.server.endpoint import MOST_TEXTS, Endpoint
from engine.server.errors import HttpError, add_handlers
from engine.server.settings import ServerSettings, SettingsError
from engine.server.workers import Workers, in_daemon_thread

_MOST_DROPPED_BYTES = 2**24


class Service:
    """What the routes share: the endpoints by name, the threads, and whether the server is going down.

    Raises PipelineError when an endpoint's task, options or folder are wrong.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.endpoints = {
            name: Endpoint(name, endpoint, settings.num_cores, settings.num_workers)
            for name, endpoint in zip(settings.names(), settings.endpoints, strict=True)
        }
        self.workers = Workers(settings.workers(), settings.queue_limit)
        self.loaded = asyncio.Event()
        self.draining = False
        self._ends_at = math.inf

    @property
    def ready(self) -> bool:
        """Whether every model can be asked and the server stays."""
        return not self.draining and all(endpoint.state == "ready" for endpoint in self.endpoints.values())

    async def load(self) -> None:
        """Load every model, one after the other, then set `loaded`; no further one once the server drains."""
        for endpoint in self.endpoints.values():
            if self.draining:
                return
            await in_daemon_thread(endpoint.load)
        self.loaded.set()

    def drain(self) -> None:
        """Be ready no longer; what is under way has `drain_delay_s` and `drain_limit_s` from now on."""
        self.draining = True
        self._ends_at = time.monotonic() + self.settings.drain_delay_s + self.settings.drain_limit_s

    async def end(self, loading: asyncio.Task[None]) -> None:
        """Wait for the model that is loading while the drain lasts, then free everything."""
        if not self.draining:
            self.drain()
        await asyncio.wait({loading}, timeout=max(0.0, self._ends_at - time.monotonic()))
        loading.cancel()
        await asyncio.to_thread(self.close)

    async def answer(self, endpoint: Endpoint, request: Request) -> Response:
        """Answer one HTTP request of JSON. Raises HttpError, PipelineError, ClientDisconnect."""
        answer = await self.ask(endpoint, await self.body(request), request)
        return Response(answer, media_type="application/json")

    async def ask(self, endpoint: Endpoint, body: bytes, request: Request) -> bytes:
        """Return the answer's JSON to that of `request`, which has been read.

        Raises HttpError, PipelineError, and ClientDisconnect when nobody waits for the answer.
        """
        answer = asyncio.create_task(endpoint.answer(body, self.workers, self.settings.request_timeout_s))
        gone = asyncio.create_task(_disconnected(request))
        try:
            done, _ = await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            answer.cancel()
        if answer not in done:
            raise ClientDisconnect
        return answer.result()

    async def body(self, request: Request) -> bytes:
        """Read the body. Raises HttpError 413 over the limit, 408 when it comes too slowly; ClientDisconnect."""
        limit_s = self.settings.body_timeout_s
        try:
            return await asyncio.wait_for(_read(request, self.settings.body_limit_bytes), limit_s)
        except TimeoutError:
            raise HttpError(408, f"the body didn't arrive within {limit_s:g} s") from None

    def close(self) -> None:
        """End the threads, then free the models."""
        self.workers.close()
        for endpoint in self.endpoints.values():
            endpoint.close()


async def _disconnected(request: Request) -> None:
    """Return when the client is gone; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _read(request: Request, limit: int) -> bytes:
    """Read the body. Of one over the limit some more is read and dropped, since closing a connection with
    unread data resets it, and the client would never see the answer.
    """
    body, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            body += chunk
        elif size > limit + _MOST_DROPPED_BYTES:
            break
    if size > limit:
        raise HttpError(413, f"the body is larger than {limit} bytes", headers={"Connection": "close"})
    return bytes(body)


def create_app(settings: ServerSettings) -> FastAPI:
    """Make the application; its models load in the background once it starts.

    `app.state.service` is its Service. Raises PipelineError when an endpoint's task, options or folder are
    wrong, SettingsError when two endpoints want one route.
    """
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(service.load())
        yield
        await service.end(loading)

    app = FastAPI(
        title="Sparrow server",
        description="Sparse models behind HTTP.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    add_handlers(app)
    _add_health(app, service)
    _add_models(app, service)
    for path, endpoint in _routes(service.endpoints.values()).items():
        _add_endpoint(app, service, endpoint, path)
    pages.add_pages(app, service)
    return app


def _routes(endpoints: Collection[Endpoint]) -> dict[str, Endpoint]:
    routes: dict[str, Endpoint] = {}
    for endpoint in endpoints:
        for path in _paths(endpoint, single=len(endpoints) == 1):
            if path in routes:
                raise SettingsError(f"route {path} of {endpoint.name} is already that of {routes[path].name}")
            routes[path] = endpoint
    return routes


def _paths(endpoint: Endpoint, *, single: bool) -> list[str]:
    named = [f"/predict/{endpoint.name}", f"/v2/models/{endpoint.name}/infer", f"/invocations/{endpoint.name}/infer"]
    alone = ["/predict", "/invocations"] if single else []
    own = [endpoint.settings.route] if endpoint.settings.route else []
    return list(dict.fromkeys([*alone, *own, *named]))


def _add_endpoint(app: FastAPI, service: Service, endpoint: Endpoint, path: str) -> None:
    async def answer(request: Request) -> Response:
        return await service.answer(endpoint, request)

    schema = endpoint.kind.request_type.model_json_schema()
    app.post(
        path,
        summary=f"Ask {endpoint.name} ({endpoint.kind.task})",
        description=f"A request, or a list of them, which is answered by a list; at most {MOST_TEXTS} texts in all.",
        responses={200: {"model": endpoint.kind.result_type}, **_failures(400, 408, 413, 422, 503, 504)},
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
    )(answer)


def _failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    told = {"type": "object", "properties": {"status": {"type": "integer"}, "message": {"type": "string"}}}
    schema = {"type": "object", "properties": {"error": told}, "required": ["error"]}
    content = {"application/json": {"schema": schema}}
    return {status: {"description": "The request can't be answered", "content": content} for status in statuses}


def _add_health(app: FastAPI, service: Service) -> None:
    async def healthy() -> dict[str, str]:
        return {"status": "healthy"}

    for path in ("/ping", "/health", "/healthcheck", "/status"):
        app.get(path, summary="The process answers")(healthy)

    @app.get("/v2/health/live", summary="The process answers")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", summary="Every model can be asked", responses=_failures(503))
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)


def _add_models(app: FastAPI, service: Service) -> None:
    def found(name: str) -> Endpoint:
        if name not in service.endpoints:
            raise HttpError(404, f"no model is named {name!r}; there are {', '.join(service.endpoints)}")
        return service.endpoints[name]

    @app.get("/v2", summary="The server")
    async def server() -> dict[str, Any]:
        return {"name": "sparrow", "extensions": [], "models": list(service.endpoints)}

    @app.get("/v2/models/{name}", summary="A model and its state", responses=_failures(404))
    async def model(name: str) -> dict[str, Any]:
        return found(name).describe()

    @app.get("/v2/models/{name}/ready", summary="The model can be asked", responses=_failures(404, 503))
    async def model_ready(name: str) -> JSONResponse:
        endpoint = found(name)
        ready = endpoint.state == "ready" and not service.draining
        return JSONResponse({"name": endpoint.name, "ready": ready}, 200 if ready else 503)

    @app.get("/config", summary="The settings that the server runs with")
    async def config() -> dict[str, Any]:
        return service.settings.model_dump(mode="json", exclude_none=True)
