"""`mirasol evaluate`: every clip of a split encoded once, all its questions answered, metrics with intervals over
clips, and what is missing or cannot be read counted."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mirasol import DEFAULT_CHECKPOINT, __version__
from mirasol.answer.answerer import Answerer
from mirasol.evaluate.baselines import baselines
from mirasol.evaluate.batches import AnsweredClip, Job, answer_batches
from mirasol.evaluate.conditions import AUDIT, Condition
from mirasol.evaluate.loader import Read
from mirasol.evaluate.processes import Processes, started_processes
from mirasol.evaluate.run_folder import RunFolder, digest_of_rows, digest_of_weights
from mirasol.evaluate.summary import Prediction, audit, describe, finite, summarise
from mirasol.files import GRID_ROOT
from mirasol.tasks import Row, get_task

BATCH_SIZE = 8  # clips; rows of text are this times the questions of a clip
SHOWN = 5  # clips named one by one in a warning


@dataclass
class Evaluation:
    """Metrics of one checkpoint on one split under one condition, and every prediction they come from."""

    metrics: dict[str, Any]
    predictions: list[Prediction]
    output: str | None = None
    seconds: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The metrics, for JSON."""
        return finite(self.metrics) | ({"output": self.output} if self.output else {})

    def __str__(self) -> str:
        return describe(self.metrics, self.seconds) + (f"\nwritten to {self.output}" if self.output else "")


def evaluate(
    checkpoint: str | Path | None = None,
    task: str = "grid",
    root: str | Path = GRID_ROOT,
    split: str = "test",
    condition: str = "both",
    noise_db: float | None = None,
    noise_seed: int = 0,
    output: str | Path | None = None,
    batch_size: int = BATCH_SIZE,
    max_clips: int | None = None,
    rank: bool = False,
    audit: bool = False,
    classes: str | Path | None = None,
    workers: int | None = None,
) -> Evaluation | None:
    """Measures a checkpoint; with `output`, predictions, metrics and a report are written there, and a run that was
    stopped goes on where it was.

    Several processes that torchrun starts share the clips; the first one gives the result, the others None.

    Args:
        checkpoint: Its folder; by default the shipped one.
        task: See `mirasol.tasks.TASKS`.
        root: The task's folder of annotations and clips.
        split: One, or several joined by "+" ("val+test").
        condition: How clips are shown, see `CONDITIONS`.
        noise_db: White noise over each whole clip at this signal-to-noise ratio.
        noise_seed: Of that noise.
        output: Folder of this run alone.
        batch_size: Clips at once.
        max_clips: Only the first ones.
        rank: Choose among the given options by likelihood instead of generating an answer.
        audit: Also measure with sound off, swapped and silent.
        classes: File of lines "number,name", for tasks whose published labels are numbers.
        workers: Processes that decode; by default one for each core.
    """
    shown = Condition(condition, noise_db, noise_seed)
    if audit and shown != Condition():
        raise ValueError(
            f"The audit shows clips in its own ways, found {shown.label} as well. Drop --audit or the rest."
        )
    rows = load_rows(task, root, split, classes)[:max_clips]
    folder = DEFAULT_CHECKPOINT if checkpoint is None else Path(checkpoint)
    about = {"checkpoint": str(checkpoint or "shipped"), "task": task, "split": split}
    with started_processes() as processes:
        if processes.count > 1 and output is None:
            raise ValueError(
                f"Expected --output, found none for {processes.count} processes, which join their answers in that "
                "folder. Name one, or start a single process."
            )
        return evaluate_rows(
            Answerer.load(folder), rows, shown, task=task, root=root, batch_size=batch_size, output=output,
            about=about, rank=rank, with_audit=audit, classes=classes, workers=workers, processes=processes,
            checkpoint=folder,
        )  # fmt: skip


def evaluate_rows(
    answerer: Answerer, rows: Sequence[Row], condition: Condition, *, task: str = "grid",
    root: str | Path | None = None, batch_size: int = BATCH_SIZE,
    output: str | Path | None = None, about: dict[str, Any] | None = None,
    rank: bool = False, with_audit: bool = False, classes: str | Path | None = None, workers: int | None = None,
    read: Read | None = None, processes: Processes | None = None, checkpoint: Path | None = None,
    progress: bool = True,
) -> Evaluation | None:  # fmt: skip
    """The same with a loaded model and rows; `root` gives the train split's best constants for time questions.

    `read(row, condition)` may take decoded clips from elsewhere than the files; then no clip counts as missing.
    """
    start = time.perf_counter()
    missing = [row.id for row in rows if read is None and not row.media.is_file()]
    present = [row for row in rows if row.id not in set(missing)]
    if not present:
        raise ValueError(
            f"Expected clips of task {task!r} below {root}, found none of {len(rows)}, such as "
            f"{rows[0].media if rows else 'nothing asked'}. Put them there, or point --root elsewhere."
        )
    processes = processes or Processes()
    about = {"checkpoint": "a loaded model", "task": task, "split": "rows"} | (about or {})
    conditions = (condition, *(Condition(name) for name in AUDIT[1:])) if with_audit else (condition,)
    job = Job(present, task, conditions, batch_size, rank)
    shown = {
        "condition": condition.name,
        "noise_db": condition.noise_db,
        "noise_seed": condition.noise_seed if condition.noise_db is not None else None,
        "answers": "ranked" if rank else "generated",
    }
    train = train_rows(task, root, str(about.get("split", "")), classes)
    get_task(task).check_requirements()
    folder = None
    if output is not None:
        whole = {"audit": with_audit, "batch_size": batch_size, "mirasol": __version__, "root": str(root)}
        whole |= {"weights": checkpoint and digest_of_weights(checkpoint), "clips_asked": len(rows)}
        whole |= {"clips_there": len(present), "clips_and_questions": digest_of_rows(present)}
        folder = RunFolder(output, {**about, **shown, **whole})
        if folder.is_finished:
            return Evaluation(*folder.results(), str(output))
    clips = answer_all(answerer, job, folder, processes, workers, read, progress)
    if not processes.is_first:
        return None
    bad = {clip.id: clip.error for clip in clips if clip.error}
    found = {c.name: [p for clip in clips for p in clip.predictions.get(c.name, ())] for c in conditions}
    predictions = found[condition.name]
    metrics = {
        **about,
        **shown,
        "clips": {
            "asked": len(rows),
            "answered": len(present) - len(bad),
            "with_sound": len({p.clip for p in predictions if p.sound_used}),
            "with_warnings": sum(bool(clip.warnings) for clip in clips),
            "missing": missing,
            "unreadable": bad,
        },
        **summarise(predictions, rows, task, lost={*missing, *bad}, train=train),
    }
    metrics["baselines"] = baselines(get_task(task), rows, train)
    if with_audit:
        metrics["audit"] = audit(found, task)
    warn(metrics["clips"], clips)
    if folder is not None:
        report(folder.folder, metrics, predictions, present, answerer.processor)
        folder.finish(metrics, found)
        folder.clean()
    return Evaluation(metrics, predictions, None if output is None else str(output), time.perf_counter() - start)


def answer_all(
    answerer: Answerer, job: Job, folder: RunFolder | None, processes: Processes, workers: int | None,
    read: Read | None, progress: bool,
) -> list[AnsweredClip]:  # fmt: skip
    """Every clip's answers in the order of the rows: those that the folder holds, and the others answered now.

    Whole batches are shared out among the processes, so that every clip is answered beside the same others. The first
    process gives all answers, the others none: it clears the parts away, which they would look for in vain.
    """
    processes.wait()  # all have looked whether the folder is theirs to use
    if folder is not None and processes.is_first:
        folder.begin()
    processes.wait()
    done = {} if folder is None else folder.answered()
    processes.wait()  # now all know the same batches to be left
    left = [batch for batch in range(job.num_batches) if batch not in done][processes.rank :: processes.count]
    label = job.conditions[0].label + (f", process 1 of {processes.count}" if processes.count > 1 else "")
    shown = progress and processes.is_first
    total = sum(len(job.indices(batch)) for batch in left)
    with tqdm(total=total, desc=label, unit="clip", disable=None if shown else True) as bar:
        for batch, clips in answer_batches(answerer, job, left, workers, read):
            if folder is None:
                done[batch] = clips
            else:
                folder.append(processes.rank, batch, clips)
            bar.update(len(clips))
    processes.wait()
    if not processes.is_first:
        return []
    if folder is not None:
        done = folder.answered()
    return [clip for batch in range(job.num_batches) for clip in done[batch]]


def warn(counts: dict[str, Any], clips: Sequence[AnsweredClip]) -> None:
    """Says what is missing, what could not be read, and what was left out of clips."""
    for name, text in (("missing", "are missing"), ("unreadable", "could not be read and are left out")):
        if counts[name]:
            more = " ..." if len(counts[name]) > SHOWN else ""
            listed = ", ".join(list(counts[name])[:SHOWN]) + more
            warnings.warn(f"{len(counts[name])} of {counts['asked']} clips {text}: {listed}", stacklevel=3)
    if counts["with_warnings"]:
        first = next(clip for clip in clips if clip.warnings)
        warnings.warn(f"{counts['with_warnings']} clips gave warnings; {first.id}: {first.warnings[0]}", stacklevel=3)


def report(folder: Path, metrics: dict[str, Any], predictions: Sequence[Prediction], rows, processor) -> None:
    """Writes report.html into the folder, or says why not; the numbers are written before."""
    try:
        from mirasol.report.run import write_report  # needs Pillow, an extra
    except ValueError as error:
        warnings.warn(f"No report is written: {error}", stacklevel=3)
        return
    write_report(folder, metrics, predictions, rows, processor)


def score(
    model, processor, rows: Sequence[Row], *, task: str = "grid", conditions: Sequence[str] = ("both",),
    read: Read | None = None, batch_size: int = BATCH_SIZE,
) -> dict[str, float]:  # fmt: skip
    """Flat metrics for validation in training: `slots_both`, `letter_both`, ..., one set per condition.

    And `mean_slots`, or what the task's own main metric is: its mean over the conditions.

    `read(row, condition)` may take decoded clips from a cache instead of the files. The model is left in the mode
    (training or not) it was in.
    """
    was_training = model.training
    model.eval()
    scored, asked = get_task(task), {question.id: question for row in rows for question in row.questions}
    flat: dict[str, float] = {}
    try:
        for name in conditions:
            job = Job(rows, task, (Condition(name),), batch_size)
            answered = answer_batches(Answerer(model, processor), job, range(job.num_batches), workers=0, read=read)
            clips = [clip for _, batch in answered for clip in batch]
            found = [p for clip in clips for p in clip.predictions.get(name, ())]
            scores = scored.score([asked[p.question_id] for p in found], [p.generated for p in found])
            for key, value in scores.items():
                if isinstance(value, dict):
                    flat |= {f"{key}_{part}_{name}": float(number) for part, number in value.items()}
                elif key != "num_questions":
                    flat[f"{key}_{name}"] = float(value)
            flat[f"bad_clips_{name}"] = float(sum(clip.error is not None for clip in clips))
    finally:
        model.train(was_training)
    values = [flat[f"{scored.headline}_{name}"] for name in conditions if f"{scored.headline}_{name}" in flat]
    return flat | ({f"mean_{scored.headline}": float(np.mean(values))} if values else {})


def load_rows(task: str, root: str | Path, split: str, classes: str | Path | None = None) -> list[Row]:
    """Rows of one split, or of several joined by "+"; `classes` is the task's class list, where it takes one."""
    source = get_task(task, classes)
    return [row for part in split.split("+") for row in source.load(root, part)]


def train_rows(task: str, root: str | Path | None, split: str = "", classes: str | Path | None = None) -> list[Row]:
    """Rows of the train split, from which constant answers are chosen; none where the data has no such split, or
    where it is what is measured."""
    if root is None or "train" in split.split("+") or Path(root).is_file():
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # missing clips of the train split are not asked for
            return load_rows(task, root, "train", classes)
    except (ValueError, OSError):
        return []
