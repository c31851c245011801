"""From single predictions to metrics: the task's scores, intervals over clips, and what swapped answers follow."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from mirasol.evaluate.bootstrap import Interval, bootstrap_ratio, bootstrap_statistic
from mirasol.evaluate.conditions import Condition
from mirasol.tasks import Question, Row, get_task
from mirasol.tasks.metrics.classes import ranked_metrics

AUDIT_NAMES = {"both": "sound on", "picture": "sound off", "swapped": "sound of another clip", "silent": "silence"}
RANKING_FIELDS = ("ranked", "ranked_per_token", "option_log_likelihoods")


@dataclass(frozen=True)
class Prediction:
    """One answered question.

    `generated` is the text that counts as the answer: written by the model or, with ranking, the likeliest option;
    then `ranked` and `ranked_per_token` are the best five by the sum of an option's token log-probabilities and by
    their mean, `option_log_likelihoods` those sums in the order of the question's options. `sound_answer` is the
    answer of the clip whose sound was put under the picture, `file` the clip's file, `seconds` is where the answer is
    heard or seen, and `confidence` is exp of the mean log-probability of the answer's tokens.
    """

    clip: str
    question_id: str
    kind: str
    question: str
    answer: str
    generated: str
    right: bool
    confidence: float
    seconds: tuple[float, float] | None = None
    sound_answer: str | None = None
    log_likelihood: float | None = None
    seconds_covered: float | None = None
    sound_used: bool | None = None
    ranked: list[str] | None = None
    ranked_per_token: list[str] | None = None
    option_log_likelihoods: list[float] | None = None
    file: str | None = None

    @property
    def unit(self) -> str:
        """What is resampled for an interval: the file, of which there may be several clips."""
        return self.file or self.clip

    def as_dict(self) -> dict[str, Any]:
        """The same, for JSON; without the fields of ranking where nothing was ranked."""
        return {name: value for name, value in asdict(self).items() if value is not None or name not in RANKING_FIELDS}


def summarise(
    predictions: Sequence[Prediction], rows: Sequence[Row], task: str, *, lost: Collection[str] = (),
    train: Sequence[Row] = (), seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """`scores` as the task defines them on what was answered, `scores_missing_wrong` with every question of the `lost`
    clips counted as wrong, `intervals_95` over clips, for ranked options `ranking`, for swapped sound `follows`."""
    scored = get_task(task)
    asked = {question.id: question for row in rows for question in row.questions}
    kinds = list(dict.fromkeys(p.kind for p in predictions))
    headline = scored.headline_among(kinds)
    groups = {scored.headline_group: headline} if headline else {}
    groups |= {kind: [kind] for kind in kinds if kind not in scored.time_kinds}
    intervals = {name: share(predictions, lambda p: p.right, group, seed).as_dict() for name, group in groups.items()}
    for kind in kinds:
        if kind in scored.time_kinds:
            of_kind = [[p for p in clip if p.kind == kind] for clip in by_file(predictions)]
            errors = [[scored.error_seconds(asked[p.question_id], p.generated) for p in clip] for clip in of_kind]
            intervals[kind] = bootstrap_statistic(errors, np.median, seed=seed).as_dict()
    given = {p.question_id: p.generated for p in predictions}
    questions, texts = [asked[name] for name in given], list(given.values())
    unanswered = [question for row in rows if row.id in lost for question in row.questions]
    result: dict[str, Any] = {
        "scores": scored.score(questions, texts, train) if questions else {},
        "scores_missing_wrong": scored.score(questions + unanswered, texts + [""] * len(unanswered), train),
        "intervals_95": intervals,
    }
    if any(p.ranked for p in predictions):
        result["ranking"] = ranking_scores(predictions, scored.normalise, seed)
        if classes := class_ranking(predictions, asked):
            result["class_ranking"] = classes
    if any(p.sound_answer is not None for p in predictions):
        known = [p for p in predictions if p.sound_answer is not None]
        of_known = {name: group for name, group in groups.items() if {p.kind for p in known} & set(group)}
        result["follows"] = follows(known, of_known, scored.normalise, seed)
    return result


def ranking_scores(predictions: Sequence[Prediction], normalise, seed: int = 0) -> dict[str, Any]:
    """Top-1 and top-5 accuracy of ranked options with intervals, by the sum of token log-probabilities and by mean."""
    kinds = {p.kind for p in predictions}

    def among(p: Prediction, field: str, count: int) -> bool:
        return normalise(p.answer) in {normalise(option) for option in getattr(p, field)[:count]}

    return {
        name: {
            f"top_{count}": share(predictions, partial(among, field=field, count=count), kinds, seed).as_dict()
            for count in (1, 5)
        }
        for name, field in (("sum", "ranked"), ("per_token", "ranked_per_token"))
    }  # fmt: skip


def class_ranking(predictions: Sequence[Prediction], asked: Mapping[str, Question]) -> dict[str, float]:
    """The metrics of ranked classes (mAP, mAUC, ...), where every question chooses among the same list of classes."""
    options = {asked[p.question_id].options for p in predictions}
    if len(options) != 1 or len(classes := next(iter(options))) <= len(predictions[0].ranked or ()):
        return {}
    scores = np.array([p.option_log_likelihoods for p in predictions])
    return ranked_metrics(scores, np.array([classes.index(p.answer) for p in predictions]))


def audit(shown: Mapping[str, Sequence[Prediction]], task: str, seed: int = 0) -> dict[str, Any]:
    """What the sound does: share of right answers with sound on, off, of another clip, and silent, on the clips that
    have sound, each with its interval over clips and the paired difference to sound on for the same questions."""
    scored = get_task(task)
    heard = [p for p in shown["both"] if p.sound_used]
    headline = scored.headline_among(dict.fromkeys(p.kind for p in heard))
    rows: dict[str, Any] = {}
    for name, predictions in {**shown, "both": heard}.items():
        same = {p.question_id for p in predictions}
        on = [p for p in heard if p.question_id in same]
        rows[name] = {
            "questions": sum(p.kind in headline for p in predictions),
            "right": share(predictions, lambda p: p.right, headline, seed).as_dict(),
            "minus_on": paired_difference([predictions], [on], headline, seed).as_dict(),
        }
    known = [p for p in shown.get("swapped", ()) if p.sound_answer is not None]
    if known:
        rows["swapped"]["follows"] = follows(known, {"all": headline}, scored.normalise, seed)["all"]
    return rows


def by_file(predictions: Sequence[Prediction]) -> list[list[Prediction]]:
    """Return the predictions grouped by file, in the order of first appearance: clips cut from one file are alike."""
    clips: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        clips.setdefault(prediction.unit, []).append(prediction)
    return list(clips.values())


def share(
    predictions: Sequence[Prediction], holds: Callable[[Prediction], bool], kinds: Collection[str], seed: int = 0
) -> Interval:
    """How often something holds among the questions of these kinds, with its interval over clips."""
    chosen = [[holds(p) for p in clip if p.kind in kinds] for clip in by_file(predictions)]
    totals, counts = (np.array([f(clip) for clip in chosen], dtype=np.float64) for f in (sum, len))
    return bootstrap_ratio(totals, counts, seed=seed)


def follows(
    predictions: Sequence[Prediction], groups: dict[str, list[str]], normalise, seed: int = 0
) -> dict[str, Any]:
    """Per kind: how often the answer is that of the picture's clip, that of the sound's clip, or neither."""

    def group_of(p: Prediction) -> str:
        said = normalise(p.generated)
        return (
            "picture" if said == normalise(p.answer) else "sound" if said == normalise(p.sound_answer) else "neither"
        )

    return {
        name: {
            part: share(predictions, lambda p, part=part: group_of(p) == part, kinds, seed).as_dict()  # type: ignore[misc]
            for part in ("picture", "sound", "neither")
        }
        for name, kinds in groups.items()
    }


def paired_difference(
    first: Sequence[Sequence[Prediction]], second: Sequence[Sequence[Prediction]], kinds: Sequence[str], seed: int = 0
) -> Interval:
    """Share right in `first` minus share right in `second`, clip by clip; several runs each (noise seeds) are pooled.

    The clip stays the unit: its questions under all seeds are resampled together.
    """
    if len(first) != len(second):
        raise ValueError(f"Expected as many runs on both sides, found {len(first)} and {len(second)}.")
    differences: dict[str, list[int]] = {}
    for sign, runs in ((1, first), (-1, second)):
        for prediction in (p for run in runs for p in run if p.kind in kinds):
            totals = differences.setdefault(prediction.unit, [0, 0])
            totals[0] += sign * prediction.right
            totals[1] += sign == 1
    sums, counts = np.array(list(differences.values()), dtype=np.float64).reshape(-1, 2).T
    return bootstrap_ratio(sums, counts, seed=seed)


def finite(value: Any) -> Any:
    """The same with None for infinite and undefined numbers, which JSON has no word for."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def describe(metrics: dict[str, Any], seconds: float | None = None) -> str:
    """The metrics as a short table for a terminal."""
    shown = Condition(metrics["condition"], metrics["noise_db"], metrics["noise_seed"] or 0).label
    clips, scored = metrics["clips"], get_task(metrics["task"])
    took = "" if seconds is None else f" in {seconds:.0f} s"
    lines = [f"{shown}: {clips['answered']} of {clips['asked']} clips answered{took}"]
    for name, interval in metrics["intervals_95"].items():
        if interval["value"] is None:
            continue
        if name in scored.time_kinds:
            entry = metrics["scores"][name]
            constant = entry.get("constant_median_error_seconds")
            beside = "" if constant is None else (
                f"; best constant {constant:.3f} s, {100 * entry['constant_within_0.1_seconds']:.0f} %"
            )  # fmt: skip
            within = 100 * entry["within_0.1_seconds"]
            lines.append(f"  {name:17s} median error {interval['value']:.3f} s, {within:.0f} % within 0.1 s{beside}")
        else:
            lines.append(f"  {name:17s} {in_percent(interval)}")
    metric = scored.headline
    if clips["answered"] < clips["asked"] and isinstance(metrics["scores"].get(metric), float):
        there, all_asked = (100 * metrics[name][metric] for name in ("scores", "scores_missing_wrong"))
        lines.append(f"  {metric}: {there:.1f} % on what is there, {all_asked:.1f} % with missing counted as wrong")
    for way, tops in metrics.get("ranking", {}).items():
        values = ", ".join(f"{name.replace('_', '-')} {in_percent(interval)}" for name, interval in tops.items())
        lines.append(f"  ranked by {'sum' if way == 'sum' else 'mean'} of token log-probabilities: {values}")
    if classes := metrics.get("class_ranking"):
        values = ", ".join(f"{name} {classes[name]:.3f}" for name in ("mAP", "mAUC", "d_prime"))
        lines.append(f"  ranked classes, by sum: {values}, mean class accuracy {classes['mean_class_accuracy']:.3f}")
    for name, parts in metrics.get("follows", {}).items():
        values = ", ".join(f"{part} {100 * interval['value']:.1f} %" for part, interval in parts.items())
        lines.append(f"  follows, {name}: {values}")
    for name, row in metrics.get("audit", {}).items():
        lines.append(f"  audit, {AUDIT_NAMES[name]:21s} {in_percent(row['right'])} of {row['questions']} questions")
    return "\n".join(lines)


def in_percent(interval: Mapping[str, Any]) -> str:
    """A share with its interval, for a line of text."""
    if interval["value"] is None:
        return "nothing to measure"
    value, low, high = (100 * interval[key] for key in ("value", "low", "high"))
    return f"{value:5.1f} %   [{low:.1f}, {high:.1f}]"
