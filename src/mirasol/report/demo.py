"""`mirasol demo`: evaluate a checkpoint on GRID clips that it was not trained on, and show the result on one page."""

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from mirasol import DEFAULT_CHECKPOINT
from mirasol.answer.answerer import Answerer
from mirasol.evaluate.attribution import AttributionShare, measure_attribution
from mirasol.evaluate.bootstrap import Interval
from mirasol.evaluate.conditions import CONDITIONS, Condition, swap_partners
from mirasol.evaluate.results import Clips, Evaluation, Follows, Prediction
from mirasol.evaluate.runner import evaluate_here, train_rows
from mirasol.files import GRID_ROOT, REPORT, write_whole
from mirasol.report.labelled_sets import SetResult, measure_sets
from mirasol.report.page import Answered, Story, percent, render
from mirasol.report.run import clip_warnings
from mirasol.results import Document
from mirasol.tasks import Row, get_task, grid

NUM_STORIES = 5
SHOWN_AS = ("both", "sound", "picture", "swapped")
HIDDEN_KINDS = ("when_command", "when_color", "when_preposition", "when_adverb")  # the page shows two of six
KINDS = (*grid.WORD_KINDS, "sentence", "said_at")  # columns of the table
NUM_ATTRIBUTED_CLIPS = 24


class Demo(Document):
    """Result of the demo: path of the page and its numbers."""

    report: str
    accuracy: dict[str, Interval]
    follows: Follows
    sets: dict[str, SetResult]
    attribution: list[AttributionShare]
    seconds: float
    try_next: list[str] = []

    def __str__(self) -> str:
        lines = [f"  {CONDITIONS[name]:21s} {right} of words right" for name, right in self.accuracy.items()]
        sound, picture = (100 * part.value for part in (self.follows.sound, self.follows.picture))
        lines += [f"  {'swapped sound':21s} {sound:5.1f} % follow the sound, {picture:.1f} % the picture"]
        lines += [f"  {name:21s} {entry.right} of clips right" for name, entry in self.sets.items()] + [""]
        lines += [f"report: {self.report}  ({self.seconds:.0f} s)", "", "try next:"]
        return "\n".join(lines + [f"  {command}" for command in self.try_next])


def demo(
    checkpoint: str | Path | None = None,
    root: str | Path = GRID_ROOT,
    output: str | Path = REPORT,
    max_clips: int | None = None,
) -> Demo:
    """Evaluate on the GRID test clips with both modalities, each alone, and swapped sound, and write the page.

    The shipped checkpoint is also evaluated on the labelled sets in folders beside GRID.
    """
    start = time.perf_counter()
    root = Path(root)
    rows: list[grid.GridRow] = get_task("grid").load(root, "test")[:max_clips]  # type: ignore[assignment]  # its own rows
    answerer = Answerer.load(checkpoint)
    # All four conditions get the same clips, because they are compared clip by clip.
    runs = {name: evaluate_here(answerer, rows, Condition(name), root=root) for name in SHOWN_AS}
    attribution = measure_attribution(answerer, rows[:NUM_ATTRIBUTED_CLIPS])
    sets = measure_sets(answerer, root.parent, max_clips) if checkpoint is None else {}
    stories = [tell(answerer, row, rows, runs) for row in choose_stories(rows, runs["both"].predictions, NUM_STORIES)]
    accuracy = {name: runs[name].metrics.intervals_95["words"] for name in ("both", "sound", "picture")}
    path = Path(output).resolve()
    result = Demo(
        report=str(path), accuracy=accuracy, follows=runs["swapped"].metrics.follows["words"], sets=sets,
        attribution=[attribution], seconds=round(time.perf_counter() - start, 1),
        try_next=next_commands(root, rows, checkpoint),
    )  # fmt: skip
    chance = chance_levels(train_rows("grid", root) or rows)  # type: ignore[arg-type]  # its own rows
    write_whole(path, page(answerer.model, runs, stories, result, chance, checkpoint))
    return result


def choose_stories(rows: Sequence[grid.GridRow], predictions: Sequence[Prediction], count: int) -> list[grid.GridRow]:
    """Choose clips at even ranks from the fewest mistakes to the most."""
    mistakes = {row.id: 0 for row in rows}
    for prediction in predictions:
        mistakes[prediction.clip] += not prediction.right
    ranked = sorted(rows, key=lambda row: mistakes[row.id])
    places = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
    return [ranked[i] for i in dict.fromkeys(places.tolist())]


def tell(answerer: Answerer, row: grid.GridRow, rows: Sequence[grid.GridRow], runs: dict[str, Evaluation]) -> Story:
    """Return a clip's time axis and its questions with the answers from both modalities."""
    processor = answerer.processor
    clip = processor.read_clip(row.media, do_resize=False)
    given = [p for p in runs["both"].predictions if p.clip == row.id and p.kind not in HIDDEN_KINDS]
    watched, asked = answerer.watch(clip), [[p.question for p in given]]
    (weights,) = answerer.attribute(watched, asked, answerer.answer(watched, asked))
    encoder_outputs = watched.encoder_outputs
    chunk_times = encoder_outputs.chunk_times[0].cpu().numpy()
    middles = [int(np.searchsorted(clip.frame_times, t, side="right")) - 1 for t in chunk_times.mean(axis=1)]
    features = processor.feature_extractor(clip.waveform, sampling_rate=clip.sampling_rate)["input_features"]
    surprise = encoder_outputs.surprise[0].float().cpu().numpy()
    surprise[0] = np.nan  # nothing predicts the first chunk
    partner = rows[swap_partners(rows, grid.WORD_KINDS)[[r.id for r in rows].index(row.id)][0]]
    answers = [
        Answered(prediction, shares, otherwise(prediction, runs))
        for prediction, shares in zip(given, weights.cpu().numpy(), strict=True)
    ]
    return Story(
        id=row.id, sentence=" ".join(row.words), duration=float(clip.duration),
        frames=[clip.frames[max(i, 0)] for i in middles],
        mel=rearrange(np.asarray(features), "1 mel_frame mel -> mel_frame mel"),
        words=[(word, *seconds) for word, seconds in zip(row.words, row.word_times, strict=True)],
        chunk_times=chunk_times, surprise=surprise, answers=answers, swapped_sentence=" ".join(partner.words),
    )  # fmt: skip


def otherwise(prediction: Prediction, runs: dict[str, Evaluation]) -> dict[str, str]:
    """Return the answers to the same question under the other conditions, if they differ."""
    names = {"sound": "sound only", "picture": "picture only", "swapped": "swapped sound"}
    said = {
        names[key]: p.generated
        for key in names
        for p in runs[key].predictions
        if p.question_id == prediction.question_id
    }
    return {name: answer for name, answer in said.items() if answer != prediction.generated}


def chance_levels(rows: Sequence[grid.GridRow]) -> dict[str, float]:
    """Return the accuracy of guessing among the words of each kind."""
    return {kind: 1 / len({row.words[i] for row in rows}) for i, kind in enumerate(grid.WORD_KINDS)}


def accuracy_rows(runs: dict[str, Evaluation]) -> list[dict[str, Any]]:
    """Return the rows of the table: mean and accuracy by kind under each condition without swapped sound."""
    metrics = {name: runs[name].metrics for name in ("both", "sound", "picture")}
    return [
        {"label": CONDITIONS[name], "mean": found.intervals_95["words"], "kinds": found.scores}
        for name, found in metrics.items()
    ]


def next_commands(root: Path, rows: Sequence[Row], checkpoint: str | Path | None) -> list[str]:
    """Return three commands that work in the same folder."""
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
    result: Demo,
    chance: dict[str, float],
    checkpoint: str | Path | None,
) -> str:
    """Return the page as HTML."""
    both, follows = runs["both"].metrics, runs["swapped"].metrics.follows
    accuracy, parameters = both.intervals_95["words"], f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}"
    names = {"all words": "words", **{kind: kind for kind in grid.WORD_KINDS if kind in follows}}
    parts = ("sound", "picture", "neither")
    return render(
        "demo.html",
        parameters=parameters,
        num_clips=both.clips.answered,
        warnings=list(page_warnings(accuracy, chance, both.clips)),
        facts={
            "words right, picture + sound": f"{percent(accuracy.value, 1)} %",
            "parameters": f"{parameters} M",
            "unseen clips of 3 seconds": str(both.clips.answered),
            "answers": f"{sum(len(run.predictions) for run in runs.values()):,}",
            f"on {os.cpu_count()} CPU cores": f"{result.seconds:.0f} s",
        },
        accuracy=accuracy_rows(runs),
        kinds=KINDS,
        chance=chance,
        mean_chance=float(np.mean(list(chance.values()))),
        times={kind: both.scores[f"when_{kind}"] for kind in grid.WORD_KINDS},
        follows=result.follows,
        swapped={name: {part: getattr(follows[kind], part).value for part in parts} for name, kind in names.items()},
        sets=result.sets,
        attribution=attribution_text(result.attribution[0]),
        stories=stories,
        commands=result.try_next,
        checkpoint=str(checkpoint or f"{DEFAULT_CHECKPOINT.name}, shipped with mirasol"),
    )


def page_warnings(accuracy: Interval, chance: dict[str, float], clips: Clips) -> Iterator[str]:
    """Yield the warnings that a reader needs before the numbers."""
    if not accuracy.low > float(np.mean(list(chance.values()))):
        yield (
            "This checkpoint answers no better than chance: it is untrained, or was trained on other data. The page "
            "only shows that every part runs."
        )
    yield from clip_warnings(clips)


def attribution_text(found: AttributionShare) -> str:
    """Return a sentence on how often an answer is attributed to the asked word, beside a random choice."""
    if not found.num_answers:
        return "No answer was right, so attribution was not measured."
    return (
        f"The highest bar overlaps the asked word (within 0.16 s) in {percent(found.share.value)} % of right answers, "
        f"a random chunk in {percent(found.uniform_choice)} % (measured on {found.num_answers} right answers)."
    )
