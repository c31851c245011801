"""All tasks by name."""

from pathlib import Path

from mirasol.tasks.activitynet_qa import ActivityNetQA
from mirasol.tasks.base import Task, TaskInfo, nearest
from mirasol.tasks.drone import Drone
from mirasol.tasks.epic_sounds import EpicSounds
from mirasol.tasks.esc10 import Esc10
from mirasol.tasks.fsdd import Fsdd
from mirasol.tasks.grid import Grid
from mirasol.tasks.grid_films import GridFilms
from mirasol.tasks.jsonl import Jsonl
from mirasol.tasks.kinetics_sounds import KineticsSounds
from mirasol.tasks.msrvtt_qa import MsrvttQA
from mirasol.tasks.nextqa_mc import NextQAMultipleChoice
from mirasol.tasks.nextqa_oe import NextQAOpenEnded
from mirasol.tasks.shards import Shards
from mirasol.tasks.vggsound import VGGSound

LABELLED = (Grid, Esc10, Fsdd, Drone)  # small sets of labelled clips, to train on
PUBLISHED = (
    MsrvttQA, ActivityNetQA, NextQAMultipleChoice, NextQAOpenEnded, KineticsSounds, VGGSound, EpicSounds,
)  # fmt: skip
TASKS: dict[str, type[Task]] = {task.name: task for task in (*LABELLED, GridFilms, Jsonl, Shards, *PUBLISHED)}
BENCHMARKS = tuple(task.name for task in PUBLISHED)


def get_task(name: str, classes: str | Path | None = None) -> Task:
    """Return the task of this name; `classes` is its file of class names, where it takes one."""
    if name not in TASKS:
        raise ValueError(
            f"Expected a task out of {sorted(TASKS)}, found {name!r}. Did you mean {nearest(name, TASKS)!r}?"
        )
    return TASKS[name](classes)


def describe_task(name: str) -> TaskInfo:
    """Return the facts of a benchmark."""
    task = get_task(name)
    if task.info is None:
        raise ValueError(
            f"Expected a benchmark out of {sorted(BENCHMARKS)}, found {name!r}. For own clips see docs/data.md, or "
            "run mirasol data check FOLDER."
        )
    return task.info
