"""`mirasol evaluate`: encode each clip of a split once, answer all its questions, report metrics with intervals."""

import contextlib
import math
import re
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mirasol import __version__
from mirasol.answer.answerer import Answerer
from mirasol.answer.checkpoint import digest_of_weights, folder_of
from mirasol.evaluate.baselines import baselines
from mirasol.evaluate.batches import AnsweredClip, Job, answer_batches
from mirasol.evaluate.by_question import by_kind, by_question
from mirasol.evaluate.conditions import AUDIT, Condition, all_conditions
from mirasol.evaluate.loader import Read
from mirasol.evaluate.processes import Processes, joined_processes, started_processes
from mirasol.evaluate.results import Clips, Evaluation, Metrics
from mirasol.evaluate.run_folder import RunFolder, digest_of_rows, read_results
from mirasol.evaluate.summary import abstention, calibration, compare, coverage, summarise
from mirasol.files import GRID_ROOT
from mirasol.results import SCHEMA_VERSION
from mirasol.tasks import Absent, Question, Row, Task, get_task, single_rows

BATCH_SIZE = 8  # clips; a batch of text has this times the questions of a clip
SHOWN = 5  # clips named in a warning


def evaluate(
    checkpoint: str | Path | None = None,
    task: str = "grid",
    root: str | Path = GRID_ROOT,
    split: str = "test",
    condition: str | Sequence[str] = "both",
    noise_db: float | Sequence[float] | None = None,
    noise_seeds: Sequence[int] = (0,),
    output: str | Path | None = None,
    batch_size: int = BATCH_SIZE,
    max_clips: int | None = None,
    rank: bool = False,
    audit: bool = False,
    classes: str | Path | None = None,
    workers: int | None = None,
    metric: str | None = None,
    abstain_below: float | None = None,
    start: float = 0.0,
    end: float | None = None,
    **loading: Any,
) -> Evaluation | None:
    """Evaluate a checkpoint; with `output`, predictions and metrics are written there, and a stopped run is resumed.

    Under torchrun the processes divide the clips; the first process returns the result, the others None.

    Args:
        checkpoint: Folder of the checkpoint; by default the shipped one.
        task: See `mirasol.tasks.TASKS`.
        root: The task's folder of annotations and clips.
        split: One, or several joined by "+" ("val+test").
        condition: One or several of `CONDITIONS`. The first is measured, the others are compared with it on the clips
            that have sound.
        noise_db: Signal-to-noise ratio of white noise over each clip; several are measured one by one.
        noise_seeds: Seeds of that noise; the first is measured, comparisons pool all.
        output: Folder of this run alone.
        batch_size: Number of clips in a batch.
        max_clips: Evaluate only so many clips, the first ones.
        rank: Rank the given options by likelihood instead of generating an answer.
        audit: Evaluate under the conditions both, picture, swapped and silent.
        classes: File of lines "number,name", for tasks whose published labels are numbers.
        workers: Number of decoding processes; by default one per core.
        metric: Default metric of own data, for manifest lines without one.
        abstain_below: Also report the score of the answers with at least this confidence, from 0 to 1.
        start: Start of the evaluated part of each clip, in seconds.
        end: Its end; None: the clip's end.
        **loading: Arguments of `Answerer.load`: `device`, `dtype`, `decoder`, `sampling`, `max_chunks`,
            `max_new_tokens`.
    """
    names = [condition] if isinstance(condition, str) else list(condition)
    levels = [] if noise_db is None else list(np.atleast_1d(noise_db).tolist())
    if audit and (names != ["both"] or levels):
        raise ValueError(
            f"Expected --audit alone, because it names its conditions, found {', '.join(names)}"
            f"{' with noise' * bool(levels)} as well: drop --audit or the others."
        )
    conditions = all_conditions(AUDIT if audit else names, levels, list(noise_seeds))
    rows = seconds_of(load_rows(task, root, split, classes, metric)[:max_clips], start, end)
    chosen = {name: loading[name] for name in ("sampling", "max_chunks", "dtype") if loading.get(name) is not None}
    folder = folder_of(checkpoint)
    about = {"checkpoint": str(checkpoint or "shipped"), "split": split}
    with started_processes() as processes:
        if processes.count > 1 and output is None:
            raise ValueError(
                f"Expected --output, found none for {processes.count} processes, which collect their answers in that "
                "folder. Name one, or start a single process."
            )
        return evaluate_rows(
            Answerer.load(folder, **loading), rows, *conditions, task=task, root=root, batch_size=batch_size,
            output=output, about=about, rank=rank, classes=classes, workers=workers, processes=processes,
            checkpoint=folder, abstain_below=abstain_below, chosen=chosen,
        )  # fmt: skip


def evaluate_here(*args: Any, **kwargs: Any) -> Evaluation:
    """Evaluate loaded rows as `evaluate_rows` does, in this process alone."""
    evaluation = evaluate_rows(*args, **kwargs)
    assert evaluation is not None, "the first process always has a result"
    return evaluation


def evaluate_rows(
    answerer: Answerer, rows: Sequence[Row], *conditions: Condition, task: str = "grid",
    root: str | Path | None = None, batch_size: int = BATCH_SIZE, output: str | Path | None = None,
    about: dict[str, Any] | None = None, rank: bool = False, classes: str | Path | None = None,
    workers: int | None = None, read: Read | None = None, processes: Processes | None = None,
    checkpoint: Path | None = None, progress: bool = True, abstain_below: float | None = None,
    chosen: Mapping[str, Any] | None = None,
) -> Evaluation | None:  # fmt: skip
    """Evaluate loaded rows as `evaluate` does.

    The constant answers come from the train split in `root`. `chosen` lists settings that differ from the
    checkpoint's. `read(row, condition)` replaces decoding the files; then no clip counts as missing.
    """
    start = time.perf_counter()
    conditions = conditions or (Condition(),)
    missing = [] if read else [row.id for row in rows if not all(one.media.is_file() for one in single_rows([row]))]
    present = [row for row in rows if row.id not in set(missing)]
    if not present:
        raise ValueError(
            f"Expected clips of task {task!r} below {root}, found none of {len(rows)}, such as "
            f"{rows[0].media if rows else 'nothing asked'}. Put them there, or set another --root."
        )
    if rank:
        check_options(present)
    processes = processes or Processes()
    split = (about or {}).get("split", "rows")
    shown: dict[str, Any] = {"checkpoint": "a loaded model", "task": task, "split": split} | (about or {})
    shown |= {
        "condition": conditions[0].name,
        "noise_db": conditions[0].noise_db,
        "noise_seed": None if conditions[0].noise_db is None else conditions[0].noise_seed,
        "answers": "ranked" if rank else "generated",
    }
    train = train_rows(task, root, split, classes)
    get_task(task).check_requirements()
    job = Job(present, task, conditions, batch_size, rank)
    folder = None
    if output is not None:
        whole = {"schema_version": SCHEMA_VERSION, "mirasol": __version__, "root": str(root), "batch_size": batch_size}
        whole |= {"conditions": [condition.key for condition in conditions], "max_new_tokens": answerer.max_new_tokens}
        whole |= {"decoder": answerer.processor.decoder} | dict(chosen or {})
        whole |= {"weights": checkpoint and digest_of_weights(checkpoint), "clips_asked": len(rows)}
        whole |= {"clips_there": len(present), "clips_and_questions": digest_of_rows(present)}
        folder = RunFolder(output, shown | whole)
        if folder.is_finished:
            metrics, predictions = read_results(folder.folder)
            withheld = abstention(predictions, get_task(task), abstain_below)
            metrics = metrics.model_copy(update={"abstention": withheld})
            return Evaluation(
                metrics=metrics, predictions=predictions, rows=present, output=str(output),
                looks_at=answerer.processor.image_processor,
            )  # fmt: skip
    with folder.locked() if folder is not None and processes.is_first else contextlib.nullcontext():
        clips = answer_all(answerer, job, folder, processes, workers, read, progress)
        if not processes.is_first:
            return None
        found = {c: [p for clip in clips for p in clip.predictions.get(c.key, ())] for c in conditions}
        predictions = found[conditions[0]]
        bad = {clip.id: clip.error for clip in clips if clip.error}
        metrics = Metrics(
            **shown,
            clips=Clips(
                asked=len(rows),
                answered=len(present) - len(bad),
                with_sound=len({p.clip for p in predictions if p.sound_used}),
                silent=len({p.clip for p in predictions if p.is_silent}),
                with_warnings=sum(bool(clip.warnings) and not clip.error for clip in clips),
                missing=missing,
                unreadable=bad,
            ),
            coverage=coverage(predictions, task, split),
            comparisons=compare(found, task) if len(conditions) > 1 else [],
            baselines=baselines(get_task(task), rows, train),
            kinds=by_kind(get_task(task), found, rows, train),
            questions=by_question(get_task(task), found, rows, train),
            calibration=calibration(predictions, get_task(task), answerer.temperature),
            abstention=abstention(predictions, get_task(task), abstain_below),
            **summarise(predictions, rows, task, lost={*missing, *bad}, train=train),
        )
        if folder is not None:
            folder.finish(metrics, {condition.key: entries for condition, entries in found.items()})
    warn(metrics, clips)
    return Evaluation(
        metrics=metrics, predictions=predictions, rows=present, output=None if output is None else str(output),
        looks_at=answerer.processor.image_processor, seconds=time.perf_counter() - start,
    )  # fmt: skip


def seconds_of(rows: Sequence[Row], start: float, end: float | None) -> list[Row]:
    """Return the rows cut to these seconds of each clip; they count from the start of its segment."""
    if start == 0 and end is None:
        return list(rows)
    cut = []
    for row in rows:
        first, last = row.segment or (0.0, math.inf)
        segment = first + start, last if end is None else min(last, first + end)
        if segment[0] >= segment[1]:
            raise ValueError(
                f"Expected a start before the end of every clip, found {segment[0]:g} s to {segment[1]:g} s for "
                f"{row.id}: correct --start and --end."
            )
        cut.append(replace(row, segment=segment))
    return cut


def check_options(rows: Sequence[Row]) -> None:
    """Raise ValueError if a question has no options to rank, before anything is decoded."""
    asked = [question for row in rows for question in row.questions]
    if without := [question for question in asked if len(question.options) < 2]:
        raise ValueError(
            f"Expected options to rank for every question, found none for {len(without)} of {len(asked)} questions, "
            f"such as {without[0].text!r} ({without[0].id}). Leave --rank out to generate answers, or, if the task "
            "takes a class list, give it with --classes FILE."
        )


def answer_all(
    answerer: Answerer, job: Job, folder: RunFolder | None, processes: Processes, workers: int | None,
    read: Read | None, progress: bool,
) -> list[AnsweredClip]:  # fmt: skip
    """Return the answers to every clip in the order of the rows; answers in the folder are not computed again.

    The processes divide whole batches, so that a clip is always in the same batch. The first process returns all
    answers; the others return none.
    """
    processes.wait()  # until every process has checked the settings of the folder
    if folder is not None and processes.is_first:
        folder.begin()
    processes.wait()
    done = {} if folder is None else folder.answered()
    processes.wait()  # until every process has read the same answered batches
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


def warn(metrics: Metrics, clips: Sequence[AnsweredClip]) -> None:
    """Warn of clips that are missing, unreadable, or partly used."""
    counts = metrics.clips
    reason = f" ({next(iter(counts.unreadable.values()))})" if counts.unreadable else ""
    for ids, text, why in (
        (counts.missing, "are missing", ""),
        (list(counts.unreadable), "could not be read and are left out", reason),
    ):
        if ids:
            listed = ", ".join(ids[:SHOWN]) + (" ..." if len(ids) > SHOWN else "")
            warnings.warn(f"{len(ids)} of {counts.asked} clips {text}: {listed}{why}", stacklevel=3)
    if counts.with_warnings:
        first = next(clip for clip in clips if clip.warnings and not clip.error)
        warnings.warn(f"{counts.with_warnings} clips gave warnings; {first.id}: {first.warnings[0]}", stacklevel=3)


def score(
    model, processor, rows: Sequence[Row], *, task: str = "grid", conditions: Sequence[str] = ("both",),
    read: Read | None = None, batch_size: int = BATCH_SIZE, should_stop: Callable[[], bool] = lambda: False,
    keep: Callable[[str, Sequence[Question], Sequence[str]], None] | None = None,
) -> dict[str, float]:  # fmt: skip
    """Return flat metrics for validation in training: `words_both`, `letter_both`, ..., one set per condition.

    The means over the conditions are added: of the task's headline, such as `mean_words`, and of `exact_match`.

    `read(row, condition)` may return decoded clips from a cache. The model's training mode is restored. The processes
    of a training run divide the batches; each gets all metrics, or none if `should_stop` returned True on one of them.
    `keep(condition, questions, generated)` receives the answers under each condition.
    """
    was_training, processes = model.training, joined_processes()
    model.eval()
    scored, asked = get_task(task), {question.id: question for row in rows for question in row.questions}
    flat: dict[str, float] = {}
    answerer = Answerer(model, processor, max_new_tokens=longest_answer(processor, rows))
    try:
        for name in conditions:
            job = Job(rows, task, (Condition(name),), batch_size)
            mine, answered = range(processes.rank, job.num_batches, processes.count), {}
            for batch, clips in answer_batches(answerer, job, mine, workers=0, read=read):
                answered[batch] = clips
                if should_stop():
                    break
            answered = processes.gather(answered)
            if len(answered) < job.num_batches:
                return {}
            clips = [clip for batch in range(job.num_batches) for clip in answered[batch]]
            found = [p for clip in clips for p in clip.predictions.get(name, ())]
            questions, generated = [asked[p.question_id] for p in found], [p.generated for p in found]
            scores = scored.score(questions, generated)
            if keep is not None:
                keep(name, questions, generated)
            flat |= flat_scores(scores, name)
            flat[f"bad_clips_{name}"] = float(sum(clip.error is not None for clip in clips))
    finally:
        model.train(was_training)
    return flat | mean_scores(flat, scored, conditions)


def flat_scores(scores: Mapping[str, Any], condition: str) -> dict[str, float]:
    """Return a task's scores as `words_both`, `captions_cider_both`, ..., without the number of questions."""
    flat: dict[str, float] = {}
    for key, value in scores.items():
        if isinstance(value, dict):
            flat |= {f"{key}_{part}_{condition}": float(number) for part, number in value.items()}
        elif key != "num_questions":
            flat[f"{key}_{condition}"] = float(value)
    return flat


def mean_scores(flat: Mapping[str, float], task: Task, conditions: Sequence[str]) -> dict[str, float]:
    """Return `mean_...` over the conditions of the task's headline, and of `exact_match` where it has one."""
    names = [name for name in (task.headline, "exact_match") if f"{name}_{conditions[0]}" in flat]
    return {f"mean_{name}": float(np.mean([flat[f"{name}_{c}"] for c in conditions])) for name in names}


def longest_answer(processor, rows: Sequence[Row]) -> int:
    """Return the limit of new tokens: twice the longest right answer plus 8. Longer answers are wrong and slow."""
    answers = list({question.answer for row in rows for question in row.questions}) or [""]
    return 8 + 2 * max(map(len, processor.tokenizer(answers, add_special_tokens=False)["input_ids"]))


def load_rows(
    task: str, root: str | Path, split: str, classes: str | Path | None = None, metric: str | None = None
) -> list[Row]:
    """Return the rows of one split, or of several joined by "+".

    `train[5%:]` and `train[:5%]` are parts of a split, chosen by a hash of the clips' ids, for data without a
    validation split. `classes` is the task's class list, if any, `metric` the default metric of own data.
    """
    source = get_task(task, classes)
    rows = [row for part in split.split("+") for row in _rows_of(source, root, part)]
    return rows if metric is None else source.with_metric(rows, metric)


def _rows_of(task: Task, root: str | Path, split: str) -> list[Row]:
    cut = re.fullmatch(r"(.+)\[(?:(\d+(?:\.\d+)?)%)?:(?:(\d+(?:\.\d+)?)%)?\]", split)
    if cut is None:
        return task.load(root, split)
    name, low, high = cut[1], float(cut[2] or 0), float(cut[3] or 100)
    rows = task.load(root, name)
    chosen = [row for row in rows if low <= zlib.crc32(row.id.encode()) % 10_000 / 100 < high]
    if not chosen:
        raise ValueError(
            f"Expected clips in {split}, found none of the {len(rows)} clips of {name} below {root}: widen the range."
        )
    return chosen


def train_rows(task: str, root: str | Path | None, split: str = "", classes: str | Path | None = None) -> list[Row]:
    """Return the rows of the train split, from which constant answers are chosen.

    Empty if the data has no train split or if it is evaluated itself; a malformed one is an error.
    """
    if root is None or "train" in split.split("+") or Path(root).is_file():
        return []
    with contextlib.suppress(Absent):
        return get_task(task, classes).annotations(root, "train")
    return []
