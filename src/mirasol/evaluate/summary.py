"""From single predictions to metrics: the task's scores, intervals over clips, and what swapped answers follow."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mirasol.evaluate.bootstrap import Interval, bootstrap_ratio, bootstrap_statistic
from mirasol.evaluate.conditions import Condition
from mirasol.tasks import Question, Row, get_task


@dataclass(frozen=True)
class Prediction:
    """One answered question; `sound_answer` is the answer of the clip whose sound was put under the picture."""

    clip: str
    id: str
    kind: str
    question: str
    answer: str
    prediction: str
    right: bool
    confidence: float
    seconds: tuple[float, float] | None = None
    sound_answer: str | None = None


def as_question(prediction: Prediction) -> Question:
    """The question that was asked, for the task's own metrics."""
    return Question(prediction.id, prediction.question, prediction.answer, prediction.kind, prediction.seconds)


def summarise(
    predictions: Sequence[Prediction], task: str, train: Sequence[Row] = (), seed: int = 0
) -> dict[str, Any]:
    """`scores` as the task defines them, `intervals` over clips, and for swapped sound `follows`."""
    module = get_task(task)
    kinds = list(dict.fromkeys(p.kind for p in predictions))
    slots = [kind for kind in getattr(module, "SLOTS", ()) if kind in kinds]
    groups = ({"slots": slots} if slots else {}) | {kind: [kind] for kind in kinds if not kind.startswith("when_")}
    intervals = {name: share(predictions, lambda p: p.right, group, seed).as_dict() for name, group in groups.items()}
    for kind in kinds:
        if kind.startswith("when_"):
            of_kind = [[p for p in clip if p.kind == kind] for clip in by_clip(predictions)]
            errors = [[module.time_error(as_question(p), p.prediction) for p in clip] for clip in of_kind]
            intervals[kind] = bootstrap_statistic(errors, np.median, seed=seed).as_dict()
    scores = module.score([as_question(p) for p in predictions], [p.prediction for p in predictions], train)
    result: dict[str, Any] = {"scores": scores, "intervals_95": intervals}
    if any(p.sound_answer is not None for p in predictions):
        result["follows"] = follows(predictions, groups, module.normalise, seed)
    return result


def by_clip(predictions: Sequence[Prediction]) -> list[list[Prediction]]:
    """The predictions grouped by clip, in the order of first appearance."""
    clips: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        clips.setdefault(prediction.clip, []).append(prediction)
    return list(clips.values())


def share(
    predictions: Sequence[Prediction], holds: Callable[[Prediction], bool], kinds: Sequence[str], seed: int = 0
) -> Interval:
    """How often something holds among the questions of these kinds, with its interval over clips."""
    chosen = [[holds(p) for p in clip if p.kind in kinds] for clip in by_clip(predictions)]
    totals, counts = (np.array([f(clip) for clip in chosen], dtype=np.float64) for f in (sum, len))
    return bootstrap_ratio(totals, counts, seed=seed)


def follows(
    predictions: Sequence[Prediction], groups: dict[str, list[str]], normalise, seed: int = 0
) -> dict[str, Any]:
    """Per kind: how often the answer is that of the picture's clip, that of the sound's clip, or neither."""

    def group_of(p: Prediction) -> str:
        said = normalise(p.prediction)
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
            totals = differences.setdefault(prediction.clip, [0, 0])
            totals[0] += sign * prediction.right
            totals[1] += sign == 1
    sums, counts = np.array(list(differences.values()), dtype=np.float64).reshape(-1, 2).T
    return bootstrap_ratio(sums, counts, seed=seed)


def finite(value: Any) -> Any:
    """The same with None for infinite and undefined numbers, which JSON has no word for."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def describe(metrics: dict[str, Any]) -> str:
    """The metrics as a short table for a terminal."""
    shown = Condition(metrics["condition"], metrics["noise_db"], metrics["noise_seed"] or 0).label
    clips = metrics["clips"]
    lines = [f"{shown}: {clips['answered']} of {clips['asked']} clips answered in {metrics['seconds']:.0f} s"]
    for name, interval in metrics["intervals_95"].items():
        if interval["value"] is None:
            continue
        if name.startswith("when_"):
            entry = metrics["scores"][name]
            constant = entry.get("constant_median_error_seconds")
            beside = "" if constant is None else (
                f"; best constant {constant:.3f} s, {100 * entry['constant_within_0.1_seconds']:.0f} %"
            )  # fmt: skip
            within = 100 * entry["within_0.1_seconds"]
            lines.append(f"  {name:17s} median error {interval['value']:.3f} s, {within:.0f} % within 0.1 s{beside}")
        else:
            value, low, high = (100 * interval[key] for key in ("value", "low", "high"))
            lines.append(f"  {name:17s} {value:5.1f} %   [{low:.1f}, {high:.1f}]")
    for name, parts in metrics.get("follows", {}).items():
        values = ", ".join(f"{part} {100 * interval['value']:.1f} %" for part, interval in parts.items())
        lines.append(f"  follows, {name}: {values}")
    return "\n".join(lines)
