"""The pages' templates, and how values look in them."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from zoo.stub import Stub

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
MAX_COMPARED = 6
COOKIE = "zoo_token"  # of a person who signed in; it opens reading alone, so no other site can write with it


def page(
    request: Request,
    template: str,
    values: Mapping[str, Any],
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """A page from a template."""
    text = _environment().get_template(template).render(values, is_signed_in=_is_signed_in(request))
    return HTMLResponse(text, status, headers)


def error_page(
    request: Request,
    status: int,
    detail: str,
    extras: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """A page that says what went wrong, with the nearest names if there are any."""
    values = {"status": status, "detail": detail, "nearest": (extras or {}).get("nearest", ())}
    return page(request, "error.html", values, status, headers)


def wants_page(request: Request) -> bool:
    """Whether a person asked, with a browser, for a page."""
    return not request.scope["path"].startswith("/api/") and "text/html" in request.headers.get("accept", "")


def _is_signed_in(request: Request) -> bool:
    """As the cookie says where nobody looked whose it is, as on the page of a path that isn't there."""
    caller = getattr(request.state, "caller", None)
    return COOKIE in request.cookies if caller is None else caller.name is not None


def model_url(name: str, version: int | None = None) -> str:
    """The path of a model's page; `name` is a stub without pin."""
    path = "/models/" + quote(name.removeprefix("zoo:"), safe="/@")
    return path if version is None else f"{path}?version={version}"


def recipe_url(name: str, version: int | None = None, recipe: str | None = None) -> str:
    """The path of a recipe's page; `recipe` is what a stub's ?recipe= says."""
    asked = {key: value for key, value in (("version", version), ("recipe", recipe)) if value is not None}
    return "/recipes/" + quote(name.removeprefix("zoo:"), safe="/@") + (f"?{urlencode(asked)}" if asked else "")


def compare_url(names: Iterable[str]) -> str:
    """The path of the page that shows the first of some models side by side."""
    first = islice(names, MAX_COMPARED)
    return "/compare?" + urlencode({f"m{n}": name.removeprefix("zoo:") for n, name in enumerate(first, 1)}, safe="/@")


def stub_url(stub_text: str) -> str:
    """The path of the page of what a stub names: a model or a recipe, at a version if its pin is a number."""
    stub = Stub.parse(stub_text)
    if stub.recipe is not None:
        return recipe_url(stub.full_name, stub.version, stub.recipe)
    return model_url(stub.full_name, stub.version)


def show_size(size_bytes: int) -> str:
    """A size in decimal units, three digits: 1.34 GB."""
    return _scaled(size_bytes, ("B", "kB", "MB", "GB", "TB"))


def show_count(count: int) -> str:
    """A count in thousands, millions or billions, three digits: 335 M."""
    return _scaled(count, ("", "k", "M", "B")).rstrip()


def _scaled(number: float, units: tuple[str, ...]) -> str:
    place = 0
    while number >= 999.5 and place + 1 < len(units):
        number, place = number / 1_000, place + 1
    return f"{number:.3g} {units[place]}"


def show_percent(fraction: float) -> str:
    """A fraction as a percentage: 80 %, 97.5 %."""
    return f"{100 * fraction:.3g} %"


def show_number(number: float) -> str:
    """Four digits, all of a large number's: 81.7, 0.0005, 18305."""
    return f"{number:.0f}" if abs(number) >= 1_000 else f"{number:.4g}"


def show_label(name: str) -> str:
    """A field's or a metric's name for people: F1, exact match."""
    return "F1" if name == "f1" else name.replace("_", " ")


def break_after_marks(text: str) -> Markup:
    """A name that may be broken after its marks, where a line is too short for it."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[/._,])(?=\S)", text))


def show_day(time: datetime) -> str:
    """The UTC day."""
    return f"{time.day} {time:%B} {time.year}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        size=show_size,
        compact=show_count,
        percent=show_percent,
        number=show_number,
        label=show_label,
        breakable=break_after_marks,
        day=show_day,
        shell=shlex.quote,
    )
    environment.globals.update(model_url=model_url, recipe_url=recipe_url, stub_url=stub_url, static=_static_url)
    return environment


@cache
def _static_url(name: str) -> str:
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()
    return f"/static/{name}?v={digest[:12]}"
