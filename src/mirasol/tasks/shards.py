"""Own clips in tar shards, as `mirasol data shard` writes them: `root`/SPLIT, or `root` itself, also over HTTP."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from mirasol.tasks.annotations import refuse
from mirasol.tasks.base import Absent, Question, Row, repeated
from mirasol.tasks.jsonl import Jsonl, Line, join_lines, read_entry
from mirasol.tasks.tars import LIST, has_shards, is_address, read_all, read_shards


class Shards(Jsonl):
    """Own clips in tar shards, with the questions, answers and scores of a manifest."""

    name = "shards"

    def load(self, root: str | Path, split: str = "test") -> list[Row]:
        """Return the clips of a split, shard by shard.

        Raises:
            ValueError: The shards are incomplete, cut off, without a clip, or differ from their index.
        """
        folder = find_shards(root, split)
        lines: list[tuple[str, Line]] = []
        malformed = []
        places: dict[str, str] = {}
        for shard in read_shards(folder):
            for clip in shard.clips:
                place = f"{shard.archive}/{clip['key']}"
                for number, entry in enumerate(clip["lines"]):
                    default = f"{clip['key']}:{number}"
                    if default in places:  # other programs number the clips of each tar from 0
                        default = f"{place}:{number}"
                    try:
                        line = read_entry({"media": clip["name"], **entry}, default)
                        if fault := repeated(line.id, place, places):
                            raise ValueError(fault)
                        lines.append((place, replace(line, media=shard.member(clip))))
                    except ValueError as error:
                        malformed.append(f"{place}: {error}")
        refuse(Path(folder), malformed)
        if not lines:
            raise Absent(
                f"Expected at least one clip in the shards of {folder}, found none. Add clips to the manifest."
            )
        return join_lines(lines)

    def annotations(self, root: str | Path, split: str) -> list[Row]:
        """Return the clips of a split, as `load` does, which reads no media."""
        return self.load(root, split)


def find_shards(root: str | Path, split: str) -> str:
    """Return the folder or URL of a split's shards: `root`/`split` if it has shards, else `root`."""
    inner = f"{str(root).rstrip('/')}/{split}"
    if is_address(root):
        try:
            read_all(f"{inner}/{LIST}")
            return inner
        except FileNotFoundError:
            return str(root)
    for folder in (inner, str(root)):
        if has_shards(folder):
            return folder
    raise Absent(
        f"Expected tar shards in {inner} or {root}, found none. Write them: mirasol data shard MANIFEST -o {inner}"
    )


def lines_of(row: Row) -> list[dict[str, Any]]:
    """Return the manifest lines of a row, without `media`: one for each run of questions with equal keys."""
    lines: list[dict[str, Any]] = []
    last: tuple | None = None
    taken: set[str] = set()
    for question in row.questions:
        shared = _shared_keys(row, question)
        name, _, _ = question.id.rpartition("/")
        answers: Any = [question.answer, *question.references] if question.references else question.answer
        if last == (name, shared):
            lines[-1]["questions"].append(question.text)
            lines[-1]["answers"].append(answers)
            continue
        last = (name, shared)
        line_id = name if name and name not in taken else question.id
        taken.add(line_id)
        lines.append({"id": line_id, "questions": [question.text], "answers": [answers], **shared})
    return lines


def _shared_keys(row: Row, question: Question) -> dict[str, Any]:
    """Return the keys that all questions of a line share, without those at their default."""
    keys: dict[str, Any] = {
        "kind": None if question.kind == "open" else question.kind,
        "metric": question.metric or None,
        "tolerance": question.tolerance or None,
        "options": list(question.options) or None,
        "seconds": question.seconds and list(question.seconds),
        "segment": row.segment and list(row.segment),
        "crop": row.crop and list(row.crop),
    }
    return {name: value for name, value in keys.items() if value is not None}
