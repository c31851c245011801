"""`mirasol calibrate`."""

from typing import Annotated

import typer

from mirasol.cli.base import AsJson, command, imports, listed, one_of, show
from mirasol.files import GRID_ROOT

NAMES = ("both", "sound", "picture")


@command("mirasol calibrate runs/mine/best --task jsonl --root FOLDER --split val")
def calibrate(
    checkpoint: Annotated[
        str | None, typer.Argument(metavar="CHECKPOINT", help="Folder of a checkpoint; by default the shipped one.")
    ] = None,
    task: Annotated[
        tuple, typer.Option(parser=listed(str, "names"), metavar="TASK,...", help="Data set, or several.")
    ] = "grid",  # type: ignore[assignment]
    root: Annotated[
        tuple, typer.Option(parser=listed(str, "folders"), metavar="FOLDER,...", help="Folder of each data set.")
    ] = GRID_ROOT,  # type: ignore[assignment]
    split: Annotated[
        tuple,
        typer.Option(parser=listed(str, "splits"), metavar="SPLIT,...", help="Split of each; not the reported one."),
    ] = "val",  # type: ignore[assignment]
    condition: Annotated[
        tuple, typer.Option(parser=listed(one_of(NAMES), f"names out of {', '.join(NAMES)}"), metavar="NAME,...")
    ] = "both",  # type: ignore[assignment]
    noise_db: Annotated[
        tuple | None,
        typer.Option(parser=listed(float, "numbers such as -5,-10"), metavar="DB,...", help="White noise."),
    ] = None,
    max_clips: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N clips of each.")] = None,
    output: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Gets calibration.json; by default the checkpoint's folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit the temperature of the confidence on val and store it with the checkpoint."""
    with imports():
        from mirasol.evaluate.temperature import calibrate_checkpoint

    show(calibrate_checkpoint(checkpoint, task, root, split, condition, noise_db, max_clips, output), as_json)
