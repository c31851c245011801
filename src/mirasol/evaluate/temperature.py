"""`mirasol calibrate`: fit the temperature under which the confidence matches the accuracy on val.

The confidence of an answer is exp of the mean log-probability of its tokens, the end token included, under
softmax(logits / temperature). Greedy answers do not depend on the temperature. It maximises the likelihood of which
answers are right, with equal weight for each set.
"""

import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mirasol.answer.answerer import Answerer
from mirasol.answer.checkpoint import CALIBRATION, folder_of
from mirasol.data.ahead import load_ahead
from mirasol.evaluate.calibration import expected_error
from mirasol.evaluate.conditions import Condition, all_conditions
from mirasol.evaluate.loader import ShownClips
from mirasol.evaluate.runner import BATCH_SIZE, load_rows, seconds_of
from mirasol.files import GRID_ROOT, write_whole
from mirasol.results import Document
from mirasol.tasks import Question, Row, Task, get_task
from mirasol.tasks.metrics.judged import GRADED

TEMPERATURES = np.geomspace(0.25, 10, 75)  # 5 % apart
FEWEST = 10  # right answers, and wrong ones, needed to fit one number
EPSILON = 1e-6


class Temperature(Document):
    """Contents of calibration.json: temperature, the sets it was fitted on, calibration error before and after."""

    temperature: float
    checkpoint: str
    fitted_on: list[str]
    questions: int
    right: float
    ece_before: float
    ece_after: float
    file: str = ""

    def __str__(self) -> str:
        return (
            f"temperature {self.temperature:.3f}, fitted on {self.questions} answers, {100 * self.right:.1f} % right, "
            f"about {', '.join(self.fitted_on)}\n  calibration error there {100 * self.ece_before:.1f} % before, "
            f"{100 * self.ece_after:.1f} % after" + (f"\nwritten to {self.file}" if self.file else "")
        )


def calibrate_checkpoint(
    checkpoint: str | Path | None = None, tasks: Sequence[str] = ("grid",), roots: Sequence[str] = (GRID_ROOT,),
    splits: Sequence[str] = ("val",), condition: Sequence[str] = ("both",), noise_db: Sequence[float] | None = None,
    max_clips: int | None = None, output: str | Path | None = None, metric: str | None = None,
    classes: str | Path | None = None, batch_size: int = BATCH_SIZE, workers: int | None = None, start: float = 0.0,
    end: float | None = None, **loading: Any,
) -> Temperature:  # fmt: skip
    """Fit the temperature of a checkpoint and write it as calibration.json into `output`, by default its folder.

    Args:
        checkpoint: Its folder; by default the shipped one.
        tasks: Sets to fit on.
        roots: Folder of each set.
        splits: Split of each set, or one for all; not a split whose scores are reported.
        condition: One or several conditions, evaluated in turn.
        noise_db: Signal-to-noise ratios of white noise, evaluated in turn.
        max_clips: Use only so many clips of each set, the first ones.
        output: Folder to write the file to.
        metric, classes, batch_size, workers, start, end, **loading: As for `evaluate`.
    """
    splits = list(splits) * (len(tasks) if len(splits) == 1 else 1)
    if not len(tasks) == len(roots) == len(splits):
        raise ValueError(
            f"Expected a task, a root and a split for each set, found {len(tasks)}, {len(roots)} and {len(splits)}: "
            "separate them by commas, in the same order."
        )
    for task, split in zip(tasks, splits, strict=True):
        parts = split.split("+")
        for part, fault in (
            ("train", "what checkpoints learn from, so they are surer and more often right there than elsewhere"),
            (get_task(task).reported_split, "the one that is reported, so its calibration error would mean nothing"),
        ):
            if part in parts:
                warnings.warn(f"Split {part!r} of {task} is {fault}. Fit on val.", stacklevel=2)
    conditions = all_conditions(condition, noise_db or ())
    folder = folder_of(checkpoint)
    sets = [
        (get_task(task, classes), seconds_of(load_rows(task, root, split, classes, metric)[:max_clips], start, end))
        for task, root, split in zip(tasks, roots, splits, strict=True)
    ]
    judged = len(conditions) * sum(_is_judged(q, task) for task, rows in sets for row in rows for q in row.questions)
    if judged < 2 * FEWEST:
        raise ValueError(
            f"Expected at least {2 * FEWEST} answers that are right or wrong to fit a temperature to, found {judged} "
            "questions. Use more clips, or several conditions."
        )
    answerer = Answerer.load(folder, **loading)
    found = []
    for asked, rows in sets:
        answers = [a for c in conditions for a in answer(answerer, asked, rows, c, batch_size, workers)]
        found.append((np.array([sure for sure, _ in answers]), np.array([right for _, right in answers], dtype=float)))
    sure, right = (np.concatenate(parts) for parts in zip(*found, strict=True))
    if min(right.sum(), (1 - right).sum()) < FEWEST:
        raise ValueError(
            f"Expected at least {FEWEST} right and {FEWEST} wrong answers to fit a temperature to, found "
            f"{int(right.sum())} and {int((1 - right).sum())}. Use more clips, or add noise (--noise-db)."
        )
    place = int(np.argmin(np.mean([losses(*part) for part in found], axis=0)))
    if place in (0, len(TEMPERATURES) - 1):
        warnings.warn(
            f"The best temperature is the {'lowest' if place == 0 else 'highest'} that was tried "
            f"({TEMPERATURES[place]:g}): the confidence says little about which answers are right.",
            stacklevel=2,
        )
    one = int(np.argmin(np.abs(np.log(TEMPERATURES))))
    written = Path(output or folder) / CALIBRATION
    result = Temperature(
        temperature=round(float(TEMPERATURES[place]), 4),
        checkpoint=str(checkpoint or "shipped"),
        fitted_on=[f"{task} {split}" for task, split in zip(tasks, splits, strict=True)],
        questions=len(right),
        right=round(float(right.mean()), 6),
        ece_before=round(expected_error(sure[:, one], right), 6),
        ece_after=round(expected_error(sure[:, place], right), 6),
    )
    write_whole(written, result.as_json(indent=2) + "\n")
    return result.model_copy(update={"file": str(written)})


def losses(sure: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the mean negative log-likelihood of the right and wrong answers at each temperature."""
    sure, right = sure.clip(EPSILON, 1 - EPSILON), right[:, None]
    return -(right * np.log(sure) + (1 - right) * np.log(1 - sure)).mean(axis=0)


@torch.no_grad()
def answer(
    answerer: Answerer,
    task: Task,
    rows: Sequence[Row],
    condition: Condition,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
) -> Iterator[tuple[list[float], bool]]:
    """Yield the confidence of each answer at every temperature, and whether the answer is right."""
    clips = load_ahead(ShownClips(rows, answerer.processor, [condition]), range(len(rows)), workers)
    errors = []
    label = f"{task.name}, {condition.label}"
    bar = tqdm(clips, label, len(rows), unit="clip", disable=None)
    pairs = zip(rows, bar, strict=True)
    while batch := list(islice(pairs, batch_size)):
        errors += [clip.error for _, clip in batch if clip.error]
        asked = [([q for q in row.questions if _is_judged(q, task)], clip) for row, clip in batch if not clip.error]
        if not (asked := [(questions, clip.shown[condition.key].media) for questions, clip in asked if questions]):
            continue
        watched = answerer.watch(*(media for _, media in asked))
        prompts = [answerer.prompts([question.text for question in questions]) for questions, _ in asked]
        given = answerer.answer(watched, prompts)
        for one, of_clip, answers, (questions, _) in zip(watched, prompts, given, asked, strict=True):
            confidences = answerer.confidences(one, of_clip, answers, TEMPERATURES.tolist())
            for question, said, sure in zip(questions, answers, confidences, strict=True):
                yield sure, task.is_right(question, said.text)
    if errors:
        warnings.warn(f"{len(errors)} of {len(rows)} clips of {task.name} are left out: {errors[0]}", stacklevel=2)


def _is_judged(question: Question, task: Task) -> bool:
    """Return whether answers to the question are either right or wrong."""
    return question.kind not in task.time_kinds and question.metric not in GRADED
