"""`mirasol evaluate`: every clip of a split encoded once, all its questions answered greedily in one batch, metrics with
intervals over clips, and what could not be read counted."""

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mirasol.evaluate.bootstrap import Interval, bootstrap_ratio, bootstrap_statistic
from mirasol.evaluate.conditions import Condition, swap_partners
from mirasol.evaluate.generation import generate_answers, load_checkpoint, split_inputs
from mirasol.media import Clip
from mirasol.tasks import Question, Row, get_task

BATCH_SIZE = 8  # clips; rows of text are this times the questions of a clip


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


@dataclass
class Evaluation:
    """Metrics of one checkpoint on one split under one condition, and every prediction they come from."""

    metrics: dict[str, Any]
    predictions: list[Prediction]
    output: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The metrics, for JSON."""
        return self.metrics | ({"output": self.output} if self.output else {})

    def __str__(self) -> str:
        return describe(self.metrics) + (f"\nwritten to {self.output}" if self.output else "")


def evaluate(
    checkpoint: str | Path | None = None,
    task: str = "grid",
    root: str | Path = "data/grid_s1",
    split: str = "test",
    condition: str = "both",
    noise_db: float | None = None,
    noise_seed: int = 0,
    output: str | Path | None = None,
    batch_size: int = BATCH_SIZE,
    max_clips: int | None = None,
) -> Evaluation:
    """Measures a checkpoint; with `output`, predictions.jsonl and metrics.json are written there, each whole or not at all.

    `split` may join several ("val+test"). `noise_db` puts white noise over each whole clip at that ratio.
    """
    shown = Condition(condition, noise_db, noise_seed)
    rows = load_rows(task, root, split)[:max_clips]
    model, processor = load_checkpoint(checkpoint)
    return evaluate_rows(
        model, processor, rows, shown, task=task, root=root, batch_size=batch_size, output=output,
        about={"checkpoint": str(checkpoint or "shipped"), "task": task, "split": split},
    )  # fmt: skip


def evaluate_rows(
    model, processor, rows: Sequence[Row], condition: Condition, *, task: str = "grid", root: str | Path | None = None,
    batch_size: int = BATCH_SIZE, output: str | Path | None = None, about: dict[str, Any] | None = None,
    progress: bool = True,
) -> Evaluation:  # fmt: skip
    """The same with a loaded model and rows; `root` gives the train split's best constants for time questions."""
    start = time.perf_counter()
    bad: dict[str, str] = {}
    predictions = list(predict(model, processor, rows, condition, task=task, batch_size=batch_size, bad=bad, progress=progress))
    metrics = {
        **(about or {}),
        "condition": condition.name,
        "noise_db": condition.noise_db,
        "noise_seed": condition.noise_seed if condition.noise_db is not None else None,
        "clips": {"asked": len(rows), "answered": len(rows) - len(bad), "unreadable": bad},
        **summarise(predictions, task, train_rows(task, root)),
        "seconds": round(time.perf_counter() - start, 2),
    }
    if bad:
        warnings.warn(f"{len(bad)} of {len(rows)} clips could not be read and are left out: {', '.join(bad)}", stacklevel=2)
    if output is not None:
        write_results(Path(output), metrics, predictions)
    return Evaluation(metrics, predictions, None if output is None else str(output))


def score(
    model, processor, rows: Sequence[Row], *, task: str = "grid", conditions: Sequence[str] = ("both",),
    read: Callable[[Row, Condition, Row | None], Clip] | None = None, batch_size: int = BATCH_SIZE,
) -> dict[str, float]:  # fmt: skip
    """Flat metrics for validation in training: `slots_both`, `letter_both`, ..., one set per condition.

    `read(row, condition, sound_row)` may take decoded clips from a cache instead of the files. The model is left in the
    mode (training or not) it was in.
    """
    was_training = model.training
    model.eval()
    flat: dict[str, float] = {}
    try:
        for name in conditions:
            bad: dict[str, str] = {}
            found = list(predict(model, processor, rows, Condition(name), task=task, batch_size=batch_size, bad=bad, read=read, progress=False))
            scores = get_task(task).score([_question(p) for p in found], [p.prediction for p in found])
            for key, value in scores.items():
                if isinstance(value, dict):
                    flat |= {f"{key}_{part}_{name}": float(number) for part, number in value.items()}
                elif key != "num_questions":
                    flat[f"{key}_{name}"] = float(value)
            flat[f"bad_clips_{name}"] = float(len(bad))
    finally:
        model.train(was_training)
    slots = [flat[f"slots_{name}"] for name in conditions if f"slots_{name}" in flat]
    return flat | ({"mean_slots": float(np.mean(slots))} if slots else {})


def load_rows(task: str, root: str | Path, split: str) -> list[Row]:
    """Rows of one split, or of several joined by "+"."""
    return [row for part in split.split("+") for row in get_task(task).load(root, part)]


def train_rows(task: str, root: str | Path | None) -> list[Row]:
    """Rows of the train split, from which constant answers are chosen; none where the data has no such split."""
    try:
        return [] if root is None or task != "grid" else get_task(task).load(root, "train")
    except ValueError:
        return []


def predict(
    model, processor, rows: Sequence[Row], condition: Condition, *, task: str, batch_size: int, bad: dict[str, str],
    read: Callable[[Row, Condition, Row | None], Clip] | None = None, progress: bool = True,
) -> Iterator[Prediction]:  # fmt: skip
    """Yields the answers clip by clip; unreadable clips go into `bad` (id: reason), the rest goes on."""
    read = read or (lambda row, shown, sound_row: shown.read(row, sound_row, processor.read_clip))
    normalise = get_task(task).normalise
    partners = [rows[i] for i in swap_partners(rows)] if condition.name == "swapped" else [None] * len(rows)
    bar = tqdm(total=len(rows), desc=condition.label, unit="clip", disable=None if progress else True)
    for first in range(0, len(rows), batch_size):
        batch: list[tuple[Row, list[tuple[Question, str | None]], Clip]] = []
        for row, partner in zip(rows[first : first + batch_size], partners[first : first + batch_size], strict=True):
            try:
                batch.append((row, comparable(row, partner), read(row, condition, partner)))
            except (ValueError, OSError) as error:
                bad[row.id] = str(error)
        if batch:
            yield from _answer_batch(model, processor, batch, condition, normalise)
        bar.update(min(batch_size, len(rows) - first))
    bar.close()


def comparable(row: Row, partner: Row | None) -> list[tuple[Question, str | None]]:
    """The row's questions, each with the answer in the clip that lends its sound: only those where the two differ."""
    if partner is None:
        return [(question, None) for question in row.questions]
    theirs = {question.text: question.answer for question in partner.questions}
    return [
        (question, theirs[question.text])
        for question in row.questions
        if theirs.get(question.text, question.answer) != question.answer
    ]


def _answer_batch(model, processor, batch, condition: Condition, normalise) -> Iterator[Prediction]:
    # Every clip needs the same number of text rows, so shorter lists repeat a question whose answer is thrown away.
    most = max(len(pairs) for _, pairs, _ in batch)
    texts = [pairs[min(i, len(pairs) - 1)][0].text if pairs else "?" for _, pairs, _ in batch for i in range(most)]
    if not texts:
        return
    inputs = processor(
        text=texts, videos=[clip for _, _, clip in batch], use_video=condition.use_video, use_audio=condition.use_audio
    )
    media, text = split_inputs(inputs, model.device)
    with torch.no_grad():
        encoder_outputs = model.get_encoder()(**media)
    answers = generate_answers(model, processor, encoder_outputs, text)
    for number, (row, pairs, _) in enumerate(batch):
        for (question, sound_answer), given in zip(pairs, answers[number * most :], strict=False):
            right = normalise(given.text) == normalise(question.answer)
            yield Prediction(
                row.id, question.id, question.kind, question.text, question.answer, given.text, right,
                round(given.confidence, 6), question.seconds, sound_answer,
            )  # fmt: skip


def _question(prediction: Prediction) -> Question:
    return Question(prediction.id, prediction.question, prediction.answer, prediction.kind, prediction.seconds)


def summarise(predictions: Sequence[Prediction], task: str, train: Sequence[Row] = (), seed: int = 0) -> dict[str, Any]:
    """`scores` as the task defines them, `intervals` over clips, and for swapped sound `follows`."""
    module = get_task(task)
    kinds = list(dict.fromkeys(p.kind for p in predictions))
    slots = [kind for kind in getattr(module, "SLOTS", ()) if kind in kinds]
    groups = ({"slots": slots} if slots else {}) | {kind: [kind] for kind in kinds if not kind.startswith("when_")}
    intervals = {name: share(predictions, lambda p: p.right, group, seed).as_dict() for name, group in groups.items()}
    for kind in kinds:
        if kind.startswith("when_"):
            errors = [[module.time_error(_question(p), p.prediction) for p in clip if p.kind == kind] for clip in by_clip(predictions)]
            intervals[kind] = bootstrap_statistic(errors, np.median, seed=seed).as_dict()
    scores = module.score([_question(p) for p in predictions], [p.prediction for p in predictions], train) if predictions else {}
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


def follows(predictions: Sequence[Prediction], groups: dict[str, list[str]], normalise, seed: int = 0) -> dict[str, Any]:
    """Per kind: how often the answer is that of the picture's clip, that of the sound's clip, or neither."""
    picture = lambda p: normalise(p.prediction) == normalise(p.answer)  # noqa: E731
    sound = lambda p: normalise(p.prediction) == normalise(p.sound_answer)  # noqa: E731
    return {
        name: {
            "picture": share(predictions, picture, group, seed).as_dict(),
            "sound": share(predictions, sound, group, seed).as_dict(),
            "neither": share(predictions, lambda p: not picture(p) and not sound(p), group, seed).as_dict(),
        }
        for name, group in groups.items()
    }


def paired_difference(
    first: Sequence[Sequence[Prediction]], second: Sequence[Sequence[Prediction]], kinds: Sequence[str], seed: int = 0
) -> Interval:
    """Share right in `first` minus share right in `second`, clip by clip; several runs each (noise seeds) are pooled.

    The clip stays the unit: its questions under all seeds are resampled together.
    """
    if len(first) != len(second):
        raise ValueError(f"Expected as many runs on both sides, found {len(first)} and {len(second)}: use the same seeds.")
    differences: dict[str, list[int]] = {}
    for sign, runs in ((1, first), (-1, second)):
        for prediction in (p for run in runs for p in run if p.kind in kinds):
            totals = differences.setdefault(prediction.clip, [0, 0])
            totals[0] += sign * prediction.right
            totals[1] += sign == 1
    totals, counts = np.array(list(differences.values()), dtype=np.float64).reshape(-1, 2).T
    return bootstrap_ratio(totals, counts, seed=seed)


def write_results(folder: Path, metrics: dict[str, Any], predictions: Sequence[Prediction]) -> None:
    """predictions.jsonl and metrics.json in the folder, written beside and moved, the metrics last."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "predictions.jsonl", "".join(json.dumps(asdict(p)) + "\n" for p in predictions))
    write_whole(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """The file, whole or as it was before: a kill leaves at most a .partial beside it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


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
            lines.append(
                f"  {name:12s} median error {interval['value']:.3f} s, {100 * entry['within_0.1_seconds']:.0f} % within 0.1 s{beside}"
            )
        else:
            lines.append(f"  {name:12s} {100 * interval['value']:5.1f} %   [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]")
    for name, parts in metrics.get("follows", {}).items():
        values = ", ".join(f"{part} {100 * interval['value']:.1f} %" for part, interval in parts.items())
        lines.append(f"  follows, {name}: {values}")
    return "\n".join(lines)
