"""Pages for people: the list of models, one model, its recipe, several side by side, the API's reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from pydantic import ValidationError
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from registry.card import MAX_CARD_BYTES, render_card
from registry.chart import MAX_REPORT_BYTES, Chart, read_chart
from registry.errors import DamagedBlobError, UnknownBlobError, UnknownRecipeError
from registry.pictures import scatter
from registry.recipe_view import RecipeFile, find_recipe, read_run, recipes_of
from registry.resolution import parse_stub
from registry.routes.depends import CallerDep, OverviewsDep, RegistryDep, SettingsDep
from registry.schemas import FileView, SearchIn, VersionView
from registry.service import Registry
from registry.web import (
    MAX_COMPARED,
    STATIC,
    compare_url,
    model_url,
    page,
    recipe_url,
    show_number,
    show_percent,
    show_size,
)
from zoo.manifest import Manifest, Role
from zoo.stub import PREFIX

MAX_RECIPE_BYTES = 1 << 16
CARD_NAMES = ("model.md", "readme.md")
REPORT_NAME = "report.json"

MAX_COUNTED = 1_000  # models that facets are counted among
MAX_CHOICES = 12
MAX_VERSIONS = 50

TRAINED_TASKS = (None, "question_answering", "masked_language_modeling")  # a base model is fine-tuned for another

VersionQuery = Annotated[int | None, Query(ge=1, le=999_999_999)]

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


def static_files() -> StaticFiles:
    """The style sheet, the script and the icon."""
    return StaticFiles(directory=STATIC)


def _asked(request: Request) -> SearchIn:
    """The search of a form, which sends its empty fields too."""
    try:
        return SearchIn.model_validate({key: value for key, value in request.query_params.items() if value})
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from None


@router.get("/")
def index(
    request: Request, wanted: Annotated[SearchIn, Depends(_asked)], registry: RegistryDep, caller: CallerDep
) -> Response:
    """The list of models, with a search and facets."""
    found = registry.search(wanted, caller)
    fields = wanted.model_dump(mode="json", exclude_none=True, exclude_defaults=True, exclude={"cursor"})
    following = f"/?{urlencode({**fields, 'cursor': found.next_cursor})}" if found.next_cursor else None
    count, facets = registry.count_facets(wanted, caller, MAX_COUNTED)
    values = {
        "wanted": wanted,
        "found": found,
        "following": following,
        "chosen": {name: _shown(name, value) for name, value in fields.items() if name != "limit"},
        "facets": {
            name: _choices(fields, name, counts)
            for name, counts in facets.items()
            if name in fields or len(counts) > 1 or any(number < count for number in counts.values())
        },
        "count": count,
        "is_partial": count == MAX_COUNTED,
        "without": {name: f"/?{urlencode({k: v for k, v in fields.items() if k != name})}" for name in fields},
        "is_empty": not registry.count_models(caller, 1),
    }
    return page(request, "index.html", values)


def _shown(name: str, value: object) -> str:
    """A filter's value for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "size_max" and isinstance(value, int):
        return show_size(value)
    if isinstance(value, float):
        return show_percent(value) if name.startswith("sparsity") else show_number(value)
    return str(value) if name == "q" else str(value).replace("_", " ")


def _choices(fields: Mapping[str, Any], name: str, counts: Mapping[str, int]) -> list[tuple[str, int, str]]:
    """The most frequent values of a facet, how many models have each, and the page that shows only those."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_CHOICES]
    return [(value, count, f"/?{urlencode({**fields, name: value})}") for value, count in ranked]


@router.get("/models/{full_name:path}")
def model(
    request: Request,
    full_name: Annotated[str, Path(max_length=512)],
    registry: RegistryDep,
    overviews: OverviewsDep,
    settings: SettingsDep,
    caller: CallerDep,
    version: VersionQuery = None,
) -> Response:
    """One model at one version."""
    pin = f"@v{version}" if version else ""
    stub = parse_stub(f"{PREFIX}{full_name}{pin}")
    view = registry.resolve(str(stub), caller=caller)
    if view.name != PREFIX + full_name:
        return RedirectResponse(model_url(view.name, view.version if stub.pin else None), 307)
    manifest = Manifest.parse(view.manifest)
    recipes = recipes_of([file for file in view.files if file.role == Role.RECIPE])
    recipe = recipes[0] if recipes else None
    overview = overviews.of(f"{view.name}@v{view.version}", caller)
    values = {
        "view": view,
        "facts": manifest.metadata,
        "files": _by_role(view),
        "roles": {file.role.value for file in view.files},
        "versions": registry.newest_versions(view.name, caller, MAX_VERSIONS + 1),
        "max_versions": MAX_VERSIONS,
        "card": _card(registry, view),
        "chart": _chart(registry, view),
        "recipes": recipes,
        "recipe_stub": _stub(view, pin, recipe),
        "run": read_run(_text(registry, recipe)),
        "overview": overview,
        "scatter": scatter(overview.family.members),
        "stub": _stub(view, pin),
        "compare_url": compare_url(dict.fromkeys([view.name, *(m.name for m in overview.family.members)])),
        "is_trained": manifest.metadata.task in TRAINED_TASKS,
        "endpoint": settings.endpoint,
    }
    return page(request, "model.html", values)


@router.get("/recipes/{full_name:path}")
def recipe(
    request: Request,
    full_name: Annotated[str, Path(max_length=512)],
    registry: RegistryDep,
    overviews: OverviewsDep,
    caller: CallerDep,
    version: VersionQuery = None,
    name: Annotated[str | None, Query(alias="recipe", max_length=256)] = None,
) -> Response:
    """A recipe of a model's version, the default or a named one: its schedule, its text, and who used it."""
    pin = f"@v{version}" if version else ""
    stub = parse_stub(f"{PREFIX}{full_name}{pin}")
    view = registry.resolve(str(stub), caller=caller)
    if view.name != PREFIX + full_name:
        return RedirectResponse(recipe_url(view.name, view.version if stub.pin else None, name or stub.recipe), 307)
    recipes = recipes_of([file for file in view.files if file.role == Role.RECIPE])
    found = find_recipe(recipes, name)
    if found is None:
        raise UnknownRecipeError(f"{view.name}@v{view.version} has no recipe" + (f" named {name}" if name else ""))
    text = _text(registry, found)
    values = {
        "view": view,
        "file": found.file,
        "others": [other for other in recipes if other is not found],
        "stub": _stub(view, pin, found),
        "text": text,
        "run": read_run(text),
        "users": overviews.recipe_users(f"{view.name}@v{view.version}", found.name, found.file.sha256, caller),
    }
    return page(request, "recipe.html", values)


@router.get("/compare")
def compare(request: Request, registry: RegistryDep, overviews: OverviewsDep, caller: CallerDep) -> Response:
    """Models side by side: the query has their names under m1, m2 and so on, as many as MAX_COMPARED."""
    asked = [value for key, value in request.query_params.items() if key.startswith("m") and value]
    names = list(dict.fromkeys(name.removeprefix(PREFIX) for name in asked))[:MAX_COMPARED]
    views = [registry.resolve(PREFIX + name, caller=caller) for name in names]
    family = overviews.side_by_side([view.name for view in views], caller)
    columns = [(view, Manifest.parse(view.manifest).metadata) for view in views]
    metrics = list(dict.fromkeys(name for _, facts in columns for name in facts.metrics))
    return page(
        request,
        "compare.html",
        {
            "columns": columns,
            "members": {member.name: member for member in family.members},
            "metrics": metrics,
            "cpu": family.cpu,
            "scatter": scatter(family.members),
            "family": family,
        },
    )


@router.get("/favicon.ico")
def icon() -> Response:
    """The icon, for whoever asks for it without reading a page."""
    return FileResponse(STATIC / "icon.svg")


@router.get("/docs")
def docs(request: Request, _caller: CallerDep) -> Response:
    """The API's reference, from its OpenAPI description."""
    description = request.app.openapi()
    return page(request, "docs.html", {"info": description["info"], "operations": _operations(description["paths"])})


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
    """A file's bytes; none if it is absent, larger than the limit, lost or altered."""
    if file is None or file.size_bytes > limit:
        return b""
    try:
        return b"".join(registry.blobs.read_whole(file.sha256, file.size_bytes))
    except (UnknownBlobError, DamagedBlobError):
        return b""


def _text(registry: Registry, recipe: RecipeFile | None) -> str:
    return _read(registry, recipe.file if recipe else None, MAX_RECIPE_BYTES).decode("utf-8", "replace")


def _stub(view: VersionView, pin: str, recipe: RecipeFile | None = None) -> str:
    """What names the version, or one of its recipes."""
    stub = (view.alias or view.name) + pin
    return f"{stub}?recipe={recipe.name}" if recipe and recipe.name else stub


def _card(registry: Registry, view: VersionView) -> str:
    data = _read(registry, _pick(view, Role.CARD, CARD_NAMES), MAX_CARD_BYTES)
    return render_card(data) if data else ""


def _chart(registry: Registry, view: VersionView) -> Chart | None:
    report = next((f for f in view.files if f.role == Role.METRICS and f.path.rsplit("/", 1)[-1] == REPORT_NAME), None)
    data = _read(registry, report, MAX_REPORT_BYTES)
    return read_chart(data) if data else None
