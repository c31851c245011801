"""`mirasol ask`."""

from typing import Annotated

import typer

from mirasol.cli import media
from mirasol.cli.base import AbstainBelow, AsJson, Checkpoint, command, imports, show


@command('mirasol ask clip.mp4 "which color is named?" "what is said?"')
@media.takes(seconds=media.reading, tracks=media.tracks, loading=media.loading)
def ask(
    clip: Annotated[str, typer.Argument(metavar="CLIP", help="Video or sound file.")],
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION", help="One or several, each in quotes.")],
    seconds: dict,
    tracks: dict,
    loading: dict,
    abstain_below: AbstainBelow = None,
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Answer questions about a clip."""
    with imports():
        from mirasol.answer.ask import ask_all
        from mirasol.answer.reading import Reading

    reading = Reading(**media.as_reading(seconds, tracks))
    show(ask_all(clip, questions, checkpoint, reading=reading, abstain_below=abstain_below, **loading), as_json)
