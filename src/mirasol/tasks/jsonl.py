"""Own clips: a JSONL manifest with one clip, or one question about a clip, per line.

`mirasol.tasks.formats` reads the same keys from CSV, JSON lists, LLaVA's conversations and folders of classes.

    {"media": "clips/a.mp4", "question": "what happens?", "answer": "a dog barks"}
    {"media": "clips/b.mp4", "questions": ["who?", "where?"], "answers": ["ann", "out"], "id": "b", "seconds": [1, 2]}
    {"media": "clips/b.mp4", "question": "who speaks?", "answers": ["ann", "anna"], "kind": "person"}
    {"media": "clips/b.mp4", "question": "how long?", "answer": "1.5", "metric": "number", "tolerance": 0.1}

`media` is relative to the manifest. Lines about the same file, `segment` and `crop` are one clip, which is decoded
once. A question may have several accepted answers; training uses the first. Optional keys:

- `id`: name of the line, by default the manifest's name and the line number.
- `kind`: kind of question, with its own score and baseline ("open" by default).
- `metric`: how answers are judged; the default is the recipe's `data.sources.N.metric` or `evaluate --metric`.
  `exact` (default): equal after normalisation. `number`: its first number lies within `tolerance` (0 by default).
  `yes_no`: its first word is the right one of yes and no. `labels`: the same labels in any order, written as "answer":
  ["dog", "rain"] or "dog, rain"; its credit is F1. `caption`: free text, judged by ROUGE-L and CIDEr.
- `options`: answers to choose between (`--rank`).
- `seconds`: [start, end] in which the answer is heard or seen.
- `segment`: [start, end] of the file that the line is about, in seconds.
- `crop`: square crop that the line is about, [side, x, y]: the side as a fraction of the frame's shorter side, the
  centre as fractions of the frame. A crop that the checkpoint was not trained with helps little.
"""

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mirasol.tasks.annotations import SHOWN, refuse
from mirasol.tasks.base import Absent, Question, Row, Task, nearest, repeated
from mirasol.tasks.formats import SUFFIXES, is_classes, is_dataset, read_entries
from mirasol.tasks.metrics import judged
from mirasol.tasks.metrics.exact import accuracy, mean

OF_PREDICT = ".run.json"  # suffix of the file that `mirasol predict` writes beside its answers
KEYS = ("media", "question", "answer", "questions", "answers", "id", "kind", "metric", "tolerance", "options",
        "seconds", "segment", "crop")  # fmt: skip
# Names of scores over all kinds.
RESERVED = ("num_questions", "score", "exact_match", "all", "numbers", "label_sets", "captions")
# Keys of other programs, by our key of the same meaning.
SYNONYMS = {
    "media": "video videos audio sound image file files filename file_name path clip video_path audio_path media_path "
    "video_file audio_file url",
    "question": "prompt query instruction input problem",
    "answer": "caption captions label labels class text sentence transcript transcription target output response "
    "completion description",
    "segment": "start end begin stop start_time end_time timestamp timestamps time_range from to",
    "seconds": "time times when span evidence",
    "options": "choices candidates classes alternatives",
    "kind": "type category question_type task",
    "id": "name uid key video_id clip_id question_id qid",
    "crop": "box bbox roi region",
}
MEANING = {theirs: ours for ours, names in SYNONYMS.items() for theirs in names.split()}
ADVICE = {
    "segment": 'Write "segment": [start, end] in seconds of the file.',
    "answer": 'Write "answer" beside a "question", such as "what happens?".',
}


class Jsonl(Task):
    """Own clips and questions from a manifest."""

    name = "jsonl"
    headline = "score"

    def load(self, root: str | Path, split: str = "test") -> list[Row]:
        """Return the clips of a manifest: `root` if it is a file, else `root`/`split`.jsonl.

        `mirasol.tasks.formats` and `mirasol.tasks.hub` list other kinds of manifest. Rows with missing media cause a
        warning and are returned, so that callers can count them.

        Raises:
            ValueError: If there is no manifest or no clip, or lines are malformed; they are named by file and line.
        """
        if is_dataset(root):
            from mirasol.tasks.hub import read_dataset

            return read_dataset(root, split)
        path, lines = read_lines(root, split)
        warn_of_missing(path, lines)
        return rows_of(path, lines)

    def annotations(self, root: str | Path, split: str) -> list[Row]:
        """Return the clips of a manifest for their answers only, without a warning about missing media."""
        return self.load(root, split) if is_dataset(root) else rows_of(*read_lines(root, split))

    def is_right(self, question: Question, answer: str) -> bool:
        """Return whether the answer is right by the question's metric."""
        return judged.is_right(question, answer)

    def credit(self, question: Question, answer: str) -> float:
        """Return the credit of the answer by the question's metric, from 0 to 1."""
        return judged.credit(question, answer)

    def score(self, questions: Sequence[Question], predictions: Sequence[str], train_rows: Iterable[Row] = ()) -> dict:
        """Return `score` (mean credit) in all and by kind, `exact_match`, and details of the metrics."""
        credits = list(map(self.credit, questions, predictions))
        scores = accuracy(credits, [question.kind for question in questions])
        scores |= {"score": scores["exact_match"], "exact_match": mean(self.right(questions, predictions))}
        return scores | judged.details(questions, predictions)

    def with_metric(self, rows: Sequence[Row], metric: str) -> list[Row]:
        """Return the rows with this metric for questions that name none; raise ValueError if it cannot judge them."""
        check_metric(metric, "metric")
        wrong = []

        def chosen(question: Question, place: str) -> Question:
            if question.metric:
                return question
            if fault := judged.fault(metric, (question.answer, *question.references), question.options):
                wrong.append(f"{place}: {fault}")
            return replace(question, metric=metric)

        def placed(row: Row) -> Iterable[tuple[Question, str]]:
            return zip(row.questions, row.places or [question.id for question in row.questions], strict=True)

        changed = [replace(row, questions=tuple(chosen(*pair) for pair in placed(row))) for row in rows]
        if wrong:
            raise ValueError(
                f"Expected answers that metric {metric!r} can judge, found {len(wrong)} that it cannot:\n  "
                + "\n  ".join(wrong[:SHOWN]) + '\nCorrect them, or set another "metric" in these lines.'
            )  # fmt: skip
        return changed


@dataclass(frozen=True)
class Line:
    """One line of a manifest; `media` is the text of the manifest, a path, or a member of a tar."""

    id: str
    media: Any
    questions: tuple[Question, ...]
    segment: tuple[float, float] | None
    crop: tuple[float, float, float] | None


def read_lines(root: str | Path, split: str) -> tuple[Path, list[tuple[int, Line]]]:
    """Return the path of a manifest and its numbered lines; raise ValueError with all malformed lines."""
    path = find_manifest(Path(root), split)
    lines, malformed = [], []
    first: dict[str, str] = {}
    for number, entry in read_entries(path):
        try:
            if isinstance(entry, ValueError):
                raise entry
            line = read_entry(entry, f"{path.stem}:{number}")
            if fault := repeated(line.id, f"line {number}", first):
                raise ValueError(fault)
            lines.append((number, line))
        except ValueError as error:
            malformed.append(f"{path}:{number}: {error}")
    refuse(path, malformed)
    return path, lines


def rows_of(path: Path, lines: list[tuple[int, Line]]) -> list[Row]:
    """Return one row per clip, with the questions of all lines about it."""
    folder = folder_of(path)
    return join_lines([(f"{path}:{number}", replace(line, media=folder / line.media)) for number, line in lines])


def folder_of(manifest: Path) -> Path:
    """Return the folder to which the media paths of a manifest are relative."""
    return manifest if manifest.is_dir() else manifest.parent


def join_lines(lines: Sequence[tuple[str, Line]]) -> list[Row]:
    """Return one row per clip, with the questions of all lines about it and their places."""
    clips: dict[Any, list[tuple[str, Line]]] = {}
    for place, line in lines:
        media = line.media.resolve() if isinstance(line.media, Path) else line.media
        clips.setdefault((media, line.segment, line.crop), []).append((place, line))
    return [
        Row(
            same[0][1].id,
            same[0][1].media,
            tuple(question for _, line in same for question in line.questions),
            segment=segment,
            crop=crop,
            places=tuple(place for place, line in same for _ in line.questions),
        )
        for (_, segment, crop), same in clips.items()
    ]


def find_manifest(root: Path, split: str) -> Path:
    """Return the manifest of a split: `root` if it is a file, else `root`/`split`.SUFFIX, or a folder of classes."""
    places = [root / f"{split}{suffix}" for suffix in SUFFIXES] if root.is_dir() else [root]
    if there := [path for path in places if path.is_file()]:
        if there[1:]:
            left_out = ", ".join(path.name for path in there[1:])
            warnings.warn(
                f"{there[0]} is read, and {left_out} beside it is not: pass the path of the file, or move one away",
                stacklevel=4,
            )
        return there[0]
    names = {file.name for file in root.iterdir() if file.suffix in SUFFIXES} if root.is_dir() else set()
    written = {name for name in names if name.endswith(OF_PREDICT)}  # answers of `mirasol predict` are no manifest
    others = sorted(names - written - {name.removesuffix(OF_PREDICT) for name in written})
    for folder in (root / split, root):
        if not others and is_classes(folder):
            return folder
    told = f"only {', '.join(others)}" if others else "no such file"
    raise Absent(
        f"Expected a manifest at {places[0]} (or {', '.join(SUFFIXES[1:])}), or a folder of classes {root / split}, "
        f"found {told}. Write one line per clip, such as "
        '{"media": "clip.mp4", "question": "what happens?", "answer": "a dog barks"}.'
    )


def warn_of_missing(path: Path, lines: list[tuple[int, Line]]) -> None:
    """Warn of missing files, each with its first line; raise `Absent` if all are missing."""
    first: dict[str, int] = {}
    for number, line in lines:
        first.setdefault(line.media, number)
    folder = folder_of(path)
    missing = [f"{media} (line {number})" for media, number in first.items() if not (folder / media).is_file()]
    listed = ", ".join(missing[:SHOWN])
    if len(missing) == len(first):
        raise Absent(
            f"Expected at least one clip in {path}, found none{f' of {listed}' if missing else ''}. Media paths are "
            "relative to the manifest."
        )
    if missing:
        warnings.warn(f"{len(missing)} of {len(first)} files of {path} are missing: {listed}", stacklevel=3)


def read_entry(entry: Any, default_id: str) -> Line:
    """Parse an entry of a manifest; raise ValueError if it is malformed."""
    if not isinstance(entry, dict):
        raise ValueError(f"expected a JSON object, found {type(entry).__name__}.")
    for key in entry:
        if key not in KEYS:
            meant = MEANING.get(key.lower(), "")
            remedy = ADVICE.get(meant, f"Did you mean {meant or nearest(key, KEYS)!r}?")
            raise ValueError(f"expected keys out of {', '.join(KEYS)}, found {key!r}. {remedy}")
    line_id = entry.get("id", default_id)
    if not is_text(line_id) and type(line_id) is not int:
        raise ValueError(f"expected 'id' as text, found {line_id!r}.")
    if not is_text(entry.get("media")):
        raise ValueError(f"expected text for 'media', found {entry.get('media')!r}.")
    questions = read_questions(entry, str(line_id))
    return Line(str(line_id), entry["media"], questions, read_span(entry, "segment"), read_crop(entry))


def read_questions(entry: dict[str, Any], line_id: str) -> tuple[Question, ...]:
    """Return the questions of a line with their accepted answers."""
    for one, many in (("question", "questions"), ("answer", "answers")):
        if (one in entry) == (many in entry):
            raise ValueError(f"expected either {one!r} or {many!r}, found {'both' if one in entry else 'neither'}.")
    questions = entry.get("questions", [entry.get("question")])
    answers = entry.get("answers", [entry.get("answer")])
    if not is_texts(questions):
        raise wrong_text(entry, "question")
    if entry.get("metric") == "labels" and isinstance(answers, list):
        answers = [joined(answer) for answer in answers]
    if "question" in entry:
        answers = [answers]  # several accepted answers to the one question
    if not isinstance(answers, list) or len(questions) != len(answers):
        found = len(answers) if isinstance(answers, list) else repr(answers)
        raise ValueError(f"expected one answer per question, found {len(questions)} and {found}.")
    accepted = [answer if isinstance(answer, list) else [answer] for answer in answers]
    if not all(map(is_texts, accepted)):
        raise wrong_text(entry, "answer")
    options, kind, seconds = entry.get("options", []), entry.get("kind", "open"), read_span(entry, "seconds")
    if "options" in entry and not is_texts(options):
        raise ValueError(f"expected 'options' as a list of texts, found {options!r}.")
    if options and not {answer for several in accepted for answer in several} <= {*options}:
        raise ValueError(f"expected every answer among 'options', found {answers!r} and {options!r}.")
    if not is_text(kind) or kind in RESERVED:
        raise ValueError(f"expected 'kind' as text other than {', '.join(RESERVED)}, found {kind!r}.")
    metric, tolerance = read_metric(entry, [answer for several in accepted for answer in several])
    return tuple(
        Question(f"{line_id}/{number}", text, first, kind, seconds, tuple(options), tuple(others), metric, tolerance)
        for number, (text, (first, *others)) in enumerate(zip(questions, accepted, strict=True))
    )


def wrong_text(entry: dict[str, Any], key: str) -> ValueError:
    """Return the error for a question or an answer that is no text, with the key in the line."""
    key = key if key in entry else f"{key}s"
    value = entry[key]
    remedy = f' Write "{value}" in quotes.' if is_number(value) else ""
    return ValueError(f"expected text for {key!r}, found {value!r}.{remedy}")


def read_metric(entry: dict[str, Any], answers: list[str]) -> tuple[str, float]:
    """Return the metric of a line's answers, and the tolerance of numbers."""
    metric, tolerance = entry.get("metric", ""), entry.get("tolerance", 0)
    if "metric" in entry:
        check_metric(metric, "'metric'")
    if "tolerance" in entry and (metric != "number" or not is_number(tolerance) or tolerance < 0):
        raise ValueError(f'expected \'tolerance\' from 0 on beside "metric": "number", found {tolerance!r}.')
    if fault := judged.fault(metric, answers, entry.get("options", ())):
        raise ValueError(fault)
    return metric, float(tolerance)


def check_metric(metric: Any, name: str) -> None:
    """Raise ValueError for an unknown metric, with the nearest name."""
    if metric not in judged.METRICS:
        close = nearest(str(metric), judged.METRICS)
        raise ValueError(
            f"expected {name} out of {', '.join(judged.METRICS)}, found {metric!r}. Did you mean {close!r}?"
        )


def joined(answer: Any) -> Any:
    """Return a list of labels as the text to train on; return anything else unchanged."""
    if not is_texts(answer):
        return answer
    if split := [label for label in answer if "," in label]:
        raise ValueError(f"expected labels without commas, which separate them, found {split[0]!r}.")
    return ", ".join(answer)


def read_span(entry: dict[str, Any], key: str) -> tuple[float, float] | None:
    """Return [start, end] in seconds, or None without this key."""
    span = entry.get(key)
    if span is None:
        return None
    if not isinstance(span, list) or len(span) != 2 or not all(map(is_number, span)) or not 0 <= span[0] <= span[1]:
        raise ValueError(f"expected {key!r} as [start, end] in seconds, found {span!r}.")
    if key == "segment" and span[0] == span[1]:
        raise ValueError(f"expected 'segment' as [start, end] with a later end, found {span!r}.")
    return float(span[0]), float(span[1])


def read_crop(entry: dict[str, Any]) -> tuple[float, float, float] | None:
    """Return [side, x, y] as fractions of the frame, or None without this key."""
    crop = entry.get("crop")
    if crop is None:
        return None
    numbers = isinstance(crop, list) and len(crop) == 3 and all(map(is_number, crop))
    if not numbers or not 0 < crop[0] <= 1 or not all(0 <= value <= 1 for value in crop):
        raise ValueError(f"expected 'crop' as [side, x, y], fractions of the frame from 0 to 1, found {crop!r}.")
    return float(crop[0]), float(crop[1]), float(crop[2])


def is_text(value: Any) -> bool:
    """Return whether the value is text that is not blank and can be written (no lone surrogates)."""
    return isinstance(value, str) and bool(value.strip()) and not re.search("[\ud800-\udfff]", value)


def is_texts(value: Any) -> bool:
    """Return whether the value is a list of at least one text."""
    return isinstance(value, list) and bool(value) and all(map(is_text, value))


def is_number(value: Any) -> bool:
    """Return whether the value is a finite number and no boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300
