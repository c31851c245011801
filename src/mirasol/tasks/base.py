"""What every task gives to the rest: rows of media with questions. No tensors here."""

import difflib
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

TASKS = {"grid": "mirasol.tasks.grid", "jsonl": "mirasol.tasks.jsonl"}


@dataclass(frozen=True)
class Question:
    """One question about a clip, its right answer, and (if known) the seconds in which the answer is heard."""

    id: str
    text: str
    answer: str
    kind: str
    seconds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Row:
    """One clip of a task. `word_times` are the seconds an augmentation must keep inside the clip (none: no shift)."""

    id: str
    media: Path
    questions: tuple[Question, ...] = ()
    word_times: tuple[tuple[float, float], ...] = ()


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name most like `name`, for error messages."""
    known = sorted(known)
    return (difflib.get_close_matches(name, known, n=1, cutoff=0.0) or known)[0]


def normalise(answer: str) -> str:
    """Return the answer in lower case, without punctuation at its end and with single spaces."""
    return " ".join(answer.lower().strip().rstrip(".!?").split())


def get_task(name: str) -> ModuleType:
    """Return the task's module: `load`, `fixed_questions`, `random_questions`, `normalise`, `score`, `METRIC`."""
    if name not in TASKS:
        raise ValueError(
            f"Expected a task out of {sorted(TASKS)}, found {name!r}. Did you mean {nearest(name, TASKS)!r}?"
        )
    return importlib.import_module(TASKS[name])
