"""`zoo search`: models by words and facets, or the best ones for a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.terminal import Output, size_text, table

if TYPE_CHECKING:
    from zoo.version import BestModel, ModelSummary

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
    sparsity_max: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    f1_min: Annotated[float | None, typer.Option(min=0, max=100, help="percent")] = None,
    latency_max: Annotated[float | None, typer.Option(min=0, help="milliseconds, measured at batch size 1")] = None,
    size_max: Annotated[int | None, typer.Option(min=0, help="bytes of all files")] = None,
    best_for: Annotated[str | None, typer.Option(help="this-cpu or a CPU's name: rank what was measured on it")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    cursor: Annotated[str | None, typer.Option(help="the next page, as the last one named it")] = None,
) -> None:
    """Find models in the registry.

    Example: zoo search --task question_answering --sparsity-min 0.8
    Example: zoo search --best-for this-cpu --f1-min 85 --latency-max 20
    """
    import zoo

    measured: dict[str, Any] = {
        "domain": domain,
        "task": task,
        "architecture": architecture,
        "dataset": dataset,
        "f1_min": f1_min,
        "latency_max_ms": latency_max,
    }
    others: dict[str, Any] = {
        "text": text or None,
        "pattern": pattern,
        "quantized": quantized,
        "license": license_name,
        "sparsity_min": sparsity_min,
        "sparsity_max": sparsity_max,
        "size_max": size_max,
        "cursor": cursor,
    }
    if best_for is not None:
        given = [name.replace("_", "-") for name, value in others.items() if value is not None]
        if given:
            raise typer.BadParameter(f"--best-for can't be narrowed by {', '.join(given)}")
        _search_best(best_for, limit, **measured)
        return
    page = zoo.search(limit=limit, **measured, **{**others, "text": text})
    Output.emit(page, "\n".join(table([_row(item) for item in page.items])) or "no model matches")
    if page.next_cursor and not Output.as_json:
        typer.echo(f"there are more: --cursor {page.next_cursor}", err=True)


def _row(item: ModelSummary) -> tuple[str, ...]:
    facts = item.metadata
    sparse = "" if facts.sparsity is None else f"{100 * facts.sparsity:.3g} % sparse"
    f1 = f"F1 {facts.metrics['f1']:.4g}" if "f1" in facts.metrics else ""
    kind = "quantized" if facts.quantized else ""
    return item.alias or item.name, f"v{item.latest_version}", size_text(item.size_bytes), sparse, kind, f1


def _search_best(cpu: str, limit: int, **wanted: str | float | None) -> None:
    from zoo.benchmark import this_hardware
    from zoo.client import RegistryClient
    from zoo.settings import Settings

    hardware = this_hardware()
    if cpu != "this-cpu":
        hardware = hardware.model_copy(update={"cpu": cpu})
    with RegistryClient(Settings.load()) as client:
        page = client.best(hardware, limit=limit, **wanted)
    if page.items and page.measured_on != "cpu":
        typer.echo(f"note: nothing was measured on {hardware.cpu}; on CPUs with {hardware.isa}:", err=True)
    rows = [_best_row(item) for item in page.items]
    Output.emit(page, "\n".join(table(rows)) or "no model was measured that meets this; see zoo benchmark --publish")


def _best_row(item: BestModel) -> tuple[str, ...]:
    run = item.benchmark.record
    f1 = "F1 -" if item.f1 is None else f"F1 {item.f1:.2f}"
    tokens = f"{run.sequence_length} tokens" if run.sequence_length else ""
    return f"{item.name}@v{item.version}", f1, f"{run.median_ms:.2f} ms", tokens, f"{run.threads} threads", run.engine
