"""The web application: puts settings, database, storage and routes together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from fastapi import APIRouter, FastAPI
from starlette.concurrency import run_in_threadpool

from registry.auth import Gate
from registry.benchmarks import Benchmarks
from registry.blobs import Blobs
from registry.db import Database
from registry.guard import Guard
from registry.identity import prepare
from registry.overview import Overviews
from registry.release import RELEASE
from registry.routes import (
    archives,
    benchmarks,
    blobs,
    files,
    health,
    huggingface,
    models,
    pages,
    problems,
    sign_in,
    sparsezoo,
    uploads,
    versions,
)
from registry.service import Registry
from registry.settings import Settings
from registry.storage import open_store


def create_app(settings: Settings) -> FastAPI:
    """The registry as an ASGI app; its schema is upgraded when it starts. Raises `StartError` for a wrong setting."""
    database, store = Database(settings.database), open_store(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(prepare, settings, database, store)
        yield
        await run_in_threadpool(database.close)

    app = FastAPI(
        title="Sparrow registry",
        summary="Stores sparse models and recipes under zoo: stubs",
        description=(
            "A JSON body has at most 64 KiB; one to /api/v1/blobs/missing or /v2/graphql 1 MiB; a version "
            f"{settings.max_body_bytes:,} bytes. Larger ones, or of more values than a version can have, get 413."
        ),
        version=RELEASE,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.settings = settings
    expires = timedelta(seconds=settings.upload_expires_s)
    app.state.registry = Registry(database, Blobs(database, store, expires))
    app.state.benchmarks = Benchmarks(database)
    app.state.overviews = Overviews(database)
    app.state.gate = Gate(database, settings)
    api = APIRouter(prefix="/api/v1", responses=problems.DOCUMENTED)
    for module in (health, blobs, uploads, versions, models, benchmarks):
        api.include_router(module.router)
    app.include_router(api)
    for outside in (files, archives, sparsezoo):
        app.include_router(outside.router, responses=problems.DOCUMENTED)
    app.include_router(pages.router)
    app.include_router(sign_in.router)
    app.include_router(huggingface.router)
    app.mount("/static", pages.static_files(), name="static")
    problems.install(app)
    app.add_middleware(Guard, settings=settings)
    return app
