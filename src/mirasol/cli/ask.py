"""`mirasol ask`."""

from typing import Annotated

import typer

from mirasol.cli.base import AsJson, Checkpoint, Decoder, MaxNewTokens, command, imports, listed, show


@command('mirasol ask clip.mp4 "which color is named?"')
def ask(
    clip: Annotated[str, typer.Argument(metavar="CLIP", help="Video or sound file.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In quotes.")],
    no_audio: Annotated[bool, typer.Option("--no-audio", help="Do not listen.")] = False,
    no_video: Annotated[bool, typer.Option("--no-video", help="Do not look.")] = False,
    crop: Annotated[
        tuple | None,
        typer.Option(
            parser=listed(float, "numbers such as 0.41,0.5,0.64"),
            metavar="SIDE[,X,Y]",
            help="Square to look at: side as a part of the frame's shorter side, centre in parts of the frame.",
        ),
    ] = None,
    audio_stream: Annotated[
        str | None, typer.Option(metavar="N|LANG", help="Sound track by number, counted from 0, or by language.")
    ] = None,
    decoder: Decoder = None,
    max_new_tokens: MaxNewTokens = None,
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question about a clip."""
    with imports():
        from mirasol.answer.ask import ask as answer

    result = answer(
        clip, question, checkpoint, use_audio=not no_audio, use_video=not no_video, crop=crop,
        audio_stream=int(audio_stream) if audio_stream and audio_stream.isdecimal() else audio_stream,
        decoder=decoder, max_new_tokens=max_new_tokens,
    )  # fmt: skip
    show(result, as_json)
