"""`mirasol evaluate`."""

from typing import Annotated, Literal

import typer

from mirasol.cli.base import AsJson, Checkpoint, Classes, command, imports, show
from mirasol.files import GRID_ROOT


@command("mirasol evaluate --split test --condition sound")
def evaluate(
    checkpoint: Checkpoint = None,
    task: Annotated[str, typer.Option(metavar="TASK", help="Data set or benchmark.")] = "grid",
    root: Annotated[str, typer.Option(metavar="FOLDER", help="Its annotations and clips.")] = GRID_ROOT,
    split: Annotated[str, typer.Option(metavar="SPLIT", help='One, or several joined by "+".')] = "test",
    condition: Annotated[
        Literal["both", "sound", "picture", "swapped", "silent"], typer.Option(help="How clips are shown.")
    ] = "both",
    rank: Annotated[
        bool, typer.Option("--rank", help="Choose among the given options by likelihood instead of generating text.")
    ] = False,
    audit: Annotated[bool, typer.Option("--audit", help="Also measure with sound off, swapped and silent.")] = False,
    classes: Classes = None,
    noise_db: Annotated[
        float | None, typer.Option(metavar="DB", help="White noise at this signal-to-noise ratio.")
    ] = None,
    noise_seed: Annotated[int, typer.Option(metavar="N", help="Of that noise.")] = 0,
    max_clips: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N clips.")] = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where predictions, metrics and report go; a stopped run is resumed."),
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Clips at once.")] = 8,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Processes that decode; by default one a core.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a checkpoint on a split."""
    with imports():
        from mirasol.evaluate.runner import evaluate as run

    result = run(
        checkpoint=checkpoint, task=task, root=root, split=split, condition=condition, noise_db=noise_db,
        noise_seed=noise_seed, output=output, batch_size=batch_size, max_clips=max_clips, rank=rank, audit=audit,
        classes=classes, workers=workers,
    )  # fmt: skip
    show(result, as_json)
