"""`mirasol calibrate`."""

from typing import Annotated

import typer

from mirasol.cli import media
from mirasol.cli.base import (
    AsJson,
    BatchSize,
    Checkpoint,
    Classes,
    MaxClips,
    Metric,
    NoiseDb,
    Workers,
    command,
    imports,
    listed,
    one_of,
    show,
)
from mirasol.files import GRID_ROOT

NAMES = ("both", "sound", "picture")


@command("mirasol calibrate --checkpoint runs/mine/best --task jsonl --root FOLDER --split val")
@media.takes(seconds=media.reading, loading=media.loading)
def calibrate(
    seconds: dict,
    loading: dict,
    checkpoint: Checkpoint = None,
    task: Annotated[
        tuple, typer.Option(parser=listed(str, "names"), metavar="TASK,...", help="Data set, or several.")
    ] = "grid",  # type: ignore[assignment]  # typer parses it
    root: Annotated[
        tuple, typer.Option(parser=listed(str, "folders"), metavar="FOLDER,...", help="Folder of each data set.")
    ] = GRID_ROOT,  # type: ignore[assignment]  # typer parses it
    split: Annotated[
        tuple,
        typer.Option(parser=listed(str, "splits"), metavar="SPLIT,...", help="Split of each; not the reported one."),
    ] = "val",  # type: ignore[assignment]  # typer parses it
    condition: Annotated[
        tuple, typer.Option(parser=listed(one_of(NAMES), f"names out of {', '.join(NAMES)}"), metavar="NAME,...")
    ] = "both",  # type: ignore[assignment]  # typer parses it
    noise_db: NoiseDb = None,
    metric: Metric = None,
    classes: Classes = None,
    max_clips: MaxClips = None,
    output: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Gets calibration.json; by default the checkpoint's folder.")
    ] = None,
    batch_size: BatchSize = 8,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Fit the temperature of the confidence on val and store it with the checkpoint."""
    with imports():
        from mirasol.evaluate.temperature import calibrate_checkpoint

    result = calibrate_checkpoint(
        checkpoint, task, root, split, condition, noise_db, max_clips, output, metric=metric, classes=classes,
        batch_size=batch_size, workers=workers, **seconds, **loading,
    )  # fmt: skip
    show(result, as_json)
