"""`mirasol evaluate`, `calibrate`, `compare` and `demo`."""

from typing import Annotated

import typer

from mirasol.cli import media
from mirasol.cli.base import (
    AbstainBelow,
    AsJson,
    BatchSize,
    Checkpoint,
    Classes,
    MaxClips,
    Metric,
    NoiseDb,
    Rank,
    Workers,
    command,
    imports,
    listed,
    one_of,
    show,
)
from mirasol.files import GRID_ROOT, REPORT

TO_FIT = ("both", "sound", "picture")
NAMES = (*TO_FIT, "swapped", "silent")


@command("mirasol evaluate --split test --condition sound")
@media.takes(seconds=media.reading, loading=media.loading)
def evaluate(
    seconds: dict,
    loading: dict,
    checkpoint: Checkpoint = None,
    task: Annotated[str, typer.Option(metavar="TASK", help="Data set or benchmark.")] = "grid",
    root: Annotated[str, typer.Option(metavar="FOLDER", help="Its annotations and clips.")] = GRID_ROOT,
    split: Annotated[str, typer.Option(metavar="SPLIT", help='One, or several joined by "+".')] = "test",
    condition: Annotated[
        tuple,
        typer.Option(
            parser=listed(one_of(NAMES), f"names out of {', '.join(NAMES)}"),
            metavar="NAME,...",
            help="How clips are shown: both, sound, picture, swapped, silent. Of several between commas, the first is "
            "measured and the others are compared with it.",
        ),
    ] = "both",  # type: ignore[assignment]  # typer parses it
    rank: Rank = False,
    audit: Annotated[
        bool, typer.Option("--audit", help="The same as --condition both,picture,swapped,silent.")
    ] = False,
    classes: Classes = None,
    noise_db: NoiseDb = None,
    noise_seeds: Annotated[
        tuple,
        typer.Option(
            parser=listed(int, "whole numbers such as 0,1,2"),
            metavar="N,...",
            help="Seeds of that noise; pooled where conditions are compared.",
        ),
    ] = "0",  # type: ignore[assignment]  # typer parses it
    metric: Metric = None,
    abstain_below: AbstainBelow = None,
    max_clips: MaxClips = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where predictions, metrics and report go; a stopped run is resumed."),
    ] = None,
    batch_size: BatchSize = 8,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Measure a checkpoint on a split."""
    with imports():
        from mirasol.evaluate.runner import evaluate as run
        from mirasol.report.run import write_report

    result = run(
        checkpoint=checkpoint, task=task, root=root, split=split, condition=condition, noise_db=noise_db,
        noise_seeds=noise_seeds, output=output, batch_size=batch_size, max_clips=max_clips, rank=rank, audit=audit,
        classes=classes, workers=workers, metric=metric, abstain_below=abstain_below, **seconds, **loading,
    )  # fmt: skip
    if result is not None and output is not None:
        write_report(result)  # last, so that an error in the page loses no metrics
    show(result, as_json)


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
        tuple, typer.Option(parser=listed(one_of(TO_FIT), f"names out of {', '.join(TO_FIT)}"), metavar="NAME,...")
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


@command("mirasol compare runs/before runs/after --output compare.html")
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="Folder of `mirasol evaluate --output`.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="Another one, on the same rows.")],
    output: Annotated[str | None, typer.Option(metavar="FILE", help="Also write a page.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two evaluations by question, with intervals of the differences."""
    with imports():
        from mirasol.report.compare import compare as run

    show(run(first, second, output), as_json)


@command("mirasol demo")
def demo(
    checkpoint: Checkpoint = None,
    root: Annotated[str, typer.Option(metavar="FOLDER", help="GRID clips.")] = GRID_ROOT,
    max_clips: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N test clips.")] = None,
    output: Annotated[str, typer.Option(metavar="FILE", help="The page.")] = REPORT,
    as_json: AsJson = False,
) -> None:
    """Evaluate the shipped checkpoint and write a report."""
    with imports():
        from mirasol.report.demo import demo as run

    show(run(checkpoint, root, output, max_clips), as_json)
