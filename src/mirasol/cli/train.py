"""`mirasol train`."""

from typing import Annotated

import typer

from mirasol.cli.base import AsJson, Overrides, command, imports, show


@command("mirasol train recipes/grid_nano.yaml seed=1")
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="YAML file, see recipes/.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train a model by a recipe; the same command resumes a run that was stopped.

    The keys that KEY=VALUE replaces, such as seed=1 or data.sources.0.root=FOLDER, stand in docs/training.md and, with
    every value, in recipe.yaml of a run's folder.
    """
    with imports():
        from mirasol.train.run import train as run

    show(run(recipe, overrides or []), as_json)
