"""Clips to ask about, from files, folders, globs, manifests without answers, or a list on stdin."""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mirasol.media import Crop
from mirasol.tasks.annotations import refuse
from mirasol.tasks.formats import read_jsonl
from mirasol.tasks.jsonl import is_text, is_texts, read_crop, read_span
from mirasol.tasks.media_files import SUFFIXES

KEYS = ("media", "question", "questions", "options", "segment", "crop", "id")
ANSWERS = ("answer", "answers", "kind", "metric", "tolerance", "seconds", "references")  # accepted and not used


@dataclass(frozen=True)
class Asked:
    """A clip, or a segment or crop of one, with its questions and their options."""

    clip: str
    questions: tuple[str, ...]
    start: float = 0.0
    end: float | None = None
    options: tuple[str, ...] = ()
    crop: Crop | None = None


def read_clips(sources: Sequence[str], questions: Sequence[str], options: Sequence[str] = ()) -> list[Asked]:
    """Return each clip once, in the order of the sources; files of a folder are sorted by name.

    Args:
        sources: Files; folders, searched at any depth; globs; manifests (.jsonl), whose lines need no answers and,
            with `questions`, no questions; or "-" for paths on standard input, one per line.
        questions: Questions about clips that have none in a manifest.
        options: Options for manifest lines without any.
    """
    found = [clip for source in sources for clip in _of_source(source, tuple(questions), tuple(options))]
    if not found:
        raise ValueError(
            f"Expected at least one clip, found none in {', '.join(sources)}. Known suffixes: {' '.join(SUFFIXES)}"
        )
    merged: dict[Asked, dict[str, None]] = {}  # one entry per clip with all its questions
    places: dict[tuple, Asked] = {}
    for asked in found:
        clip = replace(asked, questions=())
        merged.setdefault(clip, {}).update(dict.fromkeys(asked.questions))
        for question in asked.questions:
            if places.setdefault((asked.clip, asked.start, asked.end, question), clip) != clip:
                raise ValueError(
                    f"Expected one list of options and one crop per question and clip, found two for {question!r} "
                    f"about {asked.clip}: remove one."
                )
    return [replace(clip, questions=tuple(asked)) for clip, asked in merged.items()]


def _of_source(source: str, questions: tuple[str, ...], options: tuple[str, ...]) -> Iterator[Asked]:
    if source == "-":
        paths = [line.rstrip("\n") for line in sys.stdin if line.strip()]
    elif source.endswith(".jsonl"):
        yield from _of_manifest(Path(source), questions, options)
        return
    elif Path(source).is_dir():
        paths = _below(Path(source))
        if not paths:
            raise ValueError(f"Expected media files below {source}, found none. Known suffixes: {' '.join(SUFFIXES)}")
    elif Path(source).exists() or not glob.has_magic(source):
        paths = [source]  # a missing file becomes a row with its error
    elif not (paths := sorted(glob.glob(source, recursive=True))):
        raise ValueError(f"Expected files that match {source!r}, found none: correct the pattern.")
    if not questions:
        raise ValueError("Expected a question, found none: give one with --ask, or in the lines of a manifest.")
    yield from (Asked(path, questions, options=options) for path in paths)


def _below(folder: Path) -> list[str]:
    return sorted(
        os.path.join(place, name)
        for place, _, names in os.walk(folder, followlinks=False)
        for name in names
        if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")
    )


def _of_manifest(path: Path, questions: tuple[str, ...], options: tuple[str, ...]) -> Iterator[Asked]:
    if not path.is_file():
        raise ValueError(f"Expected a manifest at {path}, found no such file: correct the path.")
    lines, malformed = [], []
    for number, entry in read_jsonl(path):
        try:
            lines.append(_of_entry(entry, path, questions, options))
        except ValueError as error:
            malformed.append(f"{path}:{number}: {error}")
    refuse(path, malformed)
    yield from lines


def _of_entry(entry: Any, path: Path, questions: tuple[str, ...], options: tuple[str, ...]) -> Asked:
    if isinstance(entry, ValueError):
        raise entry
    if not isinstance(entry, dict):
        raise ValueError(f"expected a JSON object, found {type(entry).__name__}.")
    if unknown := [key for key in entry if key not in (*KEYS, *ANSWERS)]:
        raise ValueError(f"expected keys out of {', '.join(KEYS)}, found {unknown[0]!r}.")
    if not is_text(entry.get("media")):
        raise ValueError(f"expected the path of a clip as 'media', found {entry.get('media')!r}.")
    own = entry.get("questions", [entry["question"]] if "question" in entry else list(questions))
    if not is_texts(own):
        raise ValueError(f"expected a question as text, found {own!r}: write 'question', or give one with --ask.")
    if "options" in entry and not is_texts(entry["options"]):
        raise ValueError(f"expected 'options' as a list of texts, found {entry['options']!r}.")
    start, end = read_span(entry, "segment") or (0.0, None)
    chosen = tuple(entry.get("options", options))
    return Asked(str(path.parent / entry["media"]), tuple(own), start, end, chosen, read_crop(entry))
