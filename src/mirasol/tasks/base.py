"""`Task`, the base class of every dataset and benchmark, and the rows and questions it gives. No tensors here."""

import difflib
import re
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
        options: The answers to choose between, the right one among them; empty where the answer is free.
        references: Further right answers that the metric accepts beside `answer`.
        metric: Metric of own data, see `mirasol.tasks.metrics.judged`; empty: the task's own.
        tolerance: Largest error of a number that counts as right.
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
        media: Its file, or a member of a tar.
        word_times: The (start, end) seconds that augmentation keeps inside the clip; empty: the clip is not shifted.
        segment: The (start, end) in seconds of the file that the questions are about; None: the whole file.
        crop: The square of the picture that they are about: its side as a fraction of the frame's shorter side, and x
            and y of its centre as fractions of the frame; None: the crop of the checkpoint's processor.
        parts: The rows whose clips, each cut or held to `part_seconds` and joined end to end, are this row's; empty:
            the clip is `media`, which is the first part's otherwise.
    """

    id: str
    media: Path | Member
    questions: tuple[Question, ...] = ()
    word_times: tuple[tuple[float, float], ...] = ()
    segment: tuple[float, float] | None = None
    crop: tuple[float, float, float] | None = None
    places: tuple[str, ...] = ()  # file and line of each question, where an error should name them
    parts: "tuple[Row, ...]" = ()
    part_seconds: float = 0.0


class Absent(ValueError):
    """The split or its annotations do not exist; malformed ones raise another ValueError."""


def segment_of(row: Row) -> dict[str, Any]:
    """Return the options with which `read_clip` reads the row: none for a whole file."""
    return {} if row.segment is None else {"start": row.segment[0], "end": row.segment[1]}


def require_own_id(first: dict[str, str], name: str, place: str) -> None:
    """Refuse an id that came at another place before; `first` is filled with the place of each."""
    if first.setdefault(name, place) != place:
        raise ValueError(f"expected an id of its own, found {name!r} as in {first[name]}.")


def single_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows whose files are decoded: every part of joined rows once, all other rows as they are."""
    singles = [part for row in rows for part in row.parts or (row,)]
    return list({part.id: part for part in singles}.values()) if any(row.parts for row in rows) else singles


@dataclass(frozen=True)
class PaperNumber:
    """A result of the paper in per cent. `is_certain` is False where it is recalled and not confirmed."""

    percent: float
    setting: str
    is_certain: bool = True

    def __str__(self) -> str:
        text = f"{self.percent} % ({self.setting})"
        return text if self.is_certain else f"about {text}, recalled, not confirmed"


@dataclass(frozen=True)
class TaskInfo:
    """Facts of a benchmark that its score depends on; `mirasol data info TASK` prints them."""

    title: str
    source: str  # where annotations and clips are obtained
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
    """Return the known name most like `name`, for error messages."""
    known = sorted(known)
    return (difflib.get_close_matches(name, known, n=1, cutoff=0.0) or known)[0]


def normalise(answer: str) -> str:
    """Return the answer in lower case, without punctuation at its end and with single spaces."""
    return " ".join(answer.lower().strip().rstrip(".!?").split())


class Task:
    """One dataset or benchmark: reading, questions and scores of its rows. Subclasses override what differs.

    Attributes:
        name: The name in recipes and after `--task`.
        info: The facts of a published benchmark; None for other data.
        reported_split: The split whose scores are published.
        headline: The main entry of `score`.
        headline_kinds: Kinds of question in the headline; by default all that are scored by match.
        headline_group: Name of these kinds together.
        time_kinds: Kinds of question scored by the error in seconds; all others are scored by match.
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
                f"Task {self.name!r} has no use for a class list, found --classes {classes}. Leave it out."
            )
        self.classes = classes

    def load(self, root: str | Path, split: str = "test") -> list[Row]:
        """Return the rows of a split with the questions asked in evaluation; missing media are kept."""
        raise NotImplementedError

    def annotations(self, root: str | Path, split: str) -> list[Row]:
        """Return the rows of a split for their answers alone, without a warning of missing media."""
        return self.load(root, split)

    def sample_questions(
        self, row: Row, rng: np.random.Generator, word_times: Sequence[tuple[float, float]] = (), duration: float = 0.0
    ) -> list[Question]:
        """Return the questions of one training step, by default the row's own in random order.

        Args:
            row: The clip.
            rng: Generator of everything that is random.
            word_times: The row's seconds after augmentation.
            duration: Seconds of the clip after augmentation.
        """
        return [row.questions[i] for i in rng.permutation(len(row.questions))]

    def normalise(self, answer: str) -> str:
        """Return the form in which answers are compared."""
        return normalise(answer)

    def is_right(self, question: Question, answer: str) -> bool:
        """Return whether the answer counts as right."""
        return self.normalise(answer) == self.normalise(question.answer)

    def credit(self, question: Question, answer: str) -> float:
        """Return the credit of the answer, 0 or 1, or between them for a graded metric."""
        return float(self.is_right(question, answer))

    def with_metric(self, rows: Sequence[Row], metric: str) -> list[Row]:
        """Return the rows with this metric where a question names none."""
        raise ValueError(
            f"Task {self.name!r} is judged by its own metric, found metric={metric!r}. Leave it out; own data of task "
            "'jsonl' has a choice."
        )

    def right(self, questions: Sequence[Question], predictions: Sequence[str]) -> list[bool]:
        """Return whether each prediction is right."""
        return [self.is_right(question, given) for question, given in zip(questions, predictions, strict=True)]

    def score(self, questions: Sequence[Question], predictions: Sequence[str], train_rows: Iterable[Row] = ()) -> dict:
        """Return the metrics: here `exact_match` over all questions, and the same of each kind.

        Args:
            questions: The questions asked.
            predictions: The answer given to each.
            train_rows: Rows of the train split, for metrics that compare with a constant answer.
        """
        return accuracy(self.right(questions, predictions), [question.kind for question in questions])

    def error_seconds(self, question: Question, prediction: str) -> float:
        """Return the distance from the first number in the prediction to the true time; infinite without a number."""
        assert question.seconds, f"{question.id} is scored in seconds and has none"
        number = re.search(r"\d+(\.\d+)?", prediction)
        return abs(float(number.group()) - question.seconds[0]) if number else float("inf")

    def headline_among(self, kinds: Iterable[str]) -> list[str]:
        """Return those of `kinds` in the headline; if there are none, all kinds that are scored by match."""
        kinds = list(kinds)
        chosen = [kind for kind in self.headline_kinds if kind in kinds]
        return chosen or [kind for kind in kinds if kind not in self.time_kinds]

    def check_requirements(self) -> None:
        """Warn of data that the metric needs and that are not installed, before the model answers."""


class ClassTask(Task):
    """A task of one question a clip, "which of these classes?"."""

    def score(self, questions: Sequence[Question], predictions: Sequence[str], train_rows: Iterable[Row] = ()) -> dict:
        """Return `exact_match` and `mean_class_accuracy`."""
        return class_accuracy(self.right(questions, predictions), [question.answer for question in questions])
