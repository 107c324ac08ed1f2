"""The server's own pages: one to ask a model by hand, one that lists the routes. No outside resources."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse

from engine.errors import PipelineError
from engine.server.endpoint import Endpoint
from engine.server.errors import HttpError
from engine.server.shown import shown

if TYPE_CHECKING:
    from engine.server.app import Service

_WEB = Path(__file__).parent / "web"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def add_pages(app: FastAPI, service: Service) -> None:
    """Add `/`, `/docs` and their two static files to `app`."""

    @app.get("/", include_in_schema=False)
    def form(model: str | None = None) -> HTMLResponse:
        return _form(service, _chosen(service, model), {}, "")

    @app.post("/", include_in_schema=False)
    async def ask(request: Request) -> HTMLResponse:
        fields = _fields(await service.body(request))
        endpoint = _chosen(service, fields.pop("model", None))
        try:
            answer = await service.ask(endpoint, json.dumps(fields).encode(), request)
        except (HttpError, PipelineError) as error:
            told = error if isinstance(error, HttpError) else HttpError(422, str(error))
            return _form(service, endpoint, fields, _problem(told), told.status)
        return _form(service, endpoint, fields, shown(endpoint.kind.task, json.loads(answer), fields))

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        rows = [
            _route(path, method, row) for path, item in app.openapi()["paths"].items() for method, row in item.items()
        ]
        return HTMLResponse(_template("docs.html").substitute(routes="\n".join(rows)), headers=_HEADERS)

    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript")):
        app.get(f"/static/{name}", include_in_schema=False)(_static(name, kind))


def _static(name: str, kind: str) -> Any:
    def read() -> FileResponse:
        return FileResponse(_WEB / name, media_type=kind, headers={"X-Content-Type-Options": "nosniff"})

    return read


def _template(name: str) -> Template:
    return Template((_WEB / name).read_text(encoding="utf-8"))


def _fields(body: bytes) -> dict[str, str]:
    try:
        parsed = parse_qs(body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=20)
    except ValueError as error:
        raise HttpError(400, f"the body isn't a form: {error}") from None
    return {key: values[0] for key, values in parsed.items()}


def _chosen(service: Service, name: str | None) -> Endpoint:
    if name is None:
        return next(iter(service.endpoints.values()))
    if name not in service.endpoints:
        raise HttpError(404, f"no model is named {name!r}; there are {', '.join(service.endpoints)}")
    return service.endpoints[name]


def _form(service: Service, endpoint: Endpoint, fields: dict[str, str], result: str, status: int = 200) -> HTMLResponse:
    page = _template("page.html").substitute(
        name=escape(endpoint.name),
        task=escape(endpoint.kind.task.replace("_", " ")),
        state=endpoint.state,
        models=" ".join(_link(name) for name in service.endpoints) if len(service.endpoints) > 1 else "",
        inputs="\n".join(_input(endpoint, name, fields.get(name, "")) for name in endpoint.form_fields),
        result=result,
    )
    return HTMLResponse(page, status, headers=_HEADERS)


def _link(name: str) -> str:
    return f'<a href="/?model={escape(name)}">{escape(name)}</a>'


def _input(endpoint: Endpoint, name: str, value: str) -> str:
    # A newline straight after <textarea> is dropped by the browser, so one is given up here.
    rows = 2 if name in ("question", "labels") else 8
    hint = escape(_example(endpoint, name))
    area = (
        f'<textarea id="{name}" name="{name}" rows="{rows}" placeholder="{hint}" required>\n{escape(value)}</textarea>'
    )
    return f'<label for="{name}">{name.capitalize()}</label>\n{area}'


def _example(endpoint: Endpoint, name: str) -> str:
    (example,) = endpoint.kind.request_type.model_fields[name].examples or [""]
    return example if isinstance(example, str) else ", ".join(example)


def _problem(error: HttpError) -> str:
    rows = "".join(f"<li>{escape(row['field'])}: {escape(row['problem'])}</li>" for row in error.problems)
    return f'<p class="problem">{escape(error.message)}</p><ul>{rows}</ul>'


def _route(path: str, method: str, row: dict[str, Any]) -> str:
    content = row.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = escape(json.dumps(content["schema"], indent=1)) if "schema" in content else ""
    shown = f"<details><summary>request</summary><pre>{schema}</pre></details>" if schema else ""
    summary = escape(row.get("summary", ""))
    return f"<li><code>{method.upper()} {escape(path)}</code> <span>{summary}</span>{shown}</li>"
