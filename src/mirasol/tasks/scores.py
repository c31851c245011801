"""Scores that several tasks share: how often the generated text is the right answer."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mirasol.tasks.base import Question


def exact_match(
    questions: Sequence[Question],
    predictions: Sequence[str],
    normalise: Callable[[str], str],
    groups: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, float]:
    """Return the share of right answers over all questions (`exact_match`), by kind, and by group of kinds."""
    pairs = zip(questions, predictions, strict=True)
    right = np.array([normalise(prediction) == normalise(question.answer) for question, prediction in pairs])
    kinds = np.array([question.kind for question in questions])
    scores = {"num_questions": len(questions), "exact_match": _mean(right)}
    for group, members in (groups or {}).items():
        if np.isin(kinds, members).any():
            scores[group] = _mean(right[np.isin(kinds, members)])
    return scores | {kind: _mean(right[kinds == kind]) for kind in dict.fromkeys(kinds.tolist())}


def class_accuracy(
    questions: Sequence[Question], predictions: Sequence[str], normalise: Callable[[str], str]
) -> dict[str, float]:
    """Return the share of right class names (`exact_match`) and its mean over the classes (`mean_class_accuracy`).

    `other_text` is how often the text is no class name at all.
    """
    right: dict[str, list[bool]] = {}
    other = []
    for question, prediction in zip(questions, predictions, strict=True):
        given = normalise(prediction)
        right.setdefault(question.answer, []).append(given == normalise(question.answer))
        other.append(given not in {normalise(option) for option in question.options})
    return {
        "num_questions": len(questions),
        "exact_match": _mean([value for values in right.values() for value in values]),
        "mean_class_accuracy": _mean([_mean(values) for values in right.values()]),
        "other_text": _mean(other),
    }


def _mean(values: Sequence | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
