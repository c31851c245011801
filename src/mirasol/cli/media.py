"""Options of the commands that watch files: segment, tracks, crop, and how the checkpoint is loaded."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from mirasol.cli.base import Decoder, MaxNewTokens, listed

MaxChunks = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Largest number of chunks; by default the checkpoint's.")
]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str | None, typer.Option(metavar="NAME", help="float32 (default), bfloat16 or float16.")]


def track(text: str) -> int | str:
    """Return a sound track's number or language."""
    return int(text) if text.isdecimal() else text


def reading(
    start: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Start of the segment to watch.")] = 0.0,
    end: Annotated[float | None, typer.Option(metavar="SECONDS", help="End of the segment to watch.")] = None,
) -> None:
    """Options of the segment to watch."""


def tracks(
    no_audio: Annotated[bool, typer.Option("--no-audio", help="Leave the sound out.")] = False,
    no_video: Annotated[bool, typer.Option("--no-video", help="Leave the picture out.")] = False,
    crop: Annotated[
        tuple | None,
        typer.Option(
            parser=listed(float, "numbers such as 0.41,0.5,0.64"),
            metavar="SIDE[,X,Y]",
            help="Square crop: side as a fraction of the frame's shorter side, centre as fractions of the frame.",
        ),
    ] = None,
    audio_stream: Annotated[
        Any, typer.Option(parser=track, metavar="N|LANG", help="Sound track by number, from 0, or by language.")
    ] = None,
) -> None:
    """Options of tracks and crop."""


def loading(
    sampling: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Policy for clips longer than --max-chunks: uniform, snippets or dense."),
    ] = None,
    max_chunks: MaxChunks = None,
    device: Device = None,
    dtype: Dtype = None,
    decoder: Decoder = None,
    max_new_tokens: MaxNewTokens = None,
) -> None:
    """Options of `Answerer.load` other than the checkpoint."""


def live(
    max_chunks: MaxChunks = None, device: Device = None, dtype: Dtype = None, max_new_tokens: MaxNewTokens = None
) -> None:
    """Options of `Answerer.load` for a source that plays: every chunk is watched, as PyAV decodes it."""


def takes(**groups: Callable) -> Callable[[Callable], Callable]:
    """Return a decorator that replaces parameters of a command by groups of options.

    The command gets the options of each group as one mapping under the group's keyword.
    """

    def decorate(function: Callable) -> Callable:
        signature, hints = inspect.signature(function), get_type_hints(function, include_extras=True)
        parameters = []
        for name, parameter in signature.parameters.items():
            if name not in groups:
                parameters.append(parameter.replace(annotation=hints[name]))
                continue
            inner = get_type_hints(groups[name], include_extras=True)
            parameters += [
                part.replace(annotation=inner[part.name], kind=parameter.kind)
                for part in inspect.signature(groups[name]).parameters.values()
            ]

        @functools.wraps(function)
        def run(**values: Any) -> Any:
            for name, options in groups.items():
                values[name] = {part: values.pop(part) for part in inspect.signature(options).parameters}
            return function(**values)

        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # typer reads it
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def as_reading(seconds: dict[str, Any], tracks: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a `Reading`."""
    return {
        **seconds, "use_audio": not tracks["no_audio"], "use_video": not tracks["no_video"], "crop": tracks["crop"],
        "audio_stream": tracks["audio_stream"],
    }  # fmt: skip
