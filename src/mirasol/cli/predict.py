"""`mirasol predict`."""

import sys
from typing import Annotated

import typer

from mirasol.cli import media
from mirasol.cli.base import AbstainBelow, AsJson, BatchSize, Checkpoint, Rank, Workers, command, imports, listed, show


@command(
    'mirasol predict clips/ --ask "what happens?" --ask "who speaks?" --checkpoint runs/first/best --output out.csv'
)
@media.takes(seconds=media.reading, tracks=media.tracks, loading=media.loading)
def predict(
    clips: Annotated[
        list[str],
        typer.Argument(metavar="CLIPS", help='Files, folders, "globs", manifests (.jsonl), "-" (a list on stdin).'),
    ],
    seconds: dict,
    tracks: dict,
    loading: dict,
    ask: Annotated[list[str] | None, typer.Option(metavar="QUESTION", help="May be given several times.")] = None,
    rank: Rank = False,
    options: Annotated[
        tuple | None,
        typer.Option(
            parser=listed(str, "texts"),
            metavar="A,B,...",
            help="Where a line has none; implies --rank. Quote what holds commas: 'A,\"B, C\"'.",
        ),  # fmt: skip
    ] = None,
    segment_seconds: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.1, help="Cut each clip into segments of this length.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="A .jsonl or .csv file, from which a stopped run resumes; by default stdout."
        ),
    ] = None,
    abstain_below: AbstainBelow = None,
    batch_size: BatchSize = 8,
    workers: Workers = None,
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Answer questions about many clips.

    Exit code 0: all were answered; 1: some clips could not be read, and their rows hold the error; 2: none could, or
    the arguments were wrong.
    """
    with imports():
        from mirasol.answer.answer_files import json_lines
        from mirasol.answer.predict import predict as run
        from mirasol.answer.reading import Reading

    result = run(
        clips, ask or (), checkpoint, options=options, reading=Reading(**media.as_reading(seconds, tracks)), rank=rank,
        segment_seconds=segment_seconds, output=output, abstain_below=abstain_below, batch_size=batch_size,
        workers=workers, **loading,
        write=lambda rows: print(json_lines(rows), end="", flush=True),
    )  # fmt: skip
    if output or as_json:
        show(result, as_json)
    else:
        print(result, file=sys.stderr)  # stdout holds the rows
    raise typer.Exit(result.exit_code)
