"""What a score has to be compared with: constant answers, guessing, and the best that known answers allow.

Each is a list of answers given to the task's own metric, so that a baseline is measured as the model is.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mirasol.tasks import Row, Task


def baselines(task: Task, rows: Sequence[Row], train: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Scores by name: `majority` (the most common answer of the train split), `majority_by_kind` (that of each kind of
    question), `ceiling` (right wherever the answer occurs in train). Without a train split the constants come from
    the questions themselves and there is no ceiling; where every question has options, there is `chance` beside.
    """
    asked = [question for row in rows for question in row.questions]
    if not asked:
        return {}
    known = [question for row in train for question in row.questions] or asked
    most_common = Counter(task.normalise(question.answer) for question in known)
    by_kind: dict[str, Counter] = {}
    for question in known:
        by_kind.setdefault(question.kind, Counter())[task.normalise(question.answer)] += 1
    constant = best(most_common)
    of_kind = {kind: best(counts) for kind, counts in by_kind.items()}
    found = {
        "majority": [constant] * len(asked),
        "majority_by_kind": [of_kind.get(question.kind, constant) for question in asked],
    }
    has_options = all(question.options for question in asked)
    if train and not has_options:
        found["ceiling"] = [q.answer if task.normalise(q.answer) in most_common else "" for q in asked]
    scores = {name: task.score(asked, answers, train) for name, answers in found.items()}
    if has_options:
        scores["chance"] = {task.headline: sum(1 / len(question.options) for question in asked) / len(asked)}
    return scores


def best(counts: Counter) -> str:
    """The most common answer; among equally common ones the first in the alphabet."""
    return min(counts, key=lambda answer: (-counts[answer], answer))
