"""Predictions -> metrics: the task's scores, intervals over clips, and comparisons of conditions."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import numpy as np

from mirasol.evaluate.bootstrap import Interval, bootstrap_ratio, bootstrap_statistic
from mirasol.evaluate.calibration import Abstention, Calibration, calibrate
from mirasol.evaluate.conditions import Condition
from mirasol.evaluate.results import Comparison, Coverage, Follows, Prediction, Tops
from mirasol.tasks import Question, Row, Task, get_task
from mirasol.tasks.metrics.classes import ranked_metrics


def summarise(
    predictions: Sequence[Prediction], rows: Sequence[Row], task: str, *, lost: Collection[str] = (),
    train: Sequence[Row] = (),
) -> dict[str, Any]:  # fmt: skip
    """Return the fields of `Metrics` that follow from the predictions.

    `scores` are the task's scores of the answered questions; `scores_missing_wrong` also count every question about
    the `lost` clips as wrong.
    """
    scored = get_task(task)
    asked = {question.id: question for row in rows for question in row.questions}
    kinds = list(dict.fromkeys(p.kind for p in predictions))
    headline = scored.headline_among(kinds)
    groups = {scored.headline_group: headline} if headline else {}
    groups |= {kind: [kind] for kind in kinds if kind not in scored.time_kinds}
    intervals = {name: share(predictions, value_of, group) for name, group in groups.items()}
    for kind in kinds:
        if kind in scored.time_kinds:
            of_kind = [[p for p in clip if p.kind == kind] for clip in by_file(predictions)]
            errors = [[scored.error_seconds(asked[p.question_id], p.generated) for p in clip] for clip in of_kind]
            intervals[kind] = bootstrap_statistic(errors, np.median)
    given = {p.question_id: p.generated for p in predictions}
    questions, texts = [asked[name] for name in given], list(given.values())
    unanswered = [question for row in rows if row.id in lost for question in row.questions]
    result: dict[str, Any] = {
        "scores": scored.score(questions, texts, train) if questions else {},
        "scores_missing_wrong": scored.score(questions + unanswered, texts + [""] * len(unanswered), train),
        "intervals_95": intervals,
        "cut_answers": sum(p.is_cut for p in predictions),
    }
    if any(p.ranked for p in predictions):
        result["ranking"] = ranking_scores(predictions, scored, asked)
        result["class_ranking"] = class_ranking(predictions, asked)
    if known := [p for p in predictions if p.sound_answer is not None]:
        with_known = {p.kind for p in known}
        result["follows"] = {name: follows(known, group) for name, group in groups.items() if with_known & set(group)}
    return result


def calibration(predictions: Sequence[Prediction], task: Task, temperature: float = 1.0) -> Calibration | None:
    """Return the calibration over answers that are either right or wrong."""
    judged = matched(predictions, task)
    return calibrate([p.confidence for p in judged], [p.right for p in judged], temperature)


def abstention(predictions: Sequence[Prediction], task: Task, below: float | None) -> Abstention | None:
    """Return the score of the answers with at least this confidence."""
    if below is None:
        return None
    judged = matched(predictions, task)
    given = [p for p in judged if p.confidence >= below]
    right = share(given, lambda p: p.right, {p.kind for p in given})
    return Abstention(below=below, given=len(given), abstained=len(judged) - len(given), right=right)


def matched(predictions: Sequence[Prediction], task: Task) -> list[Prediction]:
    """Return the predictions that are either right or wrong, without times in seconds and graded answers."""
    return [p for p in predictions if p.kind not in task.time_kinds and p.credit is None]


def coverage(predictions: Sequence[Prediction], task: str, split: str) -> Coverage | None:
    """Return how much of the published split was measured; None if the data is no published benchmark."""
    info = get_task(task).info
    parts = split.split("+")
    if info is None or not set(parts) <= set(info.sizes):
        return None
    measured = len(predictions) if info.unit == "questions" else len({p.clip for p in predictions})
    return Coverage(measured=measured, published=sum(info.sizes[part] for part in parts), unit=info.unit)


def ranking_scores(predictions: Sequence[Prediction], task: Task, asked: Mapping[str, Question]) -> dict[str, Tops]:
    """Return top-1 and top-5 accuracy of ranked options, by the sum of token log-probabilities and by their mean."""
    kinds = {p.kind for p in predictions}

    def top(field: str, count: int) -> Interval:
        def holds(p: Prediction) -> bool:
            return any(task.is_right(asked[p.question_id], option) for option in getattr(p, field)[:count])

        return share(predictions, holds, kinds)

    fields = {"sum": "ranked", "per_token": "ranked_per_token"}
    return {name: Tops(top_1=top(field, 1), top_5=top(field, 5)) for name, field in fields.items()}


def class_ranking(predictions: Sequence[Prediction], asked: Mapping[str, Question]) -> dict[str, float]:
    """Return mAP, mAUC and the like if every question has the same list of classes as options."""
    options = {asked[p.question_id].options for p in predictions}
    if len(options) != 1 or len(classes := next(iter(options))) <= len(predictions[0].ranked or ()):
        return {}
    scores = np.array([p.option_log_likelihoods for p in predictions])
    return ranked_metrics(scores, np.array([classes.index(p.answer) for p in predictions]))


def compare(shown: Mapping[Condition, Sequence[Prediction]], task: str) -> list[Comparison]:
    """Compare every condition with the first at the same noise, on clips that have sound.

    Differences are paired: the same clip, questions and noise.
    """
    scored = get_task(task)
    first, *others = shown
    heard = {p.clip for p in shown[first] if p.sound_used} | {p.clip for name in others for p in shown[name]}
    kept = {condition: [p for p in found if p.clip in heard] for condition, found in shown.items()}
    headline = scored.headline_among(dict.fromkeys(p.kind for p in kept[first]))
    pooled: dict[tuple, list[Condition]] = {}
    for condition in shown:
        pooled.setdefault((condition.noise_db, condition.name), []).append(condition)
    entries = []
    for (noise_db, name), runs in pooled.items():
        pairs = [(kept[c], kept[replace(c, name=first.name)]) for c in runs]
        sides = [_only(mine, base) for mine, base in pairs], [_only(base, mine) for mine, base in pairs]
        found = [p for c in runs for p in kept[c]]
        known = [p for p in found if p.sound_answer is not None]
        entries.append(
            Comparison(
                condition=name,
                noise_db=noise_db,
                noise_seeds=[] if noise_db is None else [c.noise_seed for c in runs],
                questions=sum(p.kind in headline for p in found),
                right=share(found, value_of, headline),
                minus_first=paired_difference(*sides, headline),
                follows=follows(known, headline) if known else None,
            )
        )
    return entries


def _only(predictions: Sequence[Prediction], asked: Sequence[Prediction]) -> list[Prediction]:
    names = {p.question_id for p in asked}
    return [p for p in predictions if p.question_id in names]


def by_file(predictions: Sequence[Prediction]) -> list[list[Prediction]]:
    """Group the predictions by file, in the order of appearance, because clips cut from one file are alike."""
    clips: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        clips.setdefault(prediction.unit, []).append(prediction)
    return list(clips.values())


value_of = attrgetter("value")  # the credit of a prediction, with `share`


def share(predictions: Sequence[Prediction], holds: Callable[[Prediction], float], kinds: Collection[str]) -> Interval:
    """Return the mean of `holds` over questions of these kinds, with its interval over files."""
    chosen = [[holds(p) for p in clip] for clip in by_file([p for p in predictions if p.kind in kinds])]
    totals, counts = (np.array([f(clip) for clip in chosen], dtype=np.float64) for f in (sum, len))
    return bootstrap_ratio(totals, counts)


def follows(predictions: Sequence[Prediction], kinds: Collection[str]) -> Follows:
    """Return how often answers follow the picture's clip, the sound's clip, or neither."""

    def group_of(p: Prediction) -> str:
        return "picture" if p.right else "sound" if p.sound_right else "neither"

    def part(name: str) -> Interval:
        return share(predictions, lambda p: group_of(p) == name, kinds)

    return Follows(picture=part("picture"), sound=part("sound"), neither=part("neither"))


def paired_difference(
    first: Sequence[Sequence[Prediction]], second: Sequence[Sequence[Prediction]], kinds: Collection[str],
) -> Interval:  # fmt: skip
    """Return the share right in `first` minus that in `second`, paired by file; runs (noise seeds) are pooled.

    The file is the unit: its questions under all seeds are resampled together.
    """
    if len(first) != len(second):
        raise ValueError(f"Expected as many runs on both sides, found {len(first)} and {len(second)}: pair them.")
    differences: dict[str, list[float]] = {}
    for sign, runs in ((1, first), (-1, second)):
        for prediction in (p for run in runs for p in run if p.kind in kinds):
            totals = differences.setdefault(prediction.unit, [0, 0])
            totals[0] += sign * prediction.value
            totals[1] += sign == 1
    sums, counts = np.array(list(differences.values()), dtype=np.float64).reshape(-1, 2).T
    return bootstrap_ratio(sums, counts)
