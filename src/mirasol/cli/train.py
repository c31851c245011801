"""`mirasol new` and `train`."""

from typing import Annotated

import typer

from mirasol.cli.base import AsJson, Overrides, command, imports, show


@command("mirasol new my_clips")
def new(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="A new or empty folder.")],
    as_json: AsJson = False,
) -> None:
    """Make a folder to train on own clips: recipe, manifest, two sample clips."""
    from mirasol.train.starter import new as make

    show(make(folder), as_json)


@command("mirasol train recipes/grid_nano.yaml seed=1\n  mirasol train recipes/pretrain_3b.yaml --dry-run --gpus 64")
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="YAML file, see recipes/.")],
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only estimate the cost: FLOPs, memory by part, hours.")
    ] = False,
    gpus: Annotated[int, typer.Option(help="For --dry-run: number of GPUs.")] = 1,
    gpu: Annotated[str, typer.Option(help="For --dry-run: h200, h100, a100, a100-40, l40s, rtx4090, ...")] = "h100",
    utilisation: Annotated[
        float, typer.Option(help="For --dry-run: share of the GPU's peak (3b reached 0.49, base 0.2).")
    ] = 0.49,
    clips: Annotated[int | None, typer.Option(help="For --dry-run: clips of an epoch.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a model by a recipe, or estimate its cost; the same command resumes a stopped run.

    KEY=VALUE replaces a key of the recipe, such as seed=1 or data.sources.0.root=FOLDER. docs/training.md lists all
    keys; recipe.yaml in a run's folder has every value.
    """
    with imports():
        from mirasol.report.training import write_training_report
        from mirasol.train.plan import plan
        from mirasol.train.run import train as run

    if dry_run:
        show(plan(recipe, overrides or [], gpus, gpu, utilisation, clips), as_json)
    else:
        show(run(recipe, overrides or [], report=write_training_report), as_json)
