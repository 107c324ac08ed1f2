"""Signing in with a token, for people who read private models in a browser. It opens reading alone."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from registry.errors import InvalidRequestError, UnauthorizedError
from registry.routes.depends import CallerDep, GateDep, SettingsDep
from registry.routes.receive import parts
from registry.web import COOKIE, page

MAX_FORM_BYTES = 4_096
HOLDS_S = 12 * 3_600

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/sign-in")
def show(request: Request, caller: CallerDep, failed: Annotated[bool, Query()] = False) -> Response:
    """The form, and who is signed in."""
    return page(request, "sign_in.html", {"name": caller.name, "failed": failed})


@router.post("/sign-in")
async def sign_in(request: Request, gate: GateDep, settings: SettingsDep) -> Response:
    """Keeps the token in a cookie that scripts can't read and other sites can't send."""
    token = await _field(request, "secret", settings.upload_idle_s)
    try:
        await run_in_threadpool(gate.identify, f"Bearer {token}")
    except UnauthorizedError:
        return RedirectResponse("/sign-in?failed=true", 303)
    answer = RedirectResponse("/", 303)
    secure = settings.public_url.startswith("https:")
    answer.set_cookie(COOKIE, token, HOLDS_S, httponly=True, samesite="strict", secure=secure)
    return answer


@router.post("/sign-out")
def sign_out() -> Response:
    """Forgets the token."""
    answer = RedirectResponse("/", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


async def _field(request: Request, name: str, idle_s: float) -> str:
    body = b""
    async for part in parts(request, idle_s):
        body += part
        if len(body) > MAX_FORM_BYTES:
            raise InvalidRequestError("the form is too large")
    try:
        values = parse_qs(body.decode("ascii"), max_num_fields=4)
    except ValueError:
        raise InvalidRequestError("the form is malformed") from None
    return values.get(name, [""])[0].strip()
