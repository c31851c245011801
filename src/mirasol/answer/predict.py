"""`mirasol predict`: questions about many clips, each watched once, answered into a file that can be resumed."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from mirasol.answer.answer_files import AnswerFile
from mirasol.answer.answerer import Answerer, Prompts
from mirasol.answer.ask import cut_warning
from mirasol.answer.checkpoint import digest_of_weights, folder_of
from mirasol.answer.clip_lists import Asked, read_clips
from mirasol.answer.ranking import refusal
from mirasol.answer.reading import WHOLE_FILE, Reading
from mirasol.data.ahead import load_ahead
from mirasol.media import probe
from mirasol.results import Document

SHORT = 0.1  # a remainder shorter than this share of a segment is merged into the segment before
SHOWN = 5
Write = Callable[[Sequence[Mapping[str, Any]]], None]


class Predicted(Document):
    """Summary of a run; the rows of an unreadable clip hold its error."""

    clips: int
    answers: int
    done_before: int
    abstained: int = 0
    failed: dict[str, str]
    output: str | None = None
    warnings: list[str] = []

    @property
    def exit_code(self) -> int:
        """0 if every clip was answered, 1 if some were unreadable, 2 if nothing was answered."""
        return 0 if not self.failed else 1 if self.answers or self.done_before else 2

    def __str__(self) -> str:
        before = f", {self.done_before} answered before" if self.done_before else ""
        where = f" -> {self.output}" if self.output else ""
        withheld = f", {self.abstained} withheld" if self.abstained else ""
        lines = [f"{self.answers} answers about {self.clips} clips{before}{withheld}{where}"]
        if self.failed:
            listed = "; ".join(f"{clip}: {error}" for clip, error in list(self.failed.items())[:SHOWN])
            again = " To try them again, delete their rows, which hold the error." if self.output else ""
            lines.append(f"{len(self.failed)} clips could not be read: {listed}{again}")
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


@dataclass
class Decoded:
    """Chunk inputs of a clip, or the error."""

    chunks: Mapping[str, torch.Tensor] | None = None
    warnings: Sequence[str] = ()
    error: str | None = None


class AskedClips(Dataset):
    """Item i is clip i decoded, or the reason why it is unreadable."""

    def __init__(self, asked: Sequence[Asked], processor, reading: Reading):
        self.asked, self.processor, self.reading = asked, processor, reading

    def __len__(self) -> int:
        return len(self.asked)

    def __getitem__(self, index: int) -> Decoded:
        asked = self.asked[index]
        crop = asked.crop or self.reading.crop
        reading = replace(self.reading, start=asked.start, end=asked.end, crop=crop)
        try:
            chunks, report = reading.chunks(self.processor, asked.clip)
            return Decoded(chunks, report.warnings)
        except Exception as error:  # one bad file must not end the run
            known = isinstance(error, ValueError | OSError)
            return Decoded(error=str(error) if known else f"{type(error).__name__}: {error}")


def predict(
    sources: Sequence[str],
    questions: Sequence[str] = (),
    checkpoint: str | Path | None = None,
    *,
    options: Sequence[str] | None = None,
    reading: Reading = WHOLE_FILE,
    rank: bool = False,
    segment_seconds: float | None = None,
    output: str | None = None,
    write: Write | None = None,
    abstain_below: float | None = None,
    batch_size: int = 8,
    workers: int | None = None,
    progress: bool = True,
    **loading: Any,
) -> Predicted:
    """Answer questions about many clips; rows are written to `output`, or passed to `write` clip by clip.

    Under torchrun the processes divide the clips and append to the same file.

    Args:
        sources: Files, folders, globs, manifests or "-", see `read_clips`.
        questions: Questions about clips that have none in a manifest.
        checkpoint: Folder of the checkpoint; by default the shipped one.
        options: Answers to rank by likelihood; implies `rank`.
        reading: Part of each clip to watch.
        rank: Rank the options in the manifest instead of generating answers.
        segment_seconds: Cut each clip into segments of this length and ask about each of them.
        output: A .jsonl or .csv file, from which a killed run resumes.
        write: Called with the rows of each clip, if there is no `output`.
        abstain_below: Confidence from 0 to 1 below which an answer is marked as withheld.
        batch_size: Clips watched at once.
        workers: Number of decoding processes; by default one per core, none for a few clips.
        progress: Show a progress bar.
        **loading: Arguments of `Answerer.load`: `device`, `dtype`, `decoder`, `sampling`, `max_chunks`,
            `max_new_tokens`.
    """
    clips = read_clips(sources, questions, options or ())
    rank = rank or options is not None
    if rank and (without := [clip for clip in clips if len(clip.options) < 2]):
        raise ValueError(
            f"Expected at least two options to rank, found {len(without[0].options)} for {without[0].clip}: give "
            "--options A,B or 'options' in the manifest."
        )
    answerer = Answerer.load(checkpoint, **loading)
    prompts = {}
    for clip in clips:  # raises for a question that is too long, before anything is decoded
        for question in clip.questions:
            if not question.strip():
                raise ValueError("Expected a question, found empty text: remove it.")
            if (question, clip.options) not in prompts:
                prompts[question, clip.options] = answerer.prompts([question], [clip.options] if rank else None)
    unlike = {question: answerer.warnings(question) for question in dict.fromkeys(question for question, _ in prompts)}
    file = None
    if output is not None:
        about = {"weights": digest_of_weights(folder_of(checkpoint)), "reading": asdict(reading), "rank": rank}
        chosen = {name: value for name, value in loading.items() if name != "device"}
        chosen |= {"options": options, "segment_seconds": segment_seconds, "abstain_below": abstain_below}
        file = AnswerFile(output, about | chosen)
    if segment_seconds is not None:
        looked = tqdm(clips, desc="looking at clips", unit="clip", disable=not progress or len(clips) < 50)
        clips = [piece for clip in looked for piece in pieces(clip, reading, segment_seconds)]
    else:
        clips = [within(clip, reading) for clip in clips]
    rank_of_process, num_processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    mine = list(clips)[rank_of_process::num_processes]
    left, num_answers, num_before, num_abstained = [], 0, 0, 0
    failed: dict[str, str] = {}
    for clip in mine:
        own = clip.crop, clip.options if rank else ()
        before = {q: file.error_of((clip.clip, clip.start, clip.end, q), *own) for q in clip.questions} if file else {}
        if errors := [error for error in before.values() if error]:
            failed[clip.clip] = errors[0]
        num_before += sum(error == "" for error in before.values())
        questions = tuple(question for question in clip.questions if before.get(question) is None)
        left += [replace(clip, questions=questions)] if questions else []
    dataset = AskedClips(left, answerer.processor, reading)
    with tqdm(total=len(mine), initial=len(mine) - len(left), unit="clip", disable=not progress) as bar:
        decoded = zip(left, load_ahead(dataset, range(len(left)), workers), strict=True)
        while batch := list(islice(decoded, batch_size)):
            for clip, rows in _answer(answerer, batch, prompts, rank):
                for row in rows:
                    row["warnings"] += unlike[row["question"]]
                    sure = row["confidence"]
                    row["abstained"] = (None not in (sure, abstain_below) and sure < abstain_below) or None
                    num_abstained += bool(row["abstained"])
                errors = [row["error"] for row in rows if row["error"]]
                num_answers += len(rows) - len(errors)
                if errors:
                    failed[clip.clip] = errors[0]
                if file:
                    file.append(rows)
                elif write:
                    write(rows)
            bar.update(len(batch))
    return Predicted(
        clips=len({clip.clip for clip in mine}), answers=num_answers, done_before=num_before, failed=failed,
        abstained=num_abstained, output=output, warnings=[text for texts in unlike.values() for text in texts],
    )  # fmt: skip


def within(clip: Asked, reading: Reading) -> Asked:
    """Return the clip restricted to `reading`; its seconds count from the start of the clip's segment."""
    ends = [end for end in (clip.end, reading.end and clip.start + reading.end) if end is not None]
    return replace(clip, start=clip.start + reading.start, end=min(ends, default=None))


def pieces(clip: Asked, reading: Reading, seconds: float) -> Iterator[Asked]:
    """Yield the segments of a clip; an unreadable clip is yielded whole, because reading it reports the error."""
    clip = within(clip, reading)
    try:
        duration = probe(clip.clip).duration_seconds
    except (ValueError, OSError):
        yield clip
        return
    end = float(duration) if clip.end is None else min(clip.end, float(duration))
    count = max(1, math.ceil((end - clip.start) / seconds - SHORT))
    for number in range(count):
        last = end if number == count - 1 else clip.start + (number + 1) * seconds
        yield replace(clip, start=round(clip.start + number * seconds, 3), end=round(last, 3))


def _answer(
    answerer: Answerer, batch: Sequence[tuple[Asked, Decoded]], prompts: Mapping[tuple, Prompts], rank: bool
) -> Iterator[tuple[Asked, list[dict[str, Any]]]]:
    """Yield the rows of each clip of a batch, in its order."""
    readable = [(clip, decoded) for clip, decoded in batch if decoded.error is None]
    given: Iterator[list[dict[str, Any]]] = iter(())
    if readable:
        watched = answerer.watch(*(decoded.chunks for _, decoded in readable if decoded.chunks is not None))
        asked = [[prompts[question, clip.options] for question in clip.questions] for clip, _ in readable]
        given = iter((_ranked if rank else _generated)(answerer, watched, asked))
    for clip, decoded in batch:
        found = next(given) if decoded.error is None else [{"error": decoded.error}] * len(clip.questions)
        rows = []
        for question, values in zip(clip.questions, found, strict=True):
            row = {"clip": clip.clip, "start": clip.start, "end": clip.end, "crop": clip.crop, "question": question}
            rows.append(
                {**row, "answer": None, "confidence": None, "ranked": None, "error": None, **values}
                | {"warnings": [*decoded.warnings, *values.get("warnings", ())]}
            )
        yield clip, rows


def _generated(answerer: Answerer, watched, asked: Sequence[Sequence[Prompts]]) -> Iterator[list[dict[str, Any]]]:
    for answers in answerer.answer(watched, [_joined(prompts) for prompts in asked]):
        yield [
            {"error": why}
            if (why := refusal([one]))
            else {
                "answer": one.text,
                "confidence": round(one.confidence, 6),
                "warnings": [cut_warning(one)] * one.is_cut,
            }
            for one in answers
        ]


def _ranked(answerer: Answerer, watched, asked: Sequence[Sequence[Prompts]]) -> Iterator[list[dict[str, Any]]]:
    for rankings in answerer.rank(watched, [_joined(prompts) for prompts in asked]):
        rows: list[dict[str, Any]] = []
        for ranking in rankings:
            if why := refusal([ranking]):
                rows.append({"error": why})
                continue
            shares = dict(zip(ranking.options, (round(share, 6) for share in ranking.shares), strict=True))
            ordered = {option: shares[option] for option in ranking.best(len(ranking.options))}
            best = next(iter(ordered))
            rows.append({"answer": best, "confidence": ordered[best], "ranked": ordered})
        yield rows


def _joined(prompts: Sequence[Prompts]) -> Prompts:
    """Join the prompts of one clip, whose questions were tokenised one by one."""
    rows = {name: [row for one in prompts for row in one.rows[name]] for name in prompts[0].rows}
    return Prompts(rows, tuple(options for one in prompts for options in one.options))
