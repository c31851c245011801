"""`mirasol data`: commands about benchmarks and own clips."""

from typing import Annotated

import typer

from mirasol.cli.base import AsJson, Checkpoint, Classes, app, command, group, show

data = group("Describe a benchmark; check, convert and shard clips.")
app.add_typer(data, name="data")

Processes = Annotated[int | None, typer.Option(metavar="N", min=1, help="Processes; by default one a core.")]
Split = Annotated[str, typer.Option(metavar="SPLIT", help="Split of a source that has several.")]
Columns = Annotated[str | None, typer.Option(metavar="KEY=COLUMN,...", help="Columns of a dataset, by our keys.")]
QuestionOfAll = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Asked of every clip of a dataset or folder that has no questions.")
]
Task = Annotated[str, typer.Argument(metavar="TASK", help="Data set or benchmark.")]


@command("mirasol data info vggsound", among=data, name="info")
def data_info(task: Task, as_json: AsJson = False) -> None:
    """Describe a benchmark: source, splits, prompt, metric."""
    from mirasol.tasks import describe_task

    show(describe_task(task), as_json)


@command("mirasol data verify vggsound --root data/vggsound --output coverage.json", among=data, name="verify")
def data_verify(
    task: Task,
    root: Annotated[str, typer.Option(metavar="FOLDER", help="Folder of annotations and clips.")],
    split: Annotated[str | None, typer.Option(metavar="SPLIT", help="By default the split that is reported.")] = None,
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


@command("mirasol data shard clips/train.jsonl -o shards/train --height 256 --gop 25", among=data, name="shard")
def data_shard(
    manifest: Annotated[str, typer.Argument(metavar="MANIFEST", help="File or folder of clips, docs/data.md.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="Where the tars go.")],
    split: Split = "train",
    columns: Columns = None,
    question: QuestionOfAll = None,
    clips_per_shard: Annotated[int, typer.Option(metavar="N", min=1, help="Files of each tar.")] = 256,
    height: Annotated[
        int | None, typer.Option(metavar="PIXELS", min=16, help="Re-encode with a shorter side of at most this.")
    ] = None,
    gop: Annotated[int | None, typer.Option(metavar="FRAMES", min=1, help="From one keyframe to the next.")] = None,
    processes: Processes = None,
    as_json: AsJson = False,
) -> None:
    """Write clips and questions into tar shards, which training reads locally or over HTTP; resumes."""
    from mirasol.data.shard import shard
    from mirasol.tasks.formats import read_columns

    result = shard(
        manifest, output, split=split, columns=read_columns(columns), question=question, height=height, gop=gop,
        clips_per_shard=clips_per_shard, processes=processes,
    )  # fmt: skip
    show(result, as_json)


@command("mirasol data index shards/train", among=data, name="index")
def data_index(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder of WebDataset tars.")],
    as_json: AsJson = False,
) -> None:
    """Index the tars of another program, or those that were changed, so that they can be read as shards."""
    from mirasol.data.shard import index_folder

    show(index_folder(folder), as_json)


@command("mirasol data convert hf:OWNER/NAME -o clips/train.jsonl --columns media=video", among=data, name="convert")
def data_convert(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Manifest, folder, shards or hf:NAME.")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="It ends in .jsonl, .csv, .tsv or .json (LLaVA).")
    ],
    split: Split = "train",
    columns: Columns = None,
    question: QuestionOfAll = None,
    as_json: AsJson = False,
) -> None:
    """Convert a manifest of any kind into another one; media inside a dataset or tar are written beside it."""
    from mirasol.data.convert import convert
    from mirasol.tasks.formats import read_columns

    show(convert(source, output, split, read_columns(columns), question), as_json)


@command("mirasol data check my_clips --recipe recipes/own_clips.yaml --sheet sheet.html", among=data, name="check")
def data_check(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Manifest, folder of splits, shards or hf:NAME.")],
    split: Annotated[str | None, typer.Option(metavar="SPLIT", help="Only this one; by default all.")] = None,
    recipe: Annotated[str | None, typer.Option(metavar="RECIPE", help="Check against what it would train.")] = None,
    checkpoint: Checkpoint = None,
    sheet: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a page of what the model will see and hear.")
    ] = None,
    sheet_clips: Annotated[int, typer.Option(metavar="N", min=1, help="Clips of each split on that page.")] = 12,
    columns: Columns = None,
    question: QuestionOfAll = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Clips at a time; by default one a core.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="One line a clip; the same command resumes from it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check own clips and questions before training: missing, silent, duplicated, leaking, too long, baselines.

    Exit code 0: nothing that harms a training; 1: clips are missing, undecodable, empty, duplicated or in two splits,
    answers contradict each other, or a text is too long; 2: the arguments were wrong.
    """
    from mirasol.report.sheet import check_with_sheet
    from mirasol.tasks.formats import read_columns

    result = check_with_sheet(
        source, recipe, checkpoint, sheet, sheet_clips, split=split, columns=read_columns(columns), question=question,
        workers=workers, output=output,
    )  # fmt: skip
    show(result, as_json)
    raise typer.Exit(result.exit_code)
