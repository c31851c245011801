"""Report of one evaluation on a self-contained page: scores with intervals beside baselines and the paper's numbers,
conditions compared, and wrong answers with frames or sound."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirasol.evaluate.bootstrap import Interval
from mirasol.evaluate.results import Clips, Evaluation, Group, Metrics, cut_sentence
from mirasol.files import REPORT, write_whole
from mirasol.report.fails import choose_fails, look_at
from mirasol.tasks import get_task

HOW = {
    "generated": "generated as text",
    "ranked": "the likeliest of the given options, by the sum of its tokens' log-probabilities",
}


@dataclass(frozen=True)
class ScoreRow:
    """One score with its interval, the best baseline (`floor`), and the score of each baseline."""

    name: str
    interval: Interval
    missing_wrong: float | None
    floor: float | None
    baselines: list[float | None]


def write_report(evaluation: Evaluation) -> Path | None:
    """Write report.html into the evaluation's folder and return its path; without Pillow, warn and return None."""
    try:
        from mirasol.report.page import percent, render  # needs Pillow, an extra
    except ValueError as error:
        warnings.warn(f"No report is written: {error}", stacklevel=2)
        return None
    metrics, predictions = evaluation.metrics, evaluation.predictions
    task, clips = get_task(metrics.task), metrics.clips
    both = (metrics.scores, metrics.scores_missing_wrong)
    main, all_asked = (_number(scores.get(task.headline)) for scores in both)
    matched = [prediction for prediction in predictions if prediction.kind not in task.time_kinds]
    facts = {task.headline.replace("_", " "): f"{percent(main, 1)} %"}
    if clips.answered < clips.asked:
        facts["with missing clips counted as wrong"] = f"{percent(all_asked, 1)} %"
    facts |= {
        "clips answered": f"{clips.answered:,} of {clips.asked:,}",
        "of them with sound": f"{clips.with_sound:,}" + (f", {clips.silent:,} of it silent" if clips.silent else ""),
        "questions answered": f"{len(predictions):,}",
    }
    page = render(
        "run.html",
        title=f"{metrics.task if task.info is None else task.info.title}: {metrics.split}",
        metrics=metrics,
        info=task.info,
        main=main,
        how=HOW[metrics.answers],
        checkpoint=metrics.checkpoint,
        warnings=list(page_warnings(metrics)),
        facts=facts,
        some_missing=clips.answered < clips.asked,
        scores=score_rows(metrics, task.headline),
        times={name: value for name, value in metrics.scores.items() if isinstance(value, dict)},
        num_wrong=sum(not prediction.right for prediction in matched),
        fails=list(look_at(choose_fails(matched), evaluation)),
        groups=group_tables(metrics),
    )
    path = Path(evaluation.output or ".") / REPORT
    write_whole(path, page)
    return path


def group_tables(metrics: Metrics) -> dict[str, list[Group]]:
    """Return the groups to show: recurring questions, and kinds unless these are the same groups."""
    questions = {"each question": metrics.questions} if metrics.questions else {}
    kinds, texts = (sorted((g.kind, g.questions) for g in groups) for groups in (metrics.kinds, metrics.questions))
    return questions if kinds == texts else {"each kind of question": metrics.kinds, **questions}


def clip_warnings(clips: Clips) -> Iterator[str]:
    """Yield a sentence for each reason why clips are left out."""
    for names, text in ((clips.missing, "are missing"), (list(clips.unreadable), "could not be read")):
        if names:
            listed = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
            yield f"{len(names):,} of {clips.asked:,} clips {text}: {listed}"


def page_warnings(metrics: Metrics) -> Iterator[str]:
    """Yield the warnings that a reader needs before the numbers."""
    if metrics.coverage is not None and metrics.coverage.measured < metrics.coverage.published:
        yield f"Scores of {metrics.coverage}: not comparable with results on the whole split."
    yield from clip_warnings(metrics.clips)
    if metrics.clips.with_warnings:
        yield f"{metrics.clips.with_warnings:,} clips gave warnings; `mirasol ask` shows those of a clip."
    if metrics.cut_answers:
        yield f"{cut_sentence(metrics.cut_answers)} before an end token. Raise --max-new-tokens."


def score_rows(metrics: Metrics, headline: str) -> list[ScoreRow]:
    """Return a row for every score of the task, the headline first."""
    values = {name: value for name, value in metrics.scores.items() if isinstance(value, float)}
    rows = []
    for name in sorted(values, key=lambda name: name != headline):
        others = {key: _number(scores.get(name)) for key, scores in metrics.baselines.items()}
        floors = [value for key, value in others.items() if value is not None and key != "ceiling"]
        interval = interval_of(metrics.intervals_95, name, headline, values[name])
        missing_wrong = _number(metrics.scores_missing_wrong.get(name))
        rows.append(ScoreRow(name, interval, missing_wrong, max(floors, default=None), list(others.values())))
    return rows


def _number(value: Any) -> float | None:
    return value if isinstance(value, float) else None


def interval_of(intervals: Mapping[str, Interval], name: str, headline: str, value: float) -> Interval:
    """Return the interval of a score if it is that of its kind of question, else a value without an interval."""
    kind = name.removeprefix(f"{headline}_") if name != headline else next(iter(intervals), "")
    entry = intervals.get(kind)
    if entry is None or not abs(entry.value - value) <= 1e-6:  # no share of right answers, as WUPS
        return Interval(value, np.nan, np.nan, 0)
    return entry
