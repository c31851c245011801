"""One file per dataset or benchmark: rows, split, prompt, answer normalisation, metric."""

from mirasol.tasks.base import TASKS, Question, Row, get_task, nearest

__all__ = ["TASKS", "Question", "Row", "get_task", "nearest"]
