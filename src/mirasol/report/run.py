"""The report of one evaluation: scores with their intervals beside baselines and the paper's numbers, the audit of the
sound, and wrong answers with frames or sound, on one page that needs nothing else."""

import html
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from mirasol import __version__
from mirasol.evaluate.bootstrap import Interval
from mirasol.evaluate.conditions import Condition
from mirasol.evaluate.summary import AUDIT_NAMES, Prediction
from mirasol.files import REPORT, write_whole
from mirasol.media import Clip
from mirasol.report.drawing import image_uri, interval_plot, spectrogram_uri
from mirasol.report.page import facts_html, percent, render, shorten, table
from mirasol.tasks import Row, get_task, segment_of

NUM_FAILS = 12
NUM_PICTURES = 3  # of each clip with a wrong answer
PICTURE_SIZE = (160, 120)
BASELINES = {
    "majority": "most common answer",
    "majority_by_kind": "most common of each kind",
    "majority_by_question": "most common of each question",
    "ceiling": "answers known from train",
    "chance": "guessing among the options",
}


def write_report(
    folder: Path, metrics: Mapping[str, Any], predictions: Sequence[Prediction], rows: Sequence[Row], processor
) -> Path:
    """The path of report.html, written from the metrics and from the clips of some wrong answers."""
    task = get_task(metrics["task"])
    info, clips = task.info, metrics["clips"]
    main = metrics["scores"].get(task.headline)
    shown = Condition(metrics["condition"], metrics["noise_db"], metrics["noise_seed"] or 0).label
    fails = choose_fails([prediction for prediction in predictions if prediction.kind not in task.time_kinds])
    wrong = sum(not prediction.right for prediction in predictions)
    facts = {
        task.headline.replace("_", " "): f"{percent(main, 1)} %",
        "with missing clips counted as wrong": f"{percent(metrics['scores_missing_wrong'].get(task.headline), 1)} %",
        "clips answered": f"{clips['answered']:,} of {clips['asked']:,}",
        "of them with sound": f"{clips['with_sound']:,}",
        "questions answered": f"{len(predictions):,}",
    }
    name = info.title if info is not None else metrics["task"]
    path = folder / REPORT
    page = render(
        "run.html",
        title=html.escape(f"{name}: {metrics['split']}"),
        lead=html.escape(f"Shown as {shown}; answers {HOW[metrics['answers']]}."),
        warnings="".join(f'<div class="panel warning">{text}</div>' for text in page_warnings(clips)),
        facts=facts_html(facts),
        scores_note="Ranges are 95 % bootstrap intervals over clips. Baselines are measured on all questions, missing "
        "clips included.",
        scores=score_table(metrics, task.headline),
        paper=paper_html(info),
        times=times_html(metrics["scores"]),
        ranking=ranking_html(metrics.get("ranking", {}), metrics.get("class_ranking", {})),
        audit=audit_html(metrics.get("audit", {})),
        fails_note=f"{len(fails)} of {wrong:,}, those the model was surest of, from every kind of question in turn.",
        fails="".join(fail_html(fail, shown) for fail, shown in with_strips(fails, rows, processor)),
        about=about_html(info),
        checkpoint=html.escape(str(metrics["checkpoint"])),
        date=time.strftime("%Y-%m-%d"),
        software=f"mirasol {__version__}, Python {platform.python_version()}, PyTorch {torch.__version__}",
    )
    write_whole(path, page)
    return path


HOW = {
    "generated": "written by the model, right only if equal to the reference",
    "ranked": "the likeliest of the given options by the sum of its tokens' log-probabilities",
}


def page_warnings(clips: Mapping[str, Any]) -> Iterator[str]:
    """What a reader must know before the numbers."""
    for name, text in (("missing", "are missing"), ("unreadable", "could not be read")):
        if clips[name]:
            listed = html.escape(", ".join(list(clips[name])[:8]) + (" …" if len(clips[name]) > 8 else ""))
            yield f"{len(clips[name]):,} of {clips['asked']:,} clips {text}: {listed}"
    if clips["with_warnings"]:
        yield f"{clips['with_warnings']:,} clips gave warnings; <code>mirasol ask</code> shows those of a clip."


def score_table(metrics: Mapping[str, Any], metric: str) -> str:
    """Every score of the task, the main one first, with its interval and the same score of each baseline."""
    scores, beside = metrics["scores"], metrics["baselines"]
    names = [key for key, value in scores.items() if isinstance(value, float)]
    names.sort(key=lambda key: key != metric)
    missing = metrics["clips"]["answered"] < metrics["clips"]["asked"]
    head = ["<th>score</th>", "<th>measured</th>", '<th class="plot">0 to 100 %, dashed: best baseline</th>']
    head += ["<th>missing as wrong</th>"] * missing + [f"<th>{BASELINES[name]}</th>" for name in beside]
    lines = []
    for name in names:
        others = [beside[key].get(name) for key in beside]
        interval = interval_of(metrics["intervals_95"], name, metric, scores[name])
        floors = [v for key, v in zip(beside, others, strict=True) if v is not None and key != "ceiling"]
        plot = interval_plot(interval, max(floors)) if floors and not np.isnan(interval.value) else ""
        between = "" if np.isnan(interval.low) else f"{percent(interval.low, 1)} to {percent(interval.high, 1)}"
        cells = [f"<td>{html.escape(name)}</td>"]
        cells += [f'<td class="main">{percent(scores[name], 1)} %<span class="ci">{between}</span></td>']
        cells += [f'<td class="plot">{plot}</td>']
        cells += [f"<td>{percent(metrics['scores_missing_wrong'].get(name), 1)}</td>"] * missing
        lines.append(("", [*cells, *(f"<td>{percent(value, 1)}</td>" for value in others)]))
    return table(head, lines)


def interval_of(intervals: Mapping[str, Any], name: str, metric: str, value: float) -> Interval:
    """The interval of a score: that of its kind of question, where it is a plain share of right answers."""
    kind = name.removeprefix(f"{metric}_") if name != metric else next(iter(intervals), "")
    entry = intervals.get(kind, {})
    if entry.get("value") is None or abs(entry["value"] - value) > 1e-6:  # a score of another kind, such as WUPS
        return Interval(value, np.nan, np.nan, 0)
    return Interval(value, entry["low"], entry["high"], entry["clips"])


def paper_html(info) -> str:
    """The paper's numbers on this benchmark."""
    if info is None or not info.paper:
        return ""
    rows = [("", [f"<td>{html.escape(number.setting)}</td>", f"<td>{number.percent} %</td>",
                  f"<td>{'published' if number.is_certain else 'recalled, not confirmed'}</td>"])
            for number in info.paper]  # fmt: skip
    head = ["<th>Mirasol3B, the paper's model of 3 billion parameters</th>", "<th>test</th>", "<th></th>"]
    return f'<div class="panel scroll">{table(head, rows)}</div>'


def times_html(scores: Mapping[str, Any]) -> str:
    """Scores that are groups of numbers, such as errors in seconds."""
    groups = {name: value for name, value in scores.items() if isinstance(value, dict)}
    if not groups:
        return ""
    names = list(dict.fromkeys(key for value in groups.values() for key in value))
    rows = [("", [f"<td>{html.escape(group)}</td>", *(f"<td>{value.get(name, np.nan):.3f}</td>" for name in names)])
            for group, value in groups.items()]  # fmt: skip
    head = ["<th></th>", *(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in names)]
    return f'<div class="panel scroll">{table(head, rows)}</div>'


def ranking_html(ranking: Mapping[str, Any], classes: Mapping[str, float]) -> str:
    """Top-1 and top-5 by both ways of comparing options, and the metrics of ranked classes."""
    if not ranking:
        return ""
    names = {"sum": "sum of token log-probabilities", "per_token": "mean over tokens"}
    rows = [("", [f"<td>{names[way]}</td>", *(cell(tops[top]) for top in ("top_1", "top_5"))])
            for way, tops in ranking.items()]  # fmt: skip
    head = ["<th>options compared by</th>", "<th>top-1</th>", "<th>top-5</th>"]
    listed = ", ".join(f"{name} {'–' if value is None else f'{value:.3f}'}" for name, value in classes.items())
    note = f"<p>Ranked classes, by the sum: {listed}.</p>" if classes else ""
    return f'<h2>Ranked options</h2><div class="panel scroll">{table(head, rows)}</div>{note}'


def audit_html(audit: Mapping[str, Any]) -> str:
    """Sound on, off, swapped, silent: right answers, and the paired difference to sound on."""
    if not audit:
        return ""
    rows = []
    for name, entry in audit.items():
        minus = entry["minus_on"]
        change = "–" if name == "both" or minus["value"] is None else f"{100 * minus['value']:+.1f} points" + (
            f'<span class="ci">{100 * minus["low"]:+.1f} to {100 * minus["high"]:+.1f}</span>')  # fmt: skip
        cells = [f"<td>{AUDIT_NAMES[name]}</td>", cell(entry["right"]), f"<td>{change}</td>"]
        rows.append(("", [*cells, f"<td>{entry['questions']:,}</td>"]))
    head = ["<th>audit: what the model hears</th>", "<th>right</th>", "<th>against sound on</th>"]
    note = (
        "On clips that have sound. The difference is taken on the same questions, clip by clip. Where the sound of "
        "another clip has the same answer, the question is left out, because it could not tell which was followed."
    )
    page = table([*head, "<th>questions</th>"], rows)
    return f'<h2>Does the sound matter?</h2><p>{note}</p><div class="panel scroll">{page}</div>'


def cell(entry: Mapping[str, Any]) -> str:
    """A share with its interval as a cell of a table."""
    if entry["value"] is None:
        return "<td>–</td>"
    between = f'<span class="ci">{percent(entry["low"], 1)} to {percent(entry["high"], 1)}</span>'
    return f'<td class="main">{percent(entry["value"], 1)} %{between}</td>'


def choose_fails(predictions: Sequence[Prediction], count: int = NUM_FAILS) -> list[Prediction]:
    """Wrong answers to look at: the surest of each kind of question in turn, each clip once."""
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


def with_strips(fails: Sequence[Prediction], rows: Sequence[Row], processor) -> Iterator[tuple[Prediction, str]]:
    """Each wrong answer with what there is of its clip: some frames, or where there is no picture, its sound in
    colours."""
    places = {row.id: row for row in rows}
    for fail in fails:
        row = places[fail.clip]
        try:
            shown = strip(processor.read_clip(row.media, do_resize=False, warn=False, **segment_of(row)), processor)
        except (ValueError, OSError):
            shown = "<div class=none>cannot be read</div>"
        yield fail, shown


def strip(clip: Clip, processor) -> str:
    """Frames side by side, or the log-mel of a clip without any."""
    if clip.frames is not None:
        shown = [clip.frames[int((place + 0.5) * len(clip.frames) / NUM_PICTURES)] for place in range(NUM_PICTURES)]
        return "".join(f'<img src="{image_uri(fit(picture), PICTURE_SIZE)}" alt="">' for picture in shown)
    inputs = processor.chunk_clip(clip)  # as many columns as the model hears, however long the sound is
    heard = inputs["audio_chunk_mask"]
    mel = inputs["input_features"][heard].flatten(0, 1).numpy()
    share = min(clip.duration / float(inputs["chunk_times"][heard].max()), 1.0)  # the last chunk is filled up
    mel = mel[: max(round(share * len(mel)), 1)]
    return f'<img class="sound" src="{spectrogram_uri(mel)}" alt="spectrogram">'


def fail_html(fail: Prediction, shown: str) -> str:
    """One wrong answer."""
    ranked = f"<small>then: {shorten(', '.join(fail.ranked[1:]))}</small>" if fail.ranked else ""
    return (
        f'<div class="fail"><div class="strip">{shown}</div>'
        f'{shorten(fail.question, 200)}<br><span class="mark no">✗</span><span class="answer">'
        f'{shorten(fail.generated)}</span> <span class="was">true: {html.escape(fail.answer)}</span>'
        f"<small>{html.escape(fail.kind)} · confidence {percent(fail.confidence)} % · clip {html.escape(fail.clip)}"
        f"</small>{ranked}</div>"
    )


def fit(picture: UInt8[np.ndarray, "height width channel"]) -> UInt8[np.ndarray, "shown_height shown_width channel"]:
    """The middle of the picture in the shape of the thumbnails."""
    height, width = picture.shape[:2]
    wide = min(width, round(height * PICTURE_SIZE[0] / PICTURE_SIZE[1]))
    high = min(height, round(width * PICTURE_SIZE[1] / PICTURE_SIZE[0]))
    top, left = (height - high) // 2, (width - wide) // 2
    return np.ascontiguousarray(picture[top : top + high, left : left + wide])


def about_html(info) -> str:
    """What the benchmark is and what its scores rest on."""
    if info is None:
        return ""
    facts = {
        name: getattr(info, name) for name in ("source", "licence", "prompt", "normalisation", "metric", "versions")
    }
    items = "".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in facts.items())
    return f'<h2>The benchmark</h2><div class="panel"><dl>{items}</dl></div>'
