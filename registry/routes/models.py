"""Search, and the names of all models."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from registry.routes.depends import CallerDep, RegistryDep
from registry.schemas import MAX_STUB, ModelPage, NamePage, SearchIn

router = APIRouter(tags=["models"])


@router.get("/models")
def search(wanted: Annotated[SearchIn, Query()], registry: RegistryDep, caller: CallerDep) -> ModelPage:
    """Models that match every filter, newest first; follow `next_cursor` for more."""
    return registry.search(wanted, caller)


@router.get("/names")
def names(
    registry: RegistryDep,
    caller: CallerDep,
    after: Annotated[str | None, Query(max_length=MAX_STUB, pattern=r"^[^\x00]*$")] = None,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 1_000,
) -> NamePage:
    """All models by name, also those that no search shows because their versions are all yanked."""
    return registry.names(caller, after, limit)
