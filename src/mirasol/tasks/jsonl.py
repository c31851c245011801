"""Your own clips: a JSONL manifest, one clip (or one question about a clip) a line.

    {"media": "clips/a.mp4", "question": "what happens?", "answer": "a dog barks"}
    {"media": "clips/b.mp4", "questions": ["who?", "where?"], "answers": ["ann", "out"], "id": "b", "seconds": [1, 2]}

`media` is relative to the manifest. Optional are `id`, `seconds` (where the answer is heard or seen), `segment` (the
[start, end] in seconds of the file that the line is about), `crop` (the square of the picture that it is about:
[side, x, y], the side as a part of the frame's shorter side, the centre as parts of the frame; a square that the
checkpoint was not trained on helps little) and `options` (the answers to choose between, `--rank`).
Metric: exact match of the normalised answer.
"""

import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from mirasol.tasks.annotations import SHOWN, refuse
from mirasol.tasks.base import Question, Row, Task, nearest
from mirasol.tasks.metrics.exact import mean

KEYS = ("media", "question", "answer", "questions", "answers", "id", "seconds", "segment", "crop", "options")


class Jsonl(Task):
    """Own clips and questions, listed in a manifest."""

    name = "jsonl"

    def load(self, root: str | Path, split: str = "train") -> list[Row]:
        """Return the rows of a manifest: `root` itself if it is a file, else `root`/`split`.jsonl.

        Malformed lines are an error that names each line. Missing media are reported here; their rows are returned, so
        that what works on them can count them.
        """
        path = Path(root)
        path = path / f"{split}.jsonl" if path.is_dir() else path
        if not path.is_file():
            raise ValueError(
                f"Expected a JSONL manifest at {path}, found no such file. Write one line per clip, such as "
                '{"media": "clip.mp4", "question": "what happens?", "answer": "a dog barks"}.'
            )
        rows: dict[str, Row] = {}
        malformed = []
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"Expected UTF-8 text in {path}, found other bytes ({error}). Save it as UTF-8."
            ) from error
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = _row(line, path.parent, f"{path.stem}:{number}")
            except ValueError as error:
                malformed.append(f"{path}:{number}: {error}")
                continue
            if row.id in rows:
                malformed.append(f"{path}:{number}: expected an id of its own, found {row.id!r} a second time.")
            else:
                rows[row.id] = row
        refuse(path, malformed)
        missing = [str(row.media) for row in rows.values() if not row.media.is_file()]
        listed = ", ".join(missing[:SHOWN])
        if len(missing) == len(rows):
            raise ValueError(
                f"Expected at least one clip in {path}, found none{f' of {listed}' if missing else ''}. Media paths "
                "are relative to the manifest."
            )
        if missing:
            warnings.warn(f"{len(missing)} of {len(rows)} clips of {path} are missing: {listed}", stacklevel=2)
        return list(rows.values())

    def score(self, questions: Sequence[Question], predictions: Sequence[str], train_rows: Iterable[Row] = ()) -> dict:
        """Return `exact_match` over all questions."""
        right = [self.normalise(p) == self.normalise(q.answer) for q, p in zip(questions, predictions, strict=True)]
        return {"num_questions": len(right), "exact_match": mean(right)}


def _row(line: str, folder: Path, default_id: str) -> Row:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"expected a JSON object, found text that is not JSON ({error}).") from error
    if not isinstance(entry, dict):
        raise ValueError(f"expected a JSON object, found {type(entry).__name__}.")
    for key in entry:
        if key not in KEYS:
            raise ValueError(f"expected keys out of {KEYS}, found {key!r}. Did you mean {nearest(key, KEYS)!r}?")
    for one, many in (("question", "questions"), ("answer", "answers")):
        if (one in entry) == (many in entry):
            raise ValueError(f"expected either {one!r} or {many!r}, found {'both' if one in entry else 'neither'}.")
    questions = entry.get("questions", [entry.get("question")])
    answers = entry.get("answers", [entry.get("answer")])
    for name, value in (("media", [entry.get("media")]), ("questions", questions), ("answers", answers)):
        if not isinstance(value, list) or not value or not all(isinstance(text, str) and text for text in value):
            raise ValueError(f"expected text for {name!r}, found {value!r}.")
    if len(questions) != len(answers):
        raise ValueError(f"expected one answer per question, found {len(questions)} and {len(answers)}.")
    options = entry.get("options", [])
    if not isinstance(options, list) or not all(isinstance(option, str) and option for option in options):
        raise ValueError(f"expected 'options' as a list of texts, found {options!r}.")
    if options and not {*answers} <= {*options}:
        raise ValueError(f"expected every answer among 'options', found {answers!r} and {options!r}.")
    seconds, segment, crop = _span(entry, "seconds"), _span(entry, "segment"), _crop(entry)
    row_id = str(entry.get("id", default_id))
    questions = tuple(
        Question(f"{row_id}/{number}", question, answer, "open", seconds, tuple(options))
        for number, (question, answer) in enumerate(zip(questions, answers, strict=True))
    )
    return Row(row_id, folder / entry["media"], questions, segment=segment, crop=crop)


def _span(entry: dict, key: str) -> tuple[float, float] | None:
    span = entry.get(key)
    if span is None:
        return None
    numbers = isinstance(span, list) and all(isinstance(value, int | float) for value in span)
    if not numbers or len(span) != 2 or span[0] > span[1] or (key == "segment" and not 0 <= span[0] < span[1]):
        raise ValueError(f"expected {key!r} as [start, end], found {span!r}.")
    return float(span[0]), float(span[1])


def _crop(entry: dict) -> tuple[float, float, float] | None:
    crop = entry.get("crop")
    if crop is None:
        return None
    numbers = isinstance(crop, list) and len(crop) == 3 and all(isinstance(value, int | float) for value in crop)
    if not numbers or not 0 < crop[0] <= 1 or not all(0 <= value <= 1 for value in crop):
        raise ValueError(f"expected 'crop' as [side, x, y], parts of the frame from 0 to 1, found {crop!r}.")
    return float(crop[0]), float(crop[1]), float(crop[2])
