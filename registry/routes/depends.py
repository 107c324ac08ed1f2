"""What routes take from the app: the service, the settings, the gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, cast

from fastapi import Depends, Request

from registry.auth import Gate
from registry.benchmarks import Benchmarks
from registry.blobs import Blobs
from registry.caller import ANYONE, Caller
from registry.errors import UnauthorizedError
from registry.overview import Overviews
from registry.service import Registry
from registry.settings import Settings
from registry.web import COOKIE


def _registry(request: Request) -> Registry:
    return cast("Registry", request.app.state.registry)


def _blobs(request: Request) -> Blobs:
    return _registry(request).blobs


def _settings(request: Request) -> Settings:
    return cast("Settings", request.app.state.settings)


def _gate(request: Request) -> Gate:
    return cast("Gate", request.app.state.gate)


def _benchmarks(request: Request) -> Benchmarks:
    return cast("Benchmarks", request.app.state.benchmarks)


def _overviews(request: Request) -> Overviews:
    return cast("Overviews", request.app.state.overviews)


def _caller(request: Request) -> Caller:
    authorization, cookie = request.headers.get("authorization"), request.cookies.get(COOKIE)
    if authorization is None and cookie and request.method in ("GET", "HEAD"):
        try:
            return _at(request, _gate(request).identify(f"Bearer {cookie}"))
        except UnauthorizedError:  # it ran out: the person is a stranger again, and can sign in again
            return _at(request, ANYONE)
    return _at(request, _gate(request).identify(authorization))


def check_writer(request: Request) -> Caller:
    """The caller, if it may write; looked up once a request. Raises `UnauthorizedError`."""
    if not hasattr(request.state, "writer"):
        request.state.writer = _at(request, _gate(request).check_writer(request.headers.get("authorization")))
    return cast("Caller", request.state.writer)


def _at(request: Request, caller: Caller) -> Caller:
    request.state.caller = replace(caller, address=request.client.host if request.client else None)
    return cast("Caller", request.state.caller)


RegistryDep = Annotated[Registry, Depends(_registry)]
BlobsDep = Annotated[Blobs, Depends(_blobs)]
SettingsDep = Annotated[Settings, Depends(_settings)]
GateDep = Annotated[Gate, Depends(_gate)]
BenchmarksDep = Annotated[Benchmarks, Depends(_benchmarks)]
CallerDep = Annotated[Caller, Depends(_caller)]
OverviewsDep = Annotated[Overviews, Depends(_overviews)]
WriterDep = Annotated[Caller, Depends(check_writer)]
