"""`mirasol demo`: measures a checkpoint on GRID clips it never saw and tells the result on one page."""

import html
import os
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange

from mirasol import DEFAULT_CHECKPOINT, __version__
from mirasol.answer.answerer import Answerer
from mirasol.answer.attribution import METHODS
from mirasol.evaluate.attribution import RestsOnShare, measure_rests_on
from mirasol.evaluate.bootstrap import Interval
from mirasol.evaluate.conditions import CONDITIONS, Condition, swap_partners
from mirasol.evaluate.runner import Evaluation, evaluate_rows, train_rows
from mirasol.evaluate.summary import Prediction
from mirasol.files import GRID_ROOT, REPORT, write_whole
from mirasol.report.labelled_sets import measure_sets, sets_html
from mirasol.report.page import (
    AccuracyRow,
    Answered,
    Story,
    accuracy_table,
    facts_html,
    percent,
    render,
    story_html,
    swapped_bars,
    times_table,
)
from mirasol.tasks import Row, get_task, grid

NUM_STORIES = 5
SHOWN_AS = ("both", "sound", "picture", "swapped")
HIDDEN_KINDS = ("when_command", "when_color", "when_preposition", "when_adverb")  # two of the six are enough to see
NUM_RESTS_ON_CLIPS = 24  # leaving out every chunk in turn encodes a clip as often as it has chunks


@dataclass
class Demo:
    """Where the report is and what it says."""

    report: str
    accuracy: dict[str, dict[str, Any]]
    follows: dict[str, Any]
    sets: dict[str, dict[str, Any]]
    rests_on: list[dict[str, Any]]
    seconds: float
    try_next: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The same, for JSON."""
        return dict(vars(self))

    def __str__(self) -> str:
        lines = [measured(CONDITIONS[name], "word slots", entry) for name, entry in self.accuracy.items()]
        sound, picture = (100 * self.follows["slots"][part]["value"] for part in ("sound", "picture"))
        lines += [f"  {'swapped sound':21s} {sound:5.1f} % follow the sound, {picture:.1f} % the picture"]
        lines += [measured(name, "clips", entry) for name, entry in self.sets.items()] + [""]
        lines += [f"report: {self.report}  ({self.seconds:.0f} s)", "", "try next:"]
        return "\n".join(lines + [f"  {command}" for command in self.try_next])


def measured(name: str, what: str, entry: dict[str, Any]) -> str:
    """A line of the summary."""
    value, low, high = (100 * entry[key] for key in ("value", "low", "high"))
    return f"  {name:21s} {value:5.1f} % of {what} right [{low:.1f}, {high:.1f}]"


def demo(
    checkpoint: str | Path | None = None,
    root: str | Path = GRID_ROOT,
    output: str | Path = REPORT,
    max_clips: int | None = None,
) -> Demo:
    """Measures on the GRID test clips with picture and sound, either alone, and swapped sound, and the shipped
    checkpoint on the labelled sets that lie beside GRID too; writes the page."""
    start = time.perf_counter()
    root = Path(root)
    rows: list[grid.GridRow] = get_task("grid").load(root, "test")[:max_clips]  # type: ignore[assignment]
    answerer = Answerer.load(checkpoint)
    # The four ways of showing are compared clip by clip, so all of them get the same clips.
    runs = {name: evaluate_rows(answerer, rows, Condition(name), root=root) for name in SHOWN_AS}
    rests_on = measure_rests_on(answerer, rows[:NUM_RESTS_ON_CLIPS])
    method = better_method(rests_on)
    sets = measure_sets(answerer, root.parent, max_clips) if checkpoint is None else {}
    stories = [
        tell(answerer, row, rows, runs, method) for row in choose_stories(rows, runs["both"].predictions, NUM_STORIES)
    ]
    accuracy = {name: runs[name].metrics["intervals_95"]["slots"] for name in ("both", "sound", "picture")}
    path = Path(output).resolve()
    follows, shares = runs["swapped"].metrics["follows"], [share.as_dict() for share in rests_on]
    seconds, commands = round(time.perf_counter() - start, 1), next_commands(root, rows, checkpoint)
    result = Demo(str(path), accuracy, follows, sets, shares, seconds, commands)
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = chance_levels(train_rows("grid", root) or rows)  # type: ignore[arg-type]
    write_whole(path, page(answerer.model, runs, stories, rests_on, method, result, chance, checkpoint))
    return result


def better_method(shares: Sequence[RestsOnShare]) -> str:
    """Cross-attention where it is on the asked word in at least 60 % of right answers, else leaving chunks out."""
    attention = next(share for share in shares if share.method == "attention")
    return "attention" if attention.share.value >= 0.6 else "leave_one_out"


def choose_stories(rows: Sequence[grid.GridRow], predictions: Sequence[Prediction], count: int) -> list[grid.GridRow]:
    """Clips to tell about, from the one with the fewest mistakes to the one with the most, evenly between."""
    mistakes = {row.id: 0 for row in rows}
    for prediction in predictions:
        mistakes[prediction.clip] += not prediction.right
    ranked = sorted(rows, key=lambda row: mistakes[row.id])
    places = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
    return [ranked[i] for i in dict.fromkeys(places.tolist())]


def tell(
    answerer: Answerer, row: grid.GridRow, rows: Sequence[grid.GridRow], runs: dict[str, Evaluation], method: str
) -> Story:
    """The clip along its seconds, with its questions answered from picture and sound."""
    processor = answerer.processor
    clip = processor.read_clip(row.media, do_resize=False)
    given = [p for p in runs["both"].predictions if p.clip == row.id and p.kind not in HIDDEN_KINDS]
    watched, asked = answerer.watch(clip), [[p.question for p in given]]
    (weights,) = answerer.attribute(watched, asked, answerer.answer(watched, asked), method)
    encoder_outputs = watched.encoder_outputs
    chunk_times = encoder_outputs.chunk_times[0].cpu().numpy()
    middles = [int(np.searchsorted(clip.frame_times, t, side="right")) - 1 for t in chunk_times.mean(axis=1)]
    features = processor.feature_extractor(clip.waveform, sampling_rate=clip.sampling_rate)["input_features"]
    surprise = encoder_outputs.surprise[0].float().cpu().numpy()
    surprise[0] = np.nan  # nothing came before the first chunk, so nothing expected it
    partner = rows[swap_partners(rows, grid.SLOTS)[[r.id for r in rows].index(row.id)][0]]
    return Story(
        id=row.id,
        sentence=" ".join(row.words),
        duration=float(clip.duration),
        frames=[clip.frames[max(i, 0)] for i in middles],
        mel=rearrange(np.asarray(features), "1 mel_frame mel -> mel_frame mel"),
        words=[(word, *seconds) for word, seconds in zip(row.words, row.word_times, strict=True)],
        chunk_times=chunk_times,
        surprise=surprise,
        answers=[
            Answered(p.question, p.answer, p.generated, p.right, p.confidence, w, p.seconds, otherwise(p, runs))
            for p, w in zip(given, weights.cpu().numpy(), strict=True)
        ],
        swapped_sentence=" ".join(partner.words),
    )


def otherwise(prediction: Prediction, runs: dict[str, Evaluation]) -> dict[str, str]:
    """What was answered to the same question under the other conditions, where it was something else."""
    names = {"sound": "sound only", "picture": "picture only", "swapped": "swapped sound"}
    said = {
        names[key]: p.generated
        for key in names
        for p in runs[key].predictions
        if p.question_id == prediction.question_id
    }
    return {name: answer for name, answer in said.items() if answer != prediction.generated}


def chance_levels(rows: Sequence[grid.GridRow]) -> dict[str, float]:
    """Per slot, how often a guess among its words is right."""
    return {slot: 1 / len({row.words[i] for row in rows}) for i, slot in enumerate(grid.SLOTS)}


def accuracy_rows(runs: dict[str, Evaluation]) -> list[AccuracyRow]:
    """The table's lines: one for each way of showing the clips as they are."""
    lines = []
    for name in ("both", "sound", "picture"):
        scores, intervals = runs[name].metrics["scores"], runs[name].metrics["intervals_95"]
        kinds = {kind: scores.get(kind) for kind in (*grid.SLOTS, "sentence", "said_at")}
        lines.append(AccuracyRow(CONDITIONS[name], to_interval(intervals["slots"]), kinds))
    return lines


def to_interval(entry: dict[str, Any]) -> Interval:
    value, low, high = (np.nan if entry[key] is None else entry[key] for key in ("value", "low", "high"))
    return Interval(value, low, high, entry["clips"])


def next_commands(root: Path, rows: Sequence[Row], checkpoint: str | Path | None) -> list[str]:
    """Three commands that work where this one did."""
    beside = Path(sys.executable).with_name("mirasol")
    name = "mirasol" if shutil.which("mirasol") or not beside.exists() else os.path.relpath(beside)
    option = "" if checkpoint is None else f" --checkpoint {checkpoint}"
    recipe = Path("recipes/grid_nano.yaml")  # beside a checkout, not inside the wheel
    third = f"train {recipe} output=runs/mine" if recipe.is_file() else f"info {checkpoint or DEFAULT_CHECKPOINT}"
    return [
        f'{name} ask {rows[0].media} "what is said at 1.4 seconds?"{option}',
        f"{name} evaluate --root {root} --split val --condition sound --noise-db -10{option}",
        f"{name} {third}",
    ]


def page(
    model,
    runs: dict[str, Evaluation],
    stories: Sequence[Story],
    rests_on: Sequence[RestsOnShare],
    method: str,
    result: Demo,
    chance: dict[str, float],
    checkpoint: str | Path | None,
) -> str:
    """The report as HTML."""
    both, follows = runs["both"].metrics, runs["swapped"].metrics["follows"]
    accuracy, clips = to_interval(both["intervals_95"]["slots"]), both["clips"]
    parameters = f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f}"
    kinds = {"all word slots": "slots", **{kind: kind for kind in grid.SLOTS if kind in follows}}
    parts = ("sound", "picture", "neither")
    facts = {
        "words right, picture + sound": f"{percent(accuracy.value, 1)} %",
        "parameters": f"{parameters} M",
        "unseen clips of 3 seconds": f"{clips['answered']}",
        "answers": f"{sum(len(run.predictions) for run in runs.values()):,}",
        f"on {os.cpu_count()} CPU cores": f"{result.seconds:.0f} s",
    }
    return render(
        parameters=parameters,
        num_clips=str(clips["answered"]),
        warnings="".join(
            f'<div class="panel warning">{text}</div>' for text in page_warnings(accuracy, chance, clips)
        ),
        facts=facts_html(facts),
        accuracy=accuracy_table(accuracy_rows(runs), chance),
        times=times_table({slot: both["scores"][f"when_{slot}"] for slot in grid.SLOTS}),
        **{f"follows_{part}": percent(follows["slots"][part]["value"]) for part in parts},
        swapped=swapped_bars({k: {part: follows[v][part]["value"] for part in parts} for k, v in kinds.items()}),
        sets=sets_html(result.sets),
        weights_are=METHODS[method],
        rests_on=rests_on_text(rests_on),
        clips="".join(story_html(story) for story in stories),
        commands="\n".join(html.escape(command) for command in result.try_next),
        checkpoint=html.escape(str(checkpoint or f"{DEFAULT_CHECKPOINT.name}, shipped with mirasol")),
        date=time.strftime("%Y-%m-%d"),
        software=f"mirasol {__version__}, Python {platform.python_version()}, PyTorch {torch.__version__}",
    )


def page_warnings(accuracy: Interval, chance: dict[str, float], clips: dict[str, Any]) -> list[str]:
    """What a reader must know before the numbers."""
    found = []
    if not accuracy.low > float(np.mean(list(chance.values()))):
        found.append(
            "<b>This checkpoint answers no better than chance.</b> It is untrained, or was trained on something else: "
            "the page only shows that every part runs."
        )
    if clips["unreadable"]:
        found.append(
            f"{len(clips['unreadable'])} clips could not be read: {html.escape(', '.join(clips['unreadable']))}"
        )
    return found


def rests_on_text(shares: Sequence[RestsOnShare]) -> str:
    """How often either method points at the asked word, beside a choice at random."""
    attention, without = (percent(share.share.value) for share in shares)
    if not shares[0].num_answers:
        return "No answer was right, so where it rests on cannot be judged."
    return (
        f"The highest bar touches the asked word (within 0.16 s) in {attention} % of right answers by cross-attention "
        f"and in {without} % by leaving each chunk out; a chunk chosen at random would in "
        f"{percent(shares[0].uniform_choice)} % (measured on {shares[0].num_answers} right answers)."
    )
