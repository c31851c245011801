"""`Task`, the base class of every data set and benchmark, with its rows and questions. No tensors here."""

import difflib
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirasol.tasks.metrics.classes import class_accuracy
from mirasol.tasks.metrics.exact import accuracy
from mirasol.tasks.tars import Member


@dataclass(frozen=True)
class Question:
    """One question about a clip, its right answer, and (if known) the seconds in which the answer is heard.

    Attributes:
        options: Answers to choose between, including the right one; empty for open-ended questions.
        references: Further accepted answers beside `answer`.
        metric: Metric of own data, see `mirasol.tasks.metrics.judged`; empty: the task's metric.
        tolerance: Largest accepted error of a number.
    """

    id: str
    text: str
    answer: str
    kind: str
    seconds: tuple[float, float] | None = None
    options: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    metric: str = ""
    tolerance: float = 0.0


@dataclass(frozen=True)
class Row:
    """One clip of a task.

    Attributes:
        media: A file or a member of a tar.
        word_times: (start, end) seconds that augmentation keeps inside the clip; empty: it does not shift the clip.
        segment: (start, end) seconds of the file that the questions are about; None: the whole file.
        crop: Square crop that the questions are about: its side as a fraction of the frame's shorter side, and x and y
            of its centre as fractions of the frame; None: the crop of the processor.
        places: File and line of each question, for error messages.
        parts: Rows whose clips are joined end to end, each cut or padded to `part_seconds`; `media` is then that of
            the first part. Empty: the clip is `media`.
    """

    id: str
    media: Path | Member
    questions: tuple[Question, ...] = ()
    word_times: tuple[tuple[float, float], ...] = ()
    segment: tuple[float, float] | None = None
    crop: tuple[float, float, float] | None = None
    places: tuple[str, ...] = ()
    parts: "tuple[Row, ...]" = ()
    part_seconds: float = 0.0


class Absent(ValueError):
    """The split or its annotations do not exist; malformed annotations raise another ValueError."""


def segment_of(row: Row) -> dict[str, Any]:
    """Return the row's segment as arguments of `read_clip`."""
    return {} if row.segment is None else {"start": row.segment[0], "end": row.segment[1]}


def repeated(name: str, place: str, first: dict[str, str]) -> str:
    """Return the fault of an id that occurred at another place before, else ""; `first` collects their places."""
    known = first.setdefault(name, place)
    return "" if known == place else f"expected an id of its own, found {name!r} as in {known}."


def single_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows whose files are decoded: each part of joined rows once, and all other rows."""
    singles = [part for row in rows for part in row.parts or (row,)]
    return list({part.id: part for part in singles}.values()) if any(row.parts for row in rows) else singles


@dataclass(frozen=True)
class PaperNumber:
    """A result of the paper in per cent; `is_certain` is False if it is recalled and not confirmed."""

    percent: float
    setting: str
    is_certain: bool = True

    def __str__(self) -> str:
        text = f"{self.percent} % ({self.setting})"
        return text if self.is_certain else f"about {text}, recalled, not confirmed"


@dataclass(frozen=True)
class TaskInfo:
    """Facts of a benchmark; `mirasol data info TASK` prints them."""

    title: str
    source: str  # of annotations and clips
    licence: str
    sizes: Mapping[str, int]  # published number of `unit` in each split
    unit: str  # questions or clips
    prompt: str
    normalisation: str
    metric: str
    paper: tuple[PaperNumber, ...]
    versions: str  # known differences between published versions
    layout: str  # of the folder that `load` reads

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as a dictionary, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        sizes = " / ".join(f"{split} {count:,}" for split, count in self.sizes.items())
        lines = {
            "source": self.source,
            "licence": self.licence,
            self.unit: sizes,
            "layout": self.layout,
            "prompt": self.prompt,
            "normalisation": self.normalisation,
            "metric": self.metric,
            "versions": self.versions,
            "paper": "; ".join(map(str, self.paper)) or "no number for it",
        }
        return "\n".join([self.title, *(f"  {name:<14}{text}" for name, text in lines.items())])


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that is most similar to `name`, for error messages."""
    known = sorted(known)
    return (difflib.get_close_matches(name, known, n=1, cutoff=0.0) or known)[0]


def normalise(answer: str) -> str:
    """Return the answer in lower case and NFC, with single spaces and without punctuation at its end."""
    return " ".join(unicodedata.normalize("NFC", answer).lower().strip().rstrip(".!?").split())


def first_number(text: str) -> float:
    """Return the first number in the text ("about 1,200 m": 1200, "A-4": 4, ".5": 0.5), nan if there is none."""
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text.replace("\N{MINUS SIGN}", "-"))
    found = re.search(r"(?:(?<!\w)-)?(?:\d+(?:\.\d+)?|(?<![\w.])\.\d+)(?:[eE][+-]?\d+)?", plain)
    return float(found.group()) if found else math.nan


class Task:
    """One data set or benchmark: rows, training questions, metric. Subclasses override what differs.

    Attributes:
        name: Name in recipes and after `--task`.
        info: Facts of a published benchmark; None for other data.
        reported_split: Split whose scores are published.
        headline: Main entry of `score`.
        headline_kinds: Kinds of question in the headline; by default all that are not in `time_kinds`.
        headline_group: Name of these kinds together.
        time_kinds: Kinds of question that are scored by the error in seconds.
        uses_classes: Whether `load` reads a file of class names, the argument `classes`.
    """

    name: str
    info: TaskInfo | None = None
    reported_split = "test"
    headline = "exact_match"
    headline_kinds: tuple[str, ...] = ()
    headline_group = "all"
    time_kinds: tuple[str, ...] = ()
    uses_classes = False

    def __init__(self, classes: str | Path | None = None):
        if classes is not None and not self.uses_classes:
            raise ValueError(
                f"Expected no class list for task {self.name!r}, found --classes {classes}. Leave it out."
            )
        self.classes = classes

    def load(self, root: str | Path, split: str = "test") -> list[Row]:
        """Return the rows of a split with the questions asked in evaluation; missing media are kept."""
        raise NotImplementedError

    def annotations(self, root: str | Path, split: str) -> list[Row]:
        """Return the rows of a split for their answers only, without a warning about missing media."""
        return self.load(root, split)

    def sample_questions(
        self, row: Row, rng: np.random.Generator, word_times: Sequence[tuple[float, float]] = (), duration: float = 0.0
    ) -> list[Question]:
        """Return the questions of one training step, by default the row's own in random order.

        Args:
            row: The clip.
            rng: Random generator.
            word_times: The row's `word_times` after augmentation.
            duration: Seconds of the clip after augmentation.
        """
        return [row.questions[i] for i in rng.permutation(len(row.questions))]

    def normalise(self, answer: str) -> str:
        """Return the answer in the form in which answers are compared."""
        return normalise(answer)

    def is_right(self, question: Question, answer: str) -> bool:
        """Return whether the answer is right."""
        return self.normalise(answer) == self.normalise(question.answer)

    def credit(self, question: Question, answer: str) -> float:
        """Return the credit of the answer: 0 or 1, or a value between them for a graded metric."""
        return float(self.is_right(question, answer))

    def with_metric(self, rows: Sequence[Row], metric: str) -> list[Row]:
        """Return the rows with this metric for questions that name none."""
        raise ValueError(
            f"Task {self.name!r} is judged by its own metric, found metric={metric!r}. Leave it out; only own data "
            "(task 'jsonl') has a choice."
        )

    def right(self, questions: Sequence[Question], predictions: Sequence[str]) -> list[bool]:
        """Return whether each prediction is right."""
        return [self.is_right(question, given) for question, given in zip(questions, predictions, strict=True)]

    def score(self, questions: Sequence[Question], predictions: Sequence[str], train_rows: Iterable[Row] = ()) -> dict:
        """Return the metrics, by default `exact_match` over all questions and for each kind.

        Args:
            questions: The questions.
            predictions: The answer to each.
            train_rows: Rows of the train split, for metrics that compare with a constant answer.
        """
        return accuracy(self.right(questions, predictions), [question.kind for question in questions])

    def error_seconds(self, question: Question, prediction: str) -> float:
        """Return the distance from the first number in the prediction to the true time; infinite without a number."""
        assert question.seconds, f"{question.id} has no seconds to be scored by"
        error = abs(first_number(prediction) - question.seconds[0])
        return float("inf") if math.isnan(error) else error

    def headline_among(self, kinds: Iterable[str]) -> list[str]:
        """Return the kinds that are in the headline; if there are none, all that are not in `time_kinds`."""
        kinds = list(kinds)
        chosen = [kind for kind in self.headline_kinds if kind in kinds]
        return chosen or [kind for kind in kinds if kind not in self.time_kinds]

    def check_requirements(self) -> None:
        """Warn, before the model answers, if data that the metric needs are not installed."""


class ClassTask(Task):
    """A task with one question per clip, for its class."""

    def score(self, questions: Sequence[Question], predictions: Sequence[str], train_rows: Iterable[Row] = ()) -> dict:
        """Return `exact_match` and `mean_class_accuracy`."""
        return class_accuracy(self.right(questions, predictions), [question.answer for question in questions])
