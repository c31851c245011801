"""`mirasol train`."""

from typing import Annotated

import typer

from mirasol.cli.base import AsJson, Overrides, command, imports, show


@command("mirasol train recipes/grid_nano.yaml seed=1\n  mirasol train recipes/pretrain_3b.yaml --dry-run --gpus 64")
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="YAML file, see recipes/.")],
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what it costs: FLOPs, memory by part, hours.")
    ] = False,
    gpus: Annotated[int, typer.Option(help="For --dry-run: number of GPUs.")] = 1,
    gpu: Annotated[str, typer.Option(help="For --dry-run: h200, h100, a100, a100-40, l40s, rtx4090, ...")] = "h100",
    utilisation: Annotated[
        float, typer.Option(help="For --dry-run: share of the GPU's peak that is reached; 3b's, base reached 0.2.")
    ] = 0.49,
    clips: Annotated[int | None, typer.Option(help="For --dry-run: clips of an epoch.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a model by a recipe, or tell what that costs; the same command resumes a run that was stopped.

    The keys that KEY=VALUE replaces, such as seed=1 or data.sources.0.root=FOLDER, stand in docs/training.md and, with
    every value, in recipe.yaml of a run's folder.
    """
    with imports():
        from mirasol.report.training import write_training_report
        from mirasol.train.plan import plan
        from mirasol.train.run import train as run

    if dry_run:
        show(plan(recipe, overrides or [], gpus, gpu, utilisation, clips), as_json)
    else:
        show(run(recipe, overrides or [], report=write_training_report), as_json)
