"""`mirasol evaluate`: every clip of a split encoded once, all its questions answered greedily in one batch, metrics
with intervals over clips, and what could not be read counted."""

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mirasol.evaluate.conditions import Condition, swap_partners
from mirasol.evaluate.generation import generate_answers, load_checkpoint, split_inputs
from mirasol.evaluate.summary import Prediction, as_question, describe, finite, summarise
from mirasol.media import Clip
from mirasol.tasks import Question, Row, get_task

BATCH_SIZE = 8  # clips; rows of text are this times the questions of a clip


@dataclass
class Evaluation:
    """Metrics of one checkpoint on one split under one condition, and every prediction they come from."""

    metrics: dict[str, Any]
    predictions: list[Prediction]
    output: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The metrics, for JSON."""
        return finite(self.metrics) | ({"output": self.output} if self.output else {})

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
    """Measures a checkpoint; with `output`, predictions.jsonl and metrics.json are written there.

    Each file is written whole or not at all. `split` may join several ("val+test"). `noise_db` puts white noise over
    each whole clip at that ratio.
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
    read: Callable[[Row, Condition, Row | None], Clip] | None = None, progress: bool = True,
) -> Evaluation:  # fmt: skip
    """The same with a loaded model and rows; `root` gives the train split's best constants for time questions.

    `read(row, condition, sound_row)` may take decoded clips from elsewhere than the files.
    """
    start = time.perf_counter()
    bad: dict[str, str] = {}
    options: dict[str, Any] = {"task": task, "batch_size": batch_size, "bad": bad, "read": read, "progress": progress}
    predictions = list(predict(model, processor, rows, condition, **options))
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
        warnings.warn(
            f"{len(bad)} of {len(rows)} clips could not be read and are left out: {', '.join(bad)}", stacklevel=2
        )
    if output is not None:
        write_results(Path(output), metrics, predictions)
    return Evaluation(metrics, predictions, None if output is None else str(output))


def score(
    model, processor, rows: Sequence[Row], *, task: str = "grid", conditions: Sequence[str] = ("both",),
    read: Callable[[Row, Condition, Row | None], Clip] | None = None, batch_size: int = BATCH_SIZE,
) -> dict[str, float]:  # fmt: skip
    """Flat metrics for validation in training: `slots_both`, `letter_both`, ..., one set per condition.

    And `mean_slots`, or what the task's own main metric is: its mean over the conditions.

    `read(row, condition, sound_row)` may take decoded clips from a cache instead of the files. The model is left in
    the mode (training or not) it was in.
    """
    was_training = model.training
    model.eval()
    flat: dict[str, float] = {}
    try:
        for name in conditions:
            bad: dict[str, str] = {}
            options: dict[str, Any] = {
                "task": task,
                "batch_size": batch_size,
                "bad": bad,
                "read": read,
                "progress": False,
            }
            found = list(predict(model, processor, rows, Condition(name), **options))
            scores = get_task(task).score([as_question(p) for p in found], [p.prediction for p in found])
            for key, value in scores.items():
                if isinstance(value, dict):
                    flat |= {f"{key}_{part}_{name}": float(number) for part, number in value.items()}
                elif key != "num_questions":
                    flat[f"{key}_{name}"] = float(value)
            flat[f"bad_clips_{name}"] = float(len(bad))
    finally:
        model.train(was_training)
    main = get_task(task).METRIC
    values = [flat[f"{main}_{name}"] for name in conditions if f"{main}_{name}" in flat]
    return flat | ({f"mean_{main}": float(np.mean(values))} if values else {})


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
    partners = sound_lenders(rows, task) if condition.name == "swapped" else [None] * len(rows)
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


def sound_lenders(rows: Sequence[Row], task: str) -> list[Row]:
    """For each row the row whose sound it gets when swapped."""
    return [rows[i] for i in swap_partners(rows, getattr(get_task(task), "SLOTS", None))]


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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has sound, but it is not used")  # picture only is meant so
        inputs = processor(text=texts, videos=[clip for _, _, clip in batch])
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


def write_results(folder: Path, metrics: dict[str, Any], predictions: Sequence[Prediction]) -> None:
    """predictions.jsonl and metrics.json in the folder, written beside and moved, the metrics last."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "predictions.jsonl", "".join(json.dumps(asdict(p)) + "\n" for p in predictions))
    write_whole(folder / "metrics.json", json.dumps(finite(metrics), indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """The file, whole or as it was before: a kill leaves at most a .partial beside it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
