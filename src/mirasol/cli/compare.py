"""`mirasol compare`."""

from typing import Annotated

import typer

from mirasol.cli.base import AsJson, command, imports, show


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
