"""`zoo recipe`: what a recipe says, its mistakes, its schedule."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.terminal import Output

app = typer.Typer(name="recipe", no_args_is_help=True, help="Read, check and plan recipes.")

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="a file or a zoo: stub")]
RecipeArgs = Annotated[
    str | None, typer.Option("--recipe_args", "--recipe-args", help="variables, as JSON or k=v,k2=v2")
]


@app.command("show")
def show_recipe(recipe: RecipeArgument, recipe_args: RecipeArgs = None) -> None:
    """Print a recipe with its variables worked out."""
    from zoo.recipe import Recipe

    text = Recipe.load(recipe, recipe_args).to_yaml()
    Output.emit({"recipe": recipe, "yaml": text}, text)


@app.command("lint")
def lint_recipe(recipe: RecipeArgument, recipe_args: RecipeArgs = None) -> None:
    """List a recipe's mistakes; exit code 1 if there is an error among them."""
    from zoo.recipe import lint

    findings = lint(recipe, recipe_args)
    Output.emit(findings, "\n".join(str(finding) for finding in findings) or "no mistakes found")
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


@app.command("plan")
def plan_recipe(
    recipe: RecipeArgument,
    recipe_args: RecipeArgs = None,
    steps_per_epoch: Annotated[int, typer.Option("--steps_per_epoch", "--steps-per-epoch", min=1)] = 100,
    num_epochs: Annotated[
        float | None,
        typer.Option("--num_epochs", "--num-epochs", help="length of the run; as long as the recipe says by default"),
    ] = None,
) -> None:
    """Show a recipe's schedule as a table: what happens at which epoch and step."""
    from zoo.recipe import Recipe
    from zoo.schedule import plan, render

    rows = plan(Recipe.load(recipe, recipe_args), steps_per_epoch, num_epochs)
    Output.emit(rows, render(rows))
