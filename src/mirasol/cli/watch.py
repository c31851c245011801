"""`mirasol watch`."""

import sys
import time
from typing import Annotated

import typer

from mirasol.cli import media
from mirasol.cli.base import AsJson, Checkpoint, command, imports, show

BARS = "▁▂▃▄▅▆▇█"
SHOWN_CHUNKS = 48


@command('mirasol watch film.mp4 --ask "which color is named?" --every 5')
@media.takes(tracks=media.tracks, loading=media.live)
def watch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help='File, "-" (standard input), named pipe, URL (udp, rtsp, http), camera, camera+microphone.',
        ),
    ],
    tracks: dict,
    loading: dict,
    ask: Annotated[list[str] | None, typer.Option(metavar="QUESTION", help="May be given several times.")] = None,
    every: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Also ask at this interval, not only at the end.")
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Save the session there; a saved session is resumed."),
    ] = None,
    jsonl: Annotated[str | None, typer.Option(metavar="FILE", help="Append each chunk and answer as a line.")] = None,
    realtime: Annotated[bool, typer.Option("--realtime", help="Play a file at its own speed.")] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time without media after which the source has stalled.")
    ] = 10.0,
    max_lag: Annotated[
        float, typer.Option(metavar="SECONDS", help="Largest lag behind a live source before chunks are skipped.")
    ] = 5.0,
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Watch a source as it plays, and answer questions about its latest seconds."""
    with imports():
        from mirasol.answer.answerer import Answerer
        from mirasol.answer.watch import watch as watch_source

    with _View(sys.stderr.isatty(), prints=not as_json) as view:
        summary = watch_source(
            source, ask or (), answerer=Answerer.load(checkpoint, **loading), every=every, realtime=realtime,
            timeout=timeout, **media.as_reading({}, tracks), max_lag=max_lag, save=save, jsonl=jsonl, show=view.update,
        )  # fmt: skip
    show(summary, as_json)


class _View:
    """Live view on a terminal, redrawn at most eight times a second; elsewhere one line per answer."""

    def __init__(self, is_terminal: bool, prints: bool):
        self.live, self.prints = None, prints
        self.drawn = 0.0
        self.printed: list = []
        if is_terminal:
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)

    def __enter__(self) -> "_View":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_) -> None:
        if self.live is not None:
            self.live.stop()

    def update(self, state) -> None:
        """Draw session time, lag, surprise and answers, or print the answers that are new."""
        from mirasol.answer.watch import answer_line

        answers = list(state.answers.values())
        if self.live is None:
            for answer in answers if self.prints else ():
                if not any(answer is one for one in self.printed):
                    print(f"{state.session.seconds:8.2f} s  {answer_line(answer)}", flush=True)
            self.printed = answers
            return
        if time.monotonic() - self.drawn < 0.125:
            return
        self.drawn = time.monotonic()
        self.live.update(describe(state), refresh=True)


def describe(state) -> str:
    """Return the state of a watched source as lines of text."""
    results = list(state.session.results)[-SHOWN_CHUNKS:]
    values = [result.surprise for result in results]
    known = [value for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    scale = (len(BARS) - 1) / max(high - low, 1e-9)
    line = "".join(" " if value is None else BARS[int((value - low) * scale)] for value in values)
    lost = ", ".join(f"{name.replace('_', ' ')} {count:g}" for name, count in state.session.dropped.items())
    lines = [
        f"{state.source}  {state.session.seconds:8.2f} s  lag {state.lag_seconds:4.1f} s  dropped {lost or 'nothing'}",
        f"surprise {line}",
    ]
    lines += [f"{a.question}  {a.answer}  ({100 * a.confidence:.0f} %)" for a in state.answers.values()]
    return "\n".join(lines)
