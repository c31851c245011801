"""One file per dataset or benchmark: rows, split, prompt, answer normalisation, metric."""

from mirasol.tasks.base import (
    TASKS,
    PaperNumber,
    Question,
    Row,
    TaskInfo,
    describe_task,
    get_task,
    nearest,
    segment_of,
)

__all__ = ["TASKS", "PaperNumber", "Question", "Row", "TaskInfo", "describe_task", "get_task", "nearest", "segment_of"]
