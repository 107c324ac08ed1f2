"""Search."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from registry.routes.depends import CallerDep, RegistryDep
from registry.schemas import ModelPage, SearchIn

router = APIRouter(tags=["models"])


@router.get("/models")
def search(wanted: Annotated[SearchIn, Query()], registry: RegistryDep, caller: CallerDep) -> ModelPage:
    """Models that match every filter, newest first; follow `next_cursor` for more."""
    return registry.search(wanted, caller)
