"""`mirasol demo`."""

from typing import Annotated

import typer

from mirasol.cli.base import AsJson, Checkpoint, command, imports, show
from mirasol.files import GRID_ROOT, REPORT


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
