"""What every task gives to the rest: rows of media with questions. No tensors here."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

BENCHMARKS = ("msrvtt_qa", "activitynet_qa", "nextqa_mc", "nextqa_oe", "kinetics_sounds", "vggsound", "epic_sounds")
LABELLED = ("grid", "esc10", "fsdd", "drone")  # small sets of labelled clips, to train on
TASKS = {name: f"mirasol.tasks.{name}" for name in (*LABELLED, "jsonl", *BENCHMARKS)}


@dataclass(frozen=True)
class Question:
    """One question about a clip, its right answer, and (if known) the seconds in which the answer is heard.

    `options` are the answers to choose between, the right one among them; none where the answer is free.
    `references` are further right answers that the official metric accepts beside `answer`.
    """

    id: str
    text: str
    answer: str
    kind: str
    seconds: tuple[float, float] | None = None
    options: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One clip of a task. `word_times` are the seconds an augmentation must keep inside the clip (none: no shift).

    `segment` is the (start, end) in seconds of the file that the questions are about; None: the whole file. `crop` is
    the square of the picture that they are about: its side as a part of the frame's shorter side, and x and y of its
    centre as parts of the frame; None: what the checkpoint's processor shows.
    """

    id: str
    media: Path
    questions: tuple[Question, ...] = ()
    word_times: tuple[tuple[float, float], ...] = ()
    segment: tuple[float, float] | None = None
    crop: tuple[float, float, float] | None = None


def segment_of(row: Row) -> dict[str, Any]:
    """Return the options with which `read_clip` reads the row: none for a whole file."""
    return {} if row.segment is None else {"start": row.segment[0], "end": row.segment[1]}


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
    """What a reader of a benchmark's score has to know about it; `mirasol data info TASK` prints it."""

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
        """The same, for JSON."""
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


def fixed_questions(row: Row, seed: int = 0) -> list[Question]:
    """Return the row's questions as written: what tasks ask whose questions are given."""
    return list(row.questions)


def random_questions(row: Row, rng: np.random.Generator, word_times=(), duration: float = 0.0) -> list[Question]:
    """Return the row's questions in random order."""
    return [row.questions[i] for i in rng.permutation(len(row.questions))]


def get_task(name: str) -> ModuleType:
    """Return the task's module: `load`, `fixed_questions`, `random_questions`, `normalise`, `score`, `METRIC`.

    A benchmark's module has `INFO`, a `TaskInfo`, too.
    """
    if name not in TASKS:
        raise ValueError(
            f"Expected a task out of {sorted(TASKS)}, found {name!r}. Did you mean {nearest(name, TASKS)!r}?"
        )
    return importlib.import_module(TASKS[name])


def describe_task(name: str) -> TaskInfo:
    """Return the facts of a benchmark."""
    task = get_task(name)
    if not hasattr(task, "INFO"):
        raise ValueError(
            f"Expected a benchmark out of {sorted(BENCHMARKS)}, found {name!r}, which is none of them. "
            f"Read the top of {task.__name__}."
        )
    return task.INFO
