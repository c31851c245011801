"""`mirasol data verify`: count the clips of a benchmark that are present, decodable and have sound.

The sound of every clip is decoded whole, its picture at the beginning, middle and end.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field
from tqdm import tqdm

from mirasol.chunks.time_grid import MIN_SOUND_SECONDS
from mirasol.files import write_whole
from mirasol.media import MediaError, MediaInfo, MediaWarning, is_silent, read_clip
from mirasol.results import Document, Result
from mirasol.tasks import Row, get_task, segment_of, single_rows

SHOWN = 3  # clips named in the table


class ClipState(Result):
    """Result for one clip. `status` is present, missing or undecodable; other fields are set for present clips."""

    id: str
    media: str
    status: str
    questions: int
    segment: tuple[float, float] | None = None
    seconds: float | None = None
    has_picture: bool | None = None
    sound: str | None = None  # heard, silent or none
    notes: tuple[str, ...] = ()


# Lines of the table; those after `undecodable` are kinds of present clips.
STATES: dict[str, Callable[[ClipState], bool]] = {
    "present": lambda clip: clip.status == "present",
    "missing": lambda clip: clip.status == "missing",
    "undecodable": lambda clip: clip.status == "undecodable",
    "silent": lambda clip: clip.sound == "silent",
    "without sound": lambda clip: clip.sound == "none",
    "without picture": lambda clip: clip.has_picture is False,
    "damaged": lambda clip: clip.status == "present" and bool(clip.notes),
}


class Verified(Document):
    """Result of `verify`: the state of every clip of a split, and the number of clips in each of STATES."""

    task: str
    split: str
    root: str
    counts: dict[str, int]
    clips: list[ClipState]
    output: str | None = Field(default=None, exclude=True)

    def __str__(self) -> str:
        counts = self.counts
        lines = [
            f"{self.task} {self.split}: {counts['clips']:,} clips, {counts['questions']:,} questions in {self.root}, "
            f"{counts['questions of present']:,} of them about clips that are present",
            f"  {'state':<17}{'clips':>8}{'share':>9}  such as",
        ]
        for name, is_so in STATES.items():
            such = [] if name == "present" else list(filter(is_so, self.clips))[:SHOWN]
            examples = ", ".join(dict.fromkeys(clip.media if name == "missing" else clip.id for clip in such))
            lines.append(f"  {name:<17}{counts[name]:>8,}{counts[name] / counts['clips']:>9.1%}  {examples}".rstrip())
        lines += [f"  {clip.id}: {clip.notes[0]}" for clip in filter(STATES["undecodable"], self.clips)][:SHOWN]
        return "\n".join(lines + ([f"written to {self.output}"] if self.output else []))


def verify(
    task: str,
    root: str | Path,
    split: str | None = None,
    classes: str | Path | None = None,
    output: str | Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Verified:
    """Check every clip of a split, and write the result as JSON to `output`, atomically.

    `split` is by default the one whose scores are reported; `classes` is the class list of tasks that need one.
    """
    source = get_task(task, classes)
    split = split or source.reported_split
    rows = single_rows(source.load(root, split))
    checked = in_threads(check_clip, rows, workers)
    clips = list(tqdm(checked, "verifying", len(rows), unit="clip", disable=not progress))
    counts = {"clips": len(clips)} | {name: sum(map(is_so, clips)) for name, is_so in STATES.items()}
    counts["questions"] = sum(clip.questions for clip in clips)
    counts["questions of present"] = sum(clip.questions for clip in clips if clip.status == "present")
    found = Verified(
        task=task, split=split, root=str(root), counts=counts, clips=clips,
        output=None if output is None else str(output),
    )  # fmt: skip
    if output is not None:
        write_whole(Path(output), found.as_json(indent=1) + "\n")
    return found


def in_threads(check: Callable, rows: Sequence[Row], workers: int | None = None) -> Iterator:
    """Yield the result of `check` for each row, from threads, because decoding releases Python's lock."""
    with warnings.catch_warnings(), ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        warnings.simplefilter("ignore", MediaWarning)  # kept as notes
        yield from pool.map(check, rows)


def check_clip(row: Row) -> ClipState:
    """Return the state of one clip; no error in reading it is raised."""
    state = partial(
        ClipState, id=row.id, media=str(row.media), questions=len(row.questions), segment=row.segment
    )  # fmt: skip
    if not row.media.is_file():
        return state(status="missing")
    try:
        clip = read_clip(row.media, select=_three_moments, **segment_of(row))
    except Exception as error:  # one clip must not end the check of thousands
        reason = str(error) if isinstance(error, MediaError) else f"{type(error).__name__}: {error}"
        return state(status="undecodable", notes=(reason,))
    sound, heard = "none", 0.0
    if clip.waveform is not None:
        sound = "silent" if is_silent(clip.waveform) else "heard"
        heard = len(clip.waveform) / clip.sampling_rate
    has_picture = clip.frames is not None and len(clip.frames) > 0
    if not has_picture and heard < MIN_SOUND_SECONDS:
        few = f"Expected a frame or {MIN_SOUND_SECONDS:g} s of sound, found {heard:g} s of sound."
        return state(status="undecodable", notes=(few,))
    seconds, notes = round(clip.duration, 3), tuple(clip.warnings)
    return state(status="present", seconds=seconds, has_picture=has_picture, sound=sound, notes=notes)


def _three_moments(info: MediaInfo) -> np.ndarray:
    return np.array([0.0, 0.5, 1.0]) * info.duration_seconds
