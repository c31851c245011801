"""`mirasol export`."""

from typing import Annotated

import typer

from mirasol.cli.base import AsJson, Checkpoint, command, imports, show


@command("mirasol export --checkpoint runs/mine/best my-model-on-the-hub")
def export(
    output: Annotated[str, typer.Argument(metavar="FOLDER", help="A new folder.")],
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Write checkpoint and code into one flat folder.

    transformers loads it with trust_remote_code where mirasol is not installed.
    """
    with imports():
        from mirasol.convert.flat_folder import write_flat_folder

    show(write_flat_folder(checkpoint, output), as_json)
