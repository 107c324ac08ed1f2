"""Pages for people: the list of models, one model, the API's reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from registry.caller import ANYONE
from registry.card import MAX_CARD_BYTES, render_card
from registry.chart import MAX_REPORT_BYTES, Chart, read_chart
from registry.routes.depends import RegistryDep, SettingsDep
from registry.schemas import FileView, SearchIn, VersionView
from registry.service import Registry
from registry.web import STATIC, model_url, page
from zoo.manifest import Manifest, Role
from zoo.stub import PREFIX

MAX_RECIPE_BYTES = 1 << 16
CARD_NAMES = ("model.md", "readme.md")
RECIPE_NAMES = ("recipe.md", "recipe.yaml")
REPORT_NAME = "report.json"

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


def static_files() -> StaticFiles:
    """The style sheet, the script and the icon."""
    return StaticFiles(directory=STATIC)


@router.get("/")
def index(wanted: Annotated[SearchIn, Query()], registry: RegistryDep) -> Response:
    """The list of models, with a search."""
    found = registry.search(wanted)
    fields = wanted.model_dump(mode="json", exclude_none=True, exclude_defaults=True, exclude={"cursor"})
    following = f"/?{urlencode({**fields, 'cursor': found.next_cursor})}" if found.next_cursor else None
    values = {
        "wanted": wanted,
        "found": found,
        "following": following,
        "is_filtered": bool(fields.keys() - {"limit"}),
        "facets": registry.count_facets(wanted, ANYONE, 1_000)[1],
        "total": registry.count_models(),
    }
    return page("index.html", values)


@router.get("/models/{full_name:path}")
def model(
    full_name: Annotated[str, Path(max_length=512)],
    registry: RegistryDep,
    settings: SettingsDep,
    version: Annotated[int | None, Query(ge=1, le=999_999_999)] = None,
) -> Response:
    """One model at one version."""
    pin = f"@v{version}" if version else ""
    view = registry.resolve(f"{PREFIX}{full_name}{pin}")
    if view.name != PREFIX + full_name:
        return RedirectResponse(model_url(view.name, version), 307)
    manifest = Manifest.parse(view.manifest)
    recipe = _pick(view, Role.RECIPE, RECIPE_NAMES)
    values = {
        "view": view,
        "facts": manifest.metadata,
        "files": _by_role(view),
        "roles": {file.role.value for file in view.files},
        "versions": registry.versions(view.name),
        "card": _card(registry, view),
        "chart": _chart(registry, view),
        "recipe": recipe,
        "recipe_text": _read(registry, recipe, MAX_RECIPE_BYTES).decode("utf-8", "replace"),
        "stub": (view.alias or view.name) + pin,
        "endpoint": settings.endpoint,
    }
    return page("model.html", values)


@router.get("/docs")
def docs(request: Request) -> Response:
    """The API's reference, from its OpenAPI description."""
    description = request.app.openapi()
    return page("docs.html", {"info": description["info"], "operations": _operations(description["paths"])})


def _operations(paths: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "method": method.upper(),
            "path": path,
            "summary": operation.get("description", ""),
            "parameters": operation.get("parameters", []),
            "statuses": sorted(operation["responses"]),
        }
        for path, methods in paths.items()
        for method, operation in methods.items()
    ]


def _by_role(view: VersionView) -> dict[Role, list[FileView]]:
    grouped = {role: [file for file in view.files if file.role == role] for role in Role}
    return {role: files for role, files in grouped.items() if files}


def _pick(view: VersionView, role: Role, names: tuple[str, ...]) -> FileView | None:
    """The file of a role with the first of these names, or the role's first file."""
    files = [file for file in view.files if file.role == role]
    for name in names:
        for file in files:
            if file.path.rsplit("/", 1)[-1].lower() == name:
                return file
    return files[0] if files else None


def _read(registry: Registry, file: FileView | None, limit: int) -> bytes:
    """A file's bytes; none if it is absent or larger than the limit."""
    if file is None or file.size_bytes > limit:
        return b""
    return b"".join(registry.store.read(file.sha256, 0, limit))


def _card(registry: Registry, view: VersionView) -> str:
    data = _read(registry, _pick(view, Role.CARD, CARD_NAMES), MAX_CARD_BYTES)
    return render_card(data) if data else ""


def _chart(registry: Registry, view: VersionView) -> Chart | None:
    report = next((f for f in view.files if f.role == Role.METRICS and f.path.rsplit("/", 1)[-1] == REPORT_NAME), None)
    data = _read(registry, report, MAX_REPORT_BYTES)
    return read_chart(data) if data else None
