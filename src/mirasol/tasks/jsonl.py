"""Your own clips: a JSONL manifest, one clip (or one question about a clip) a line.

    {"media": "clips/a.mp4", "question": "what happens?", "answer": "a dog barks"}
    {"media": "clips/b.mp4", "questions": ["who?", "where?"], "answers": ["ann", "out"], "id": "b", "seconds": [1, 2]}

`media` is relative to the manifest. `id` and `seconds` (where the answer is heard or seen) are optional. Metric: exact
match of the normalised answer.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mirasol.tasks.base import Question, Row, nearest, normalise

KEYS = ("media", "question", "answer", "questions", "answers", "id", "seconds")
METRIC = "exact_match"  # of `score`, the one that tells how good a model is
SHOWN = 10  # malformed lines or missing files named one by one


def load(root: str | Path, split: str = "train") -> list[Row]:
    """Return the rows of a manifest: `root` itself if it is a file, else `root`/`split`.jsonl.

    Malformed lines are an error that names each line; missing media are left out, counted and reported.
    """
    path = Path(root)
    path = path / f"{split}.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"Expected a JSONL manifest at {path}, found no such file. Write one line per clip, such as "
            '{"media": "clip.mp4", "question": "what happens?", "answer": "a dog barks"}.'
        )
    rows: dict[str, Row] = {}
    malformed, missing = [], []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected UTF-8 text in {path}, found other bytes ({error}). Save it as UTF-8.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _row(line, path.parent, f"{path.stem}:{number}")
        except ValueError as error:
            malformed.append(f"{path}:{number}: {error}")
            continue
        if not row.media.is_file():
            missing.append(str(row.media))
        elif row.id in rows:
            malformed.append(f"{path}:{number}: expected an id of its own, found {row.id!r} a second time.")
        else:
            rows[row.id] = row
    if malformed:
        listed = "\n  ".join(malformed[:SHOWN])
        raise ValueError(
            f"Expected well-formed lines in {path}, found {len(malformed)} malformed:\n  {listed}\n"
            "Correct or remove these lines."
        )
    if missing:
        listed = ", ".join(missing[:SHOWN])
        warnings.warn(
            f"{len(missing)} of {len(missing) + len(rows)} clips of {path} are missing: {listed}", stacklevel=2
        )
    if not rows:
        raise ValueError(
            f"Expected at least one clip in {path}, found none. Media paths are relative to the manifest."
        )
    return list(rows.values())


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
    seconds = entry.get("seconds")
    if seconds is not None:
        numbers = isinstance(seconds, list) and all(isinstance(value, int | float) for value in seconds)
        if not numbers or len(seconds) != 2 or seconds[0] > seconds[1]:
            raise ValueError(f"expected 'seconds' as [start, end], found {seconds!r}.")
        seconds = (float(seconds[0]), float(seconds[1]))
    row_id = str(entry.get("id", default_id))
    return Row(
        row_id,
        folder / entry["media"],
        tuple(
            Question(f"{row_id}/{number}", question, answer, "open", seconds)
            for number, (question, answer) in enumerate(zip(questions, answers, strict=True))
        ),
    )


def fixed_questions(row: Row, seed: int = 0) -> list[Question]:
    """Return the row's questions as written."""
    return list(row.questions)


def random_questions(row: Row, rng: np.random.Generator, word_times=(), duration: float = 0.0) -> list[Question]:
    """Return the row's questions in random order."""
    return [row.questions[i] for i in rng.permutation(len(row.questions))]


def score(questions: Sequence[Question], predictions: Sequence[str], train_rows=()) -> dict:
    """Return `exact_match` over all questions."""
    right = [normalise(p) == normalise(q.answer) for q, p in zip(questions, predictions, strict=True)]
    return {"num_questions": len(right), "exact_match": float(np.mean(right)) if right else float("nan")}
