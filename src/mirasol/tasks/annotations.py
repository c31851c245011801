"""Readers of published annotation files, which keep the place ("file:line") of every row for error messages.

Files may be gzipped and have a byte order mark or Windows line ends. Faults of rows are collected, so that one message
names them all.
"""

import csv
import gzip
import io
import json
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mirasol.tasks.base import Absent, Question, Row, Task, TaskInfo, nearest, repeated
from mirasol.tasks.media_files import MediaFiles

SHOWN = 10  # malformed rows named in a message


def check_split(split: str, splits: Iterable[str], why: str = "") -> None:
    """Raise `Absent` for a split that does not exist; `why` replaces the nearest name in the message."""
    splits = list(splits)
    if split not in splits:
        raise Absent(
            f"Expected split {' or '.join(splits)}, found {split!r}. "
            f"{why or f'Did you mean {nearest(split, splits)!r}?'}"
        )


def find_annotations(root: str | Path, names: Sequence[str], info: TaskInfo) -> Path:
    """Return the first of these files in `root` or `root`/annotations, also with .gz; raise `Absent` without one."""
    path, root = find_optional(root, *names), Path(root)
    if path is not None:
        return path
    raise Absent(
        f"Expected {' or '.join(names)} (or the same with .gz) in {root}, found "
        f"{'no such file' if root.is_dir() else 'no such folder'}. Get the annotations from {info.source}, and put "
        f"them there: {info.layout}."
    )


def find_optional(root: str | Path, *names: str) -> Path | None:
    """Return the first of these files in `root` or `root`/annotations, also with .gz, or None."""
    for folder in (Path(root), Path(root) / "annotations"):
        for name in names:
            for path in (folder / name, folder / f"{name}.gz"):
                if path.is_file():
                    return path
    return None


def read_text(path: Path) -> str:
    """Return the text of a plain or gzipped file with unchanged line ends."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"Expected UTF-8 text in {path}, found other bytes ({error}). Save it as UTF-8, or download it again."
        ) from error


def read_table(path: Path, columns: Sequence[str], has_header: bool = True) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the place ("file:line") and the fields of every row of a table with these columns."""
    malformed = []
    rows = read_rows(path, header=None if has_header else columns)
    _, header = next(rows)
    if absent := [column for column in columns if column not in header]:
        raise ValueError(
            f"Expected columns {', '.join(columns)} in {path}, found none called {', '.join(absent)} but "
            f"{', '.join(header) or 'an empty file'}. Take the published file."
        )
    for number, fields in rows:
        if isinstance(fields, ValueError):
            malformed.append(f"{path}:{number}: {fields}")
        else:
            yield f"{path}:{number}", fields
    refuse(path, malformed)


def read_rows(path: Path, header: Sequence[str] | None = None, delimiter: str = ",") -> Iterator[tuple[int, Any]]:
    """Yield the header of a table (by default its first row), then the fields of each row, with line numbers.

    A row with another number of fields is yielded as a ValueError; a broken table raises one.
    """
    lines = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
    try:
        header = next(lines, []) if header is None else header
        yield 0, dict.fromkeys(header)
        for fields in filter(None, lines):
            if len(fields) == len(header):
                yield lines.line_num, dict(zip(header, fields, strict=True))
            else:
                yield lines.line_num, ValueError(f"expected {len(header)} fields, found {len(fields)}.")
    except csv.Error as error:  # such as a quote that is never closed
        raise ValueError(f"{path}:{lines.line_num}: expected a row of a table, found {error}. Correct it.") from error


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file."""
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"Expected JSON in {path}, found text that is not ({error}). Download it again.") from error


def read_entries(path: Path, keys: Mapping[str, Any]) -> Iterator[tuple[str, dict]]:
    """Yield the place ("file: entry n") and each object of a JSON list; every object needs `keys` of these types."""
    malformed = []
    entries = read_json(path)
    if not isinstance(entries, list):
        raise ValueError(f"Expected a JSON list in {path}, found {type(entries).__name__}. Take the published file.")
    for number, entry in enumerate(entries, start=1):
        place = f"{path}: entry {number}"
        held = entry if isinstance(entry, dict) else {}
        absent = [key for key, kind in keys.items() if not isinstance(held.get(key), kind)]
        if absent:
            malformed.append(f"{place}: expected {', '.join(keys)}, found no valid {', '.join(absent)}.")
        else:
            yield place, entry
    refuse(path, malformed)


def refuse(path: Path, malformed: Sequence[str]) -> None:
    """Raise ValueError with these faults of rows, if there are any."""
    if malformed:
        listed = "\n  ".join([*malformed[:SHOWN], *(["..."] if len(malformed) > SHOWN else [])])
        raise ValueError(
            f"Expected well-formed rows in {path}, found {len(malformed)} malformed:\n  {listed}\n"
            "Correct or remove these rows."
        )


class QuestionTask(Task):
    """A benchmark of questions about videos; `file` is the name of a split's question file."""

    info: TaskInfo
    file: str

    def read(self, path: Path, root: str | Path, split: str) -> Iterator[tuple[str, str, Question | str]]:
        """Yield (place, video, question or its fault) for each entry of the split's question file."""
        raise NotImplementedError

    def find_media(self, root: str | Path, videos: Iterable[str]) -> dict[str, Path]:
        """Return the actual or expected path of each video."""
        files = MediaFiles(root)
        return {video: files.find(video) for video in videos}

    def load(self, root: str | Path, split: str = "test") -> list[Row]:
        """Return the videos of a split with their questions; `media` is the actual or expected path."""
        check_split(split, self.info.sizes)
        path = find_annotations(root, [self.file.format(split)], self.info)
        malformed: list[str] = []
        first: dict[str, str] = {}
        questions: dict[str, list[Question]] = {}
        for place, video, entry in self.read(path, root, split):
            if isinstance(entry, str):
                malformed.append(f"{place}: {entry}")
            elif empty := [
                part for part in ("id", "text", "answer") if not getattr(entry, part).replace("?", "").strip()
            ]:
                malformed.append(f"{place}: expected text, found an empty {' and '.join(empty)}.")
            elif fault := repeated(entry.id, place, first):
                malformed.append(f"{place}: {fault}")
            else:
                questions.setdefault(video, []).append(entry)
        refuse(path, malformed)
        warn_if_other_size(self.info, split, len(first), path)
        media = self.find_media(root, questions)
        return [Row(video, media[video], tuple(own)) for video, own in questions.items()]


def warn_if_other_size(info: TaskInfo, split: str, found: int, path: Path) -> None:
    """Warn if a file does not hold the published number of questions or clips."""
    expected = info.sizes.get(split, found)
    if found != expected:
        warnings.warn(
            f"{path} holds {found:,} {info.unit}, the published {split} split holds {expected:,}: scores on it are "
            "not comparable with published ones.",
            stacklevel=3,
        )


def with_mark(question: str) -> str:
    """Return the question with one question mark at its end."""
    return f"{question.strip().rstrip('?').rstrip()}?"
