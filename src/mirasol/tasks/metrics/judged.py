"""Metrics of own data: exact match, number, yes or no, label set, caption.

| metric | right | credit |
|---|---|---|
| `exact` | equal to an accepted answer after normalisation | 1 or 0 |
| `number` | its first number lies within `tolerance` of an accepted one | 1 or 0 |
| `yes_no` | its first word is the right one of yes and no | 1 or 0 |
| `labels` | the same set of labels, written between commas in any order | F1 of the set |
| `caption` | equal to a reference after normalisation | ROUGE-L |
"""

import math
import re
from collections.abc import Sequence

from mirasol.tasks.base import Question, first_number, normalise
from mirasol.tasks.metrics.captions import cider, rouge_l
from mirasol.tasks.metrics.exact import mean

METRICS = ("exact", "number", "yes_no", "labels", "caption")
GRADED = ("labels", "caption")  # credit between wrong and right


def is_right(question: Question, answer: str) -> bool:
    """Return whether the answer is right by the question's metric."""
    accepted = (question.answer, *question.references)
    if question.metric == "number":
        given = first_number(answer)
        return any(abs(given - first_number(one)) <= question.tolerance + 1e-9 for one in accepted)
    if question.metric == "yes_no":
        return first_word(answer) == first_word(question.answer)
    if question.metric == "labels":
        return labels(answer) in map(labels, accepted)
    return normalise(answer) in map(normalise, accepted)


def credit(question: Question, answer: str) -> float:
    """Return the credit of the answer by the question's metric, from 0 to 1."""
    accepted = (question.answer, *question.references)
    if question.metric == "labels":
        return max(f1(labels(answer), labels(one)) for one in accepted)
    if question.metric == "caption":
        return rouge_l(answer, accepted)
    return float(is_right(question, answer))


def details(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return details of the metrics number, labels and caption that occur: `numbers`, `label_sets`, `captions`."""
    asked: dict[str, list[tuple[Question, str]]] = {}
    for question, answer in zip(questions, answers, strict=True):
        asked.setdefault(question.metric, []).append((question, answer))
    found: dict[str, dict[str, float]] = {}
    if pairs := asked.get("number"):
        errors = [_error(*pair) for pair in pairs]
        given = [error for error in errors if not math.isnan(error)]
        found["numbers"] = {"mean_absolute_error": mean(given), "answers_without_number": len(errors) - len(given)}
    if pairs := asked.get("labels"):
        right = [is_right(*pair) for pair in pairs]
        found["label_sets"] = {"f1": mean([credit(*pair) for pair in pairs]), "exact_set": mean(right)}
    if pairs := asked.get("caption"):
        texts, references = [answer for _, answer in pairs], [(q.answer, *q.references) for q, _ in pairs]
        rouge = mean([credit(*pair) for pair in pairs])
        found["captions"] = {"rouge_l": rouge, "cider": mean(cider(texts, references))}
    return found


def fault(metric: str, answers: Sequence[str], options: Sequence[str] = ()) -> str:
    """Return the reason why the metric cannot score these answers, else ""."""
    if metric in GRADED and options:
        return f"expected no 'options' beside the metric {metric!r}, because the likeliest option is no {metric}."
    for answer in answers:
        if metric == "number" and math.isnan(first_number(answer)):
            return f"expected a number as answer, found {answer!r}."
        if metric == "yes_no" and first_word(answer) not in ("yes", "no"):
            return f"expected yes or no as answer, found {answer!r}."
        if metric == "labels" and not labels(answer):
            return f"expected labels between commas as answer, found {answer!r}."
    return ""


def labels(text: str) -> frozenset[str]:
    """Return the set of comma-separated labels, normalised."""
    return frozenset(filter(None, map(normalise, text.split(","))))


def f1(given: frozenset[str], known: frozenset[str]) -> float:
    """Return the harmonic mean of precision and recall of a set."""
    return 2 * len(given & known) / (len(given) + len(known)) if given or known else 1.0


def first_word(text: str) -> str:
    """Return the first word in lower case ("Yes, it is.": yes)."""
    return next(iter(re.findall(r"\w+", text.lower())), "")


def _error(question: Question, answer: str) -> float:
    return min(abs(first_number(answer) - first_number(one)) for one in (question.answer, *question.references))
