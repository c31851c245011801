"""`mirasol data`: commands about the clips of a benchmark."""

from typing import Annotated

import typer

from mirasol.cli.base import AsJson, Classes, app, command, group, show

data = group("Describe a benchmark or check its clips.")
app.add_typer(data, name="data")

Task = Annotated[str, typer.Argument(metavar="TASK", help="Data set or benchmark.")]


@command("mirasol data info vggsound", among=data, name="info")
def data_info(task: Task, as_json: AsJson = False) -> None:
    """Describe a benchmark: source, splits, prompt, metric."""
    from mirasol.tasks import describe_task

    show(describe_task(task), as_json)


@command("mirasol data verify vggsound --root data/vggsound --output coverage.json", among=data, name="verify")
def data_verify(
    task: Task,
    root: Annotated[str, typer.Option(metavar="FOLDER", help="Its annotations and clips.")],
    split: Annotated[str | None, typer.Option(metavar="SPLIT", help="By default the one that is reported.")] = None,
    classes: Classes = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Clips at a time; by default one a core.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="FILE", help="Where the coverage manifest goes, as JSON.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Report which clips of a benchmark are present, missing, undecodable or silent."""
    from mirasol.data.verify import verify

    show(verify(task, root, split, classes, output, workers), as_json)
