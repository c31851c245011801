"""`mirasol new`."""

from typing import Annotated

import typer

from mirasol.cli.base import AsJson, command, show


@command("mirasol new my_clips")
def new(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="A new or empty folder.")],
    as_json: AsJson = False,
) -> None:
    """Make a folder to train on own clips: recipe, manifest, two sample clips."""
    from mirasol.train.starter import new as make

    show(make(folder), as_json)
