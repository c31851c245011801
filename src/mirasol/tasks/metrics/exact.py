"""Accuracy over all questions, by kind and by groups of kinds, equal to three official scripts.

- MILVLG/activitynet-qa evaluation/eval.py (commit 2cf80ae): strings are compared unchanged, with case and spaces, by
  type and over all. Its "Free" line is wrong unless the types first occur in the order of their numbers (it adds up
  counts in the order of the file). Here `free` is the accuracy over types 3 to 8, which the line intends. The script
  counts two answers to a question twice; here each question has one answer.
- doc-doc/NExT-QA eval_mc.py (commit 6b92588): TP counts as TN; C, T and D are groups by first letter. The script stops
  at a missing answer; here it is a wrong answer.
- MSRVTT-QA (xudejing/video-question-answering) has no script: string equality over all test questions, and by the
  first word of the question.
"""

from collections.abc import Mapping, Sequence

import numpy as np


def by_kind(
    scores: Sequence[float] | np.ndarray, kinds: Sequence[str], groups: Mapping[str, Sequence[str]], prefix: str = ""
) -> dict[str, float]:
    """Return the mean score of each group of kinds, then of each kind in order of appearance, without absent ones."""
    values, names = np.asarray(scores, dtype=np.float64), np.array(kinds)
    members = {**groups, **{kind: (kind,) for kind in dict.fromkeys(kinds)}}
    chosen = {name: np.isin(names, kinds_of) for name, kinds_of in members.items()}
    return {f"{prefix}{name}": mean(values[rows]) for name, rows in chosen.items() if rows.any()}


def accuracy(
    right: Sequence[float],
    kinds: Sequence[str],
    groups: Mapping[str, Sequence[str]] | None = None,
    merged: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Return the mean (`exact_match`) over all questions, by group and by kind; `merged` renames kinds."""
    kinds = [(merged or {}).get(kind, kind) for kind in kinds]
    return {"num_questions": len(right), "exact_match": mean(right)} | by_kind(right, kinds, groups or {})


def mean(values: Sequence | np.ndarray) -> float:
    """Return the mean, nan if there are no values."""
    return float(np.mean(values)) if len(values) else float("nan")
