"""Baselines: constant answers, chance, and the ceiling of answers that occur in train, scored by the task's metric."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from mirasol.tasks import Row, Task


def baselines(task: Task, rows: Sequence[Row], train: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return the task's scores of answers that do not depend on the clip.

    `majority` is the most common answer of the train split, `majority_by_kind` of each kind of question,
    `majority_by_question` of each question text (if texts recur and the result differs). `ceiling` gives every answer
    that occurs in train, `chance` guesses among the options. Without a train split the constants come from the
    evaluated questions, and there is no ceiling.
    """
    asked = [question for row in rows for question in row.questions]
    if not asked:
        return {}
    known = [question for row in train for question in row.questions] or asked
    most_common = Counter(task.normalise(question.answer) for question in known)
    by_kind, by_text = defaultdict[Any, Counter](Counter), defaultdict[Any, Counter](Counter)
    for question in known:
        for counts in (by_kind[question.kind], by_text[question.kind, question.text]):
            counts[task.normalise(question.answer)] += 1
    constant = best(most_common)
    of_kind, of_text = ({name: best(counts) for name, counts in by.items()} for by in (by_kind, by_text))
    found = {
        "majority": [constant] * len(asked),
        "majority_by_kind": [of_kind.get(question.kind, constant) for question in asked],
    }
    # Only if texts recur: the most common answer to a question that is asked once is its own answer.
    if 2 * len(by_text) <= len(known):
        by_question = [of_text.get((q.kind, q.text), of_kind.get(q.kind, constant)) for q in asked]
        if by_question != found["majority_by_kind"]:
            found["majority_by_question"] = by_question
    has_options = all(question.options for question in asked)
    if train and not has_options:
        found["ceiling"] = [q.answer if task.normalise(q.answer) in most_common else "" for q in asked]
    scores = {name: task.score(asked, answers, train) for name, answers in found.items()}
    if has_options:
        chance = sum(1 / len(question.options) for question in asked) / len(asked)
        scores["chance"] = dict.fromkeys((task.headline, "exact_match"), chance)
    return scores


def best(counts: Counter) -> str:
    """Return the most common answer; of equally common ones the first in the alphabet."""
    return min(counts, key=lambda answer: (-counts[answer], answer))
