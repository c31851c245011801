"""`mirasol watch`: watch a file, pipe, URL or camera as it plays, and ask questions at intervals."""

import json
import math
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mirasol.answer.answerer import Answerer
from mirasol.answer.reading import square
from mirasol.answer.session import StreamAnswer, StreamSession, advance
from mirasol.media import MediaError
from mirasol.media.live import Source
from mirasol.results import Document

CHUNKS_AHEAD = 8  # chunks per call, if the source waits for its reader


class WatchSummary(Document):
    """Summary of a watched source with the last answers."""

    source: str
    seconds: float
    num_chunks: int
    dropped: dict[str, float]
    end: str
    answers: list[StreamAnswer] = []
    saved_to: str | None = None
    warnings: list[str] = []

    def __str__(self) -> str:
        lost = ", ".join(f"{name.replace('_', ' ')} {count:g}" for name, count in self.dropped.items())
        lines = [f"{self.source}: {self.seconds:.2f} s in {self.num_chunks} chunks; {self.end}"]
        lines += [f"  not watched {lost}"] if lost else []
        lines += [f"  warning     {warning}" for warning in self.warnings]
        lines += [f"  at the end: {answer_line(answer)}" for answer in self.answers]
        lines += [] if self.answers else ["  nothing was asked: --ask QUESTION"]
        return "\n".join(lines + ([f"  saved to    {self.saved_to}"] if self.saved_to else []))


def answer_line(answer: StreamAnswer) -> str:
    """Return question, answer and confidence as one line."""
    return f"{answer.question}  {answer.answer} ({100 * answer.confidence:.0f} %)"


@dataclass
class WatchState:
    """State of a source that plays, for a display."""

    source: str
    session: StreamSession
    lag_seconds: float = 0.0
    answers: dict[str, StreamAnswer] = field(default_factory=dict)


def watch(
    source: str,
    questions: Sequence[str] = (),
    *,
    answerer: Answerer,
    every: float | None = None,
    use_video: bool = True,
    use_audio: bool = True,
    audio_stream: int | str | None = None,
    crop: Sequence[float] | None = None,
    realtime: bool = False,
    timeout: float = 10.0,
    max_lag: float = 5.0,
    save: str | Path | None = None,
    jsonl: str | Path | None = None,
    show: Callable[[WatchState], None] | None = None,
) -> WatchSummary:
    """Watch a source until it ends, stalls, or Ctrl-C stops it; the answers so far are kept in each case.

    If a live source is more than `max_lag` seconds ahead of the model, the oldest chunks are skipped until the lag is
    half of that.

    Args:
        source: See `Source`.
        questions: Questions to ask at the end and, with `every`, at intervals.
        answerer: Model and processor.
        every: Interval in seconds of session time.
        use_video, use_audio, audio_stream, crop: Tracks to watch, and the square of the picture, as in `Reading`.
        realtime: Play a file in real time.
        timeout: Seconds without media after which the source counts as stalled.
        max_lag: Largest lag in seconds.
        save: Folder to save the session in at the end. A session saved there is resumed, and the source follows it.
        jsonl: File to which each chunk and answer is appended as one line.
        show: Function to call after each step.
    """
    if every is not None and not every > 0:
        raise ValueError(f"Expected --every in seconds, above 0, found {every}.")
    if not max_lag > 0:
        raise ValueError(f"Expected --max-lag in seconds, above 0, found {max_lag}.")
    player = Source(source, use_video, use_audio, audio_stream, realtime, timeout)
    if save is not None and (Path(save) / "session.json").is_file():
        session = StreamSession.load(save, answerer)
        for track in ("video", "audio"):
            if getattr(player, f"has_{track}") and not getattr(session.chunks, f"use_{track}"):
                raise ValueError(
                    f"Expected a source without {track}, as the session in {save} began, found {track} in {source}. "
                    f"Pass --no-{track}, or name another --save."
                )
        if crop is not None and square(crop) != (kept := tuple(session.chunks.video.crop or ())):
            raise ValueError(
                f"Expected the crop that the session in {save} began with, {kept or 'the default'}, found "
                f"{square(crop)}. Leave --crop out, or name another --save."
            )
    else:
        session = StreamSession(
            answerer, use_video=player.has_video, use_audio=player.has_audio, start_time=0.0, crop=square(crop)
        )  # fmt: skip
    state = WatchState(source, session)
    for question in questions:
        session.answerer.prompts([question])  # raises for a question that is too long, before watching
        for unlike in answerer.warnings(question):
            warnings.warn(unlike, stacklevel=2)
    offset, begin = session.chunks.next_start, session.seconds
    num_asked = 0  # intervals that have ended
    seconds_per_chunk = session.chunks.grid.seconds_per_chunk
    end = "the source ended"

    def interrupt(*_) -> None:
        nonlocal end
        end = "interrupted"
        player.stop()

    with _lines(jsonl) as write, _on_signal(interrupt):

        def step(count: int) -> None:
            """Watch up to `count` waiting chunks, and ask after each interval."""
            nonlocal num_asked
            while session.waiting and count > 0:
                until_due = count
                if every is not None:  # less a millionth, because sums of floats may end just before or after
                    seconds = begin + (num_asked + 1) * every - session.seconds
                    until_due = max(math.ceil(seconds / seconds_per_chunk - 1e-6), 1)
                results = advance([session], min(count, until_due))[0]
                count -= len(results)
                for result in results:
                    write("chunk", asdict(result))
                if every is not None:
                    num_ended = int((session.seconds - begin) / every + 1e-6)
                    if num_ended > num_asked:
                        num_asked = num_ended
                        ask()
                state.lag_seconds = len(session.waiting) * seconds_per_chunk
                if show is not None:
                    show(state)

        def ask() -> None:
            for question in questions:
                answer = session.ask(question)
                state.answers[question] = answer
                write("answer", answer.as_dict())

        try:
            for media in player:
                try:
                    session.push(**_later(media, offset), watch=False)
                except ValueError as error:  # broken timestamps or samples: earlier media are kept
                    raise MediaError(f"{source} broke off: {error}") from error
                if player.waits:
                    if len(session.waiting) >= CHUNKS_AHEAD or not player.waiting():
                        step(len(session.waiting))
                    continue
                if len(session.waiting) * seconds_per_chunk > max_lag:
                    session.skip(len(session.waiting) - int(max_lag / 2 / seconds_per_chunk))
                while session.waiting and not player.waiting():
                    step(1)
        except MediaError as error:
            end = str(error)
        session.waiting += session.chunks.flush()
        step(len(session.waiting))
        if session.results:
            ask()
        elif end != "interrupted":
            told = " ".join([end.removesuffix(".") + ".", *player.warnings])
            raise MediaError(f"Expected at least one frame or 10 ms of sound in {source}, found none: {told}")
        saved = None if save is None else str(session.save(save))
        answers = list(state.answers.values())
        summary = WatchSummary(
            source=source, seconds=session.seconds, num_chunks=session.chunks.num_closed, dropped=session.dropped,
            end=end, answers=answers, saved_to=saved, warnings=player.warnings,
        )  # fmt: skip
        write("end", summary.as_dict())
    return summary


def _later(media: dict[str, Any], offset: float) -> dict[str, Any]:
    if "frames" in media:
        return media | {"frame_times": [time + offset for time in media["frame_times"]]}
    return media if media["start_time"] is None else media | {"start_time": media["start_time"] + offset}


@contextmanager
def _on_signal(call: Callable[..., None]) -> Iterator[None]:
    """Call a function on Ctrl-C or SIGTERM instead of exiting, so that the work after the loop is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, call) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _lines(path: str | Path | None) -> Iterator[Callable[[str, dict[str, Any]], None]]:
    """Yield a function that appends and flushes one line of JSON; without a path it does nothing."""
    if path is None:
        yield lambda kind, values: None
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:

        def write(kind: str, values: dict[str, Any]) -> None:
            file.write(json.dumps({"type": kind, **values}) + "\n")
            file.flush()

        yield write
