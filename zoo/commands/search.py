"""`zoo search`: models by words and facets, or the best ones for a CPU."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from zoo.terminal import Output, size_text

app = typer.Typer()


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="words of the name or description")] = "",
    domain: Annotated[str | None, typer.Option()] = None,
    task: Annotated[str | None, typer.Option()] = None,
    architecture: Annotated[str | None, typer.Option()] = None,
    dataset: Annotated[str | None, typer.Option()] = None,
    pattern: Annotated[str | None, typer.Option(help="such as block4")] = None,
    quantized: Annotated[bool | None, typer.Option()] = None,
    license_name: Annotated[str | None, typer.Option("--license", help="such as Apache-2.0")] = None,
    sparsity_min: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    f1_min: Annotated[float | None, typer.Option(min=0, max=100, help="percent")] = None,
    latency_max: Annotated[float | None, typer.Option(min=0, help="milliseconds, measured at batch size 1")] = None,
    size_max: Annotated[int | None, typer.Option(min=0, help="bytes of all files")] = None,
    best_for: Annotated[str | None, typer.Option(help="this-cpu or a CPU's name: rank what was measured on it")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
) -> None:
    """Find models in the registry.

    Example: zoo search --task question_answering --sparsity-min 0.8
    Example: zoo search --best-for this-cpu --f1-min 85 --latency-max 20
    """
    import zoo

    if best_for is not None:
        wanted = {"domain": domain, "task": task, "architecture": architecture, "dataset": dataset}
        _search_best(best_for, limit, f1_min=f1_min, latency_max_ms=latency_max, **wanted)
        return
    filters: dict[str, Any] = {
        "domain": domain,
        "task": task,
        "architecture": architecture,
        "dataset": dataset,
        "pattern": pattern,
        "license": license_name,
        "sparsity_min": sparsity_min,
        "f1_min": f1_min,
        "latency_max_ms": latency_max,
        "size_max": size_max,
    }
    page = zoo.search(text, quantized=quantized, limit=limit, **filters)
    lines = [
        f"{item.name}  v{item.latest_version}  {size_text(item.size_bytes)}  {item.alias or ''}" for item in page.items
    ]
    Output.emit(page, "\n".join(lines) or "no model matches")


def _search_best(cpu: str, limit: int, **wanted: str | float | None) -> None:
    from zoo.benchmark import this_hardware
    from zoo.client import RegistryClient
    from zoo.settings import Settings

    hardware = this_hardware()
    if cpu != "this-cpu":
        hardware = hardware.model_copy(update={"cpu": cpu})
    with RegistryClient(Settings.load()) as client:
        page = client.best(hardware, limit=limit, **wanted)
    lines = (
        [] if page.measured_on == "cpu" else [f"nothing was measured on {hardware.cpu}; on CPUs with {hardware.isa}:"]
    )
    for item in page.items:
        run = item.benchmark.record
        f1 = "-" if item.f1 is None else f"{item.f1:.2f}"
        lines.append(
            f"{item.name}@v{item.version}  F1 {f1}  {run.median_ms:.2f} ms  {run.threads} threads  {run.engine}"
        )
    Output.emit(page, "\n".join(lines) if page.items else "no model was measured that meets this")
