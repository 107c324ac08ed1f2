"""Whether the registry works, and who is asking."""

from __future__ import annotations

from fastapi import APIRouter, Request

from registry.release import RELEASE
from registry.routes.depends import GateDep, RegistryDep
from registry.schemas import Health, WhoAmI

router = APIRouter(tags=["registry"])


@router.get("/health")
def health(registry: RegistryDep) -> Health:
    """Answers once the database does."""
    registry.count_models(limit=1)
    return Health(status="ok", version=RELEASE)


@router.get("/whoami")
def whoami(request: Request, gate: GateDep) -> WhoAmI:
    """The token's name, and whether this caller may write."""
    caller = gate.identify(request.headers.get("authorization"))
    scopes = [str(grant) for grant in caller.grants]
    return WhoAmI(name=caller.name, may_write=caller.may_write, scopes=scopes, expires_at=caller.expires_at)
