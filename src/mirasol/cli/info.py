"""`mirasol info`."""

from typing import Annotated

import typer

from mirasol.cli.base import AsJson, command, imports, show


@command("mirasol info 3b")
def info(
    path: Annotated[str, typer.Argument(metavar="CLIP|CHECKPOINT|PRESET", help="Presets: nano, small, base, 3b.")],
    as_json: AsJson = False,
) -> None:
    """Describe a clip, a checkpoint or a preset."""
    with imports():
        from mirasol.report.info import info as describe

    show(describe(path), as_json)
