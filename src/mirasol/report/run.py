"""The report of one evaluation: scores with their intervals beside baselines and the paper's numbers, conditions
beside each other, and wrong answers with frames or sound, on one page that needs nothing else."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from mirasol.evaluate.bootstrap import Interval
from mirasol.evaluate.results import Clips, Evaluation, Metrics, Prediction
from mirasol.features import MirasolFeatureExtractor
from mirasol.files import REPORT, write_whole
from mirasol.media import Clip, MediaInfo, read_clip
from mirasol.tasks import Row, get_task, segment_of

NUM_FAILS = 12
NUM_PICTURES = 3  # of each clip with a wrong answer
PICTURE_SIZE = (160, 120)
MAX_COLUMNS = 2048  # of a spectrogram
HOW = {
    "generated": "written by the model, right only if equal to the reference",
    "ranked": "the likeliest of the given options by the sum of its tokens' log-probabilities",
}


@dataclass(frozen=True)
class ScoreRow:
    """One score with its interval, the best baseline to compare it with, and the same score of each baseline."""

    name: str
    interval: Interval
    missing_wrong: float | None
    floor: float | None
    baselines: list[float | None]


@dataclass(frozen=True)
class Shown:
    """A picture of a clip as a data URI; `sound`: of its spectrogram."""

    data: str
    sound: bool = False


def write_report(evaluation: Evaluation) -> Path | None:
    """Return the path of report.html in the evaluation's folder; warn and write none where Pillow is not installed."""
    try:
        from mirasol.report.page import render  # needs Pillow, an extra
    except ValueError as error:
        warnings.warn(f"No report is written: {error}", stacklevel=2)
        return None
    metrics, predictions = evaluation.metrics, evaluation.predictions
    task, clips = get_task(metrics.task), metrics.clips
    main, all_asked = (scores.get(task.headline) for scores in (metrics.scores, metrics.scores_missing_wrong))
    matched = [prediction for prediction in predictions if prediction.kind not in task.time_kinds]
    facts = {
        task.headline.replace("_", " "): f"{in_percent(main)} %",
        "with missing clips counted as wrong": f"{in_percent(all_asked)} %",
        "clips answered": f"{clips.answered:,} of {clips.asked:,}",
        "of them with sound": f"{clips.with_sound:,}",
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
        num_wrong=sum(not prediction.right for prediction in predictions),
        fails=list(with_pictures(choose_fails(matched), evaluation.rows)),
    )
    path = Path(evaluation.output or ".") / REPORT
    write_whole(path, page)
    return path


def in_percent(value: Any) -> str:
    """Return a score in percent, a dash where the task gave none."""
    return f"{100 * value:.1f}" if isinstance(value, float) else "–"


def clip_warnings(clips: Clips) -> Iterator[str]:
    """Give a sentence for each reason why clips are not in the numbers."""
    for names, text in ((clips.missing, "are missing"), (list(clips.unreadable), "could not be read")):
        if names:
            listed = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
            yield f"{len(names):,} of {clips.asked:,} clips {text}: {listed}"


def page_warnings(metrics: Metrics) -> Iterator[str]:
    """Give what a reader must know before the numbers."""
    if metrics.coverage is not None and metrics.coverage.measured < metrics.coverage.published:
        yield f"These are scores of {metrics.coverage}: not comparable with results on the whole split."
    yield from clip_warnings(metrics.clips)
    if metrics.clips.with_warnings:
        yield f"{metrics.clips.with_warnings:,} clips gave warnings; `mirasol ask` shows those of a clip."
    if metrics.cut_answers:
        yield f"{metrics.cut_answers:,} answers reached the limit of tokens before the model had closed them."


def score_rows(metrics: Metrics, headline: str) -> list[ScoreRow]:
    """Return every score of the task, the headline first."""
    names = [name for name, value in metrics.scores.items() if isinstance(value, float)]
    rows = []
    for name in sorted(names, key=lambda name: name != headline):
        others = {key: _number(scores.get(name)) for key, scores in metrics.baselines.items()}
        floors = [value for key, value in others.items() if value is not None and key != "ceiling"]
        interval = interval_of(metrics.intervals_95, name, headline, metrics.scores[name])  # type: ignore[arg-type]
        missing_wrong = _number(metrics.scores_missing_wrong.get(name))
        rows.append(ScoreRow(name, interval, missing_wrong, max(floors, default=None), list(others.values())))
    return rows


def _number(value: Any) -> float | None:
    return value if isinstance(value, float) else None


def interval_of(intervals: Mapping[str, Interval], name: str, headline: str, value: float) -> Interval:
    """Return the interval of a score: that of its kind of question, where it is a plain share of right answers."""
    kind = name.removeprefix(f"{headline}_") if name != headline else next(iter(intervals), "")
    entry = intervals.get(kind)
    if entry is None or not abs(entry.value - value) <= 1e-6:  # a score of another kind, such as WUPS
        return Interval(value, np.nan, np.nan, 0)
    return entry


def choose_fails(predictions: Sequence[Prediction], count: int = NUM_FAILS) -> list[Prediction]:
    """Return wrong answers to look at: the surest of each kind of question in turn, each clip once."""
    by_kind: dict[str, list[Prediction]] = {}
    for prediction in sorted(predictions, key=lambda p: -p.confidence):
        if not prediction.right:
            by_kind.setdefault(prediction.kind, []).append(prediction)
    chosen: dict[str, Prediction] = {}
    while len(chosen) < count and any(by_kind.values()):
        for found in by_kind.values():
            while found and found[0].clip in chosen:
                found.pop(0)
            if found:
                first = found.pop(0)
                chosen[first.clip] = first
    return list(chosen.values())[:count]


def with_pictures(fails: Sequence[Prediction], rows: Sequence[Row]) -> Iterator[tuple[Prediction, list[Shown]]]:
    """Give each wrong answer with frames of its clip, or with its spectrogram; with nothing if it is unreadable."""
    places = {row.id: row for row in rows}

    def select(info: MediaInfo) -> np.ndarray:
        return (np.arange(NUM_PICTURES) + 0.5) / NUM_PICTURES * info.duration_seconds

    for fail in fails:
        row = places[fail.clip]
        try:
            yield fail, pictures(read_clip(row.media, select=select, warn=False, **segment_of(row)))
        except (ValueError, OSError):
            yield fail, []


def pictures(clip: Clip) -> list[Shown]:
    """Return frames side by side, or the log-mel of a clip without any."""
    from mirasol.report.drawing import image_uri, spectrogram_uri

    if clip.frames is not None:
        return [Shown(image_uri(fit(frame), PICTURE_SIZE)) for frame in clip.frames]
    mel = MirasolFeatureExtractor()(clip.waveform, sampling_rate=clip.sampling_rate)["input_features"][0]
    return [Shown(spectrogram_uri(fewer_columns(np.asarray(mel))), sound=True)]


def fewer_columns(mel: Float[np.ndarray, "mel_frame mel"]) -> Float[np.ndarray, "shown mel"]:
    """Return the log-mel with neighbouring columns averaged where there are more than a picture shows."""
    return np.stack([part.mean(axis=0) for part in np.array_split(mel, min(len(mel), MAX_COLUMNS))])


def fit(picture: UInt8[np.ndarray, "height width channel"]) -> UInt8[np.ndarray, "shown_height shown_width channel"]:
    """Return the middle of the picture in the shape of the thumbnails."""
    height, width = picture.shape[:2]
    wide = min(width, round(height * PICTURE_SIZE[0] / PICTURE_SIZE[1]))
    high = min(height, round(width * PICTURE_SIZE[1] / PICTURE_SIZE[0]))
    top, left = (height - high) // 2, (width - wide) // 2
    return np.ascontiguousarray(picture[top : top + high, left : left + wide])
