"""One file per dataset or benchmark: rows, split, prompt, answer normalisation, metric."""

from mirasol.tasks.base import Absent, PaperNumber, Question, Row, Task, TaskInfo, nearest, segment_of, single_rows
from mirasol.tasks.registry import TASKS, describe_task, get_task

__all__ = [
    "TASKS",
    "Absent",
    "PaperNumber",
    "Question",
    "Row",
    "Task",
    "TaskInfo",
    "describe_task",
    "get_task",
    "nearest",
    "segment_of",
    "single_rows",
]
