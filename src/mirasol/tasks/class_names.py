"""Rows of classification tasks: one question per clip, with the classes as options."""

from collections.abc import Sequence
from pathlib import Path

from mirasol.tasks.annotations import refuse
from mirasol.tasks.base import Question, Row, repeated


def class_row(clip: str, media: Path, text: str, answer: str, options: tuple[str, ...], **details) -> Row:
    """Return a clip with its one question."""
    return Row(clip, media, (Question(clip, text, answer, "class", options=options),), **details)


def check_clips(path: Path, clips: Sequence[tuple[str, str, str]]) -> None:
    """Raise ValueError for clips (place, id, class) without id or class, and for repeated ids."""
    first: dict[str, str] = {}
    malformed = []
    for place, clip, name in clips:
        if empty := [part for part, text in (("clip", clip), ("class", name)) if not text.strip()]:
            malformed.append(f"{place}: expected a clip and its class, found an empty {' and '.join(empty)}.")
        elif fault := repeated(clip, place, first):
            malformed.append(f"{place}: {fault}")
    refuse(path, malformed)
    if not clips:
        raise ValueError(f"Expected at least one clip in {path}, found none. Take the published file.")
