"""`mirasol data check`: faults of own clips and questions, found before hours of training are spent on them.

Every clip is opened as `mirasol data verify` opens it. With an output file each finding is written as it comes, and
the same command resumes: clips whose file has not changed are not opened again.
"""

import hashlib
import json
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

from pydantic import ValidationError
from tqdm import tqdm

from mirasol.chunks import MirasolProcessor
from mirasol.data.convert import load_rows
from mirasol.data.verify import STATES, ClipState, check_clip, in_threads
from mirasol.files import write_whole
from mirasol.results import Result
from mirasol.tasks import Absent, Row
from mirasol.tasks.base import normalise
from mirasol.tasks.tars import Member, digest_of, state_of

SPLITS = ("train", "val", "test")
FEW_TRAIN, FEW_HELD_OUT, FEW_OF_ANSWER = 50, 30, 5  # clips; below these a warning says what to expect
SHOWN = 3
EMPTY_DIGEST = hashlib.sha256().hexdigest()
HARMLESS = ("silent", "without sound", "without picture", "damaged", "longer than ")  # a training may mean them so


class Opened(Result):
    """A line of the journal: what was found of one clip, `key` says which, and `digest` what it holds."""

    key: str
    digest: str
    state: ClipState


class Clip(NamedTuple):
    """A row, the state of its clip, and the digest of its content."""

    row: Row
    state: ClipState
    digest: str

    @property
    def place(self) -> str:
        """File and line of the row, or its id."""
        return place_of(self.row)

    @property
    def is_empty(self) -> bool:
        """Whether the file has no bytes or no seconds; then this is its only fault."""
        return self.digest == EMPTY_DIGEST or self.state.seconds == 0

    @property
    def content(self) -> str:
        """Digest of the content; "" of a clip without any, because all empty files are alike."""
        return "" if self.is_empty else self.digest


Splits = Mapping[str, Sequence[Clip]]


class Finding(Result):
    """Clips or questions with one fault: their number, and the first of them."""

    fault: str
    split: str
    count: int
    of: int
    first: list[str]

    @property
    def is_harmful(self) -> bool:
        """Whether it breaks a training or biases what is learned or measured."""
        return not self.fault.startswith(HARMLESS)


class AskedQuestion(Result):
    """One question's text: how often it is asked, its answers, and the score of the most common one."""

    text: str
    split: str
    count: int
    num_answers: int
    answers: dict[str, int]
    baseline: float


class Checked(Result):
    """Result of a check of all splits."""

    source: str
    clips: dict[str, int]
    questions: dict[str, int]
    findings: list[Finding]
    asked: list[AskedQuestion]
    longest_tokens: int | None
    context: int | None
    warnings: list[str]
    sheet: str | None = None

    @property
    def exit_code(self) -> int:
        """1 if a finding breaks or biases a training, else 0."""
        return int(any(found.is_harmful for found in self.findings))

    def __str__(self) -> str:
        counts = ", ".join(f"{split} {count:,} clips with {self.questions[split]:,} questions"
                           for split, count in self.clips.items())  # fmt: skip
        lines = [f"{self.source}: {counts}"]
        for found in self.findings:
            first = "; ".join(found.first).replace(f"{self.source.rstrip('/')}/", "")
            lines.append(f"  {found.fault:<22}{found.split:<7}{found.count:>7,} of {found.of:,}  {first}")
        if not self.findings:
            lines.append("  no fault of a clip or a text found")
        if self.context:
            lines.append(f"  longest text           {self.longest_tokens} of {self.context} tokens of the context")
        common = "train's most common answer" if "train" in self.clips else "the most common answer"
        lines.append(f"questions, with the score of always giving {common} (the baseline to beat):")
        for asked in self.asked:
            top = ", ".join(f"{answer!r} {count}" for answer, count in list(asked.answers.items())[:SHOWN])
            more = ", ..." if asked.num_answers > SHOWN else ""
            lines.append(f"  {asked.split:<7}{asked.count:>6,} x {asked.baseline:>6.1%}  {asked.text!r}: {top}{more}")
        lines += [f"warning: {text}" for text in self.warnings]
        lines += [f"what the model sees: {self.sheet}"] if self.sheet else []
        if harmful := dict.fromkeys(found.fault for found in self.findings if found.is_harmful):
            lines.append(f"to mend before training (exit code 1): {', '.join(harmful)}")
        return "\n".join(lines)


def check(
    source: str | Path,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    question: str | None = None,
    processor: MirasolProcessor | None = None,
    output: str | Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Checked:
    """Check the clips and texts of every split of a source, or of one.

    Args:
        source: A manifest of any kind, as `load_rows` reads it.
        split: The only split to check.
        columns, question: See `load_rows`.
        processor: Its grid and context are checked against: clips that are too long, texts that do not fit.
        output: File that gets one line for each clip, from which the same command resumes.
        workers: Clips opened at a time, by default one a core.
        progress: Show a bar.
    """
    rows = load_splits(source, split, columns, question)
    opened = open_all([row for of_split in rows.values() for row in of_split], output, workers, progress)
    splits = {
        name: [Clip(row, opened[key_of(row)].state, opened[key_of(row)].digest) for row in of_split]
        for name, of_split in rows.items()
    }
    findings = [*clip_findings(splits, processor), *leaks(splits), *contradictions(splits)]
    longest = context = None
    if processor is not None:
        context = processor.tokenizer.model_max_length
        longest, too_long = token_lengths(rows, processor)
        findings += too_long
    return Checked(
        source=str(source), clips={name: len(of_split) for name, of_split in rows.items()},
        questions={name: sum(len(row.questions) for row in of_split) for name, of_split in rows.items()},
        findings=findings, asked=asked_questions(rows), longest_tokens=longest, context=context,
        warnings=warnings_of(rows),
    )  # fmt: skip


def load_splits(
    source: str | Path, split: str | None = None, columns: Mapping[str, str] | None = None, question: str | None = None
) -> dict[str, list[Row]]:
    """Return the rows of every split that a source has, those of a single file as `all`."""
    names = [split] if split else list(SPLITS) if Path(source).is_dir() or str(source).startswith("http") else ["all"]
    found: dict[str, list[Row]] = {}
    absent: list[Absent] = []
    for name in names:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* are missing: ")  # counted below
            try:
                found[name] = load_rows(source, "train" if name == "all" else name, columns, question)
            except Absent as error:
                absent.append(error)
    if not found:
        raise absent[0]
    same = {tuple((str(row.media), row.id) for row in rows) for rows in found.values()}
    if len(found) > 1 and len(same) == 1:  # a folder that is one set, whatever split is asked for
        found = {"all": next(iter(found.values()))}
    return found


def open_all(rows: Sequence[Row], output: str | Path | None, workers: int | None, progress: bool) -> dict[str, Opened]:
    """Return what was found of every clip, by its key; what `output` has of unchanged files is taken from there."""
    known: dict[str, Opened] = {}
    path = Path(output or os.devnull)
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            found = Opened.model_validate_json(line)
        except ValidationError:
            continue  # cut short by a kill
        known[found.key] = found
    todo = list({key_of(row): row for row in rows if key_of(row) not in known}.values())
    if output is not None:  # also cuts off a line that a kill left unfinished
        write_whole(path, "".join(f"{found.as_json()}\n" for found in known.values()))
    bar = tqdm(total=len(rows), desc="checking", unit="clip", disable=not progress, initial=len(rows) - len(todo))
    with bar, path.open("a", encoding="utf-8") as journal:
        for found in in_threads(open_one, todo, workers):
            known[found.key] = found
            journal.write(f"{found.as_json()}\n")
            journal.flush()
            bar.update()
    return known


def open_one(row: Row) -> Opened:
    """Return what is found of one clip."""
    media = row.media
    has_checksum = isinstance(media, Member) and media.size  # in its index
    digest = f"crc {media.crc32:08x} {media.size}" if has_checksum else digest_of(media)  # type: ignore[union-attr]
    return Opened(key=key_of(row), digest=digest, state=check_clip(row))


def key_of(row: Row) -> str:
    """Return what tells whether a clip was checked before: its file as it is now, and its part of it."""
    return json.dumps([str(row.media), row.segment, state_of(row.media)])


def place_of(row: Row) -> str:
    """Return where a row comes from: file and line, or its id."""
    return row.places[0] if row.places else row.id


def finding(fault: str, split: str, places: Sequence[str], of: int) -> Iterator[Finding]:
    """Give the fault of these clips or questions, nothing where there are none."""
    if places:
        yield Finding(fault=fault, split=split, count=len(places), of=of, first=[*places[:SHOWN]])


def clip_findings(splits: Splits, processor: MirasolProcessor | None) -> Iterator[Finding]:
    """Give the faults of clips, those of each split apart."""
    for split, clips in splits.items():
        filled = [clip for clip in clips if not clip.is_empty]
        faults = {name: [_described(clip, name) for clip in filled if STATES[name](clip.state)] for name in STATES}
        del faults["present"]
        if processor is not None:
            budget = processor.grid.max_chunks * processor.grid.seconds_per_chunk
            long = [clip for clip in clips if (clip.state.seconds or 0) > budget + 0.1]
            faults[f"longer than {budget:g} s"] = [f"{clip.place} {clip.state.seconds:g} s" for clip in long]
        faults["empty"] = [clip.place for clip in clips if clip.is_empty]
        groups: dict[Any, dict[str, str]] = defaultdict(dict)  # of different files, or places, with the same bytes
        for clip in clips:
            if clip.content:
                groups[clip.content, clip.row.segment, clip.row.crop].setdefault(str(clip.row.media), clip.place)
        faults["duplicated"] = [
            f"{first} = {others[0]}" for first, *others in map(dict.values, groups.values()) for _ in others
        ]
        for name, places in faults.items():
            yield from finding(name, split, places, len(clips))


def _described(clip: Clip, fault: str) -> str:
    why = f" ({clip.state.notes[0]})" if fault in ("undecodable", "damaged") and clip.state.notes else ""
    return shorten(f"{clip.place} {clip.row.media.name}{why}", 200, placeholder=" ...")


def leaks(splits: Splits) -> Iterator[Finding]:
    """Give the clips of a split whose content is in an earlier one, too: test leaks from val, which chooses."""
    for (earlier, before), (split, clips) in combinations(splits.items(), 2):
        seen = {clip.content: clip.place for clip in before if clip.content}
        leaked = [f"{clip.place} = {seen[clip.content]}" for clip in clips if clip.content in seen]
        yield from finding(f"also in {earlier}", split, leaked, len(clips))


def contradictions(splits: Splits) -> Iterator[Finding]:
    """Give the questions that get different answers about the same content."""
    for split, clips in splits.items():
        answers: dict[Any, dict[str, str]] = defaultdict(dict)
        for clip in clips:
            row = clip.row
            for place, asked in zip(row.places or [row.id] * len(row.questions), row.questions, strict=True):
                key = clip.content or str(row.media), row.segment, row.crop, normalise(asked.text), asked.seconds
                answers[key].setdefault(normalise(asked.answer), place)
        wrong = [
            " and ".join(f"{answer!r} ({place})" for answer, place in list(given.items())[:2])
            for given in answers.values()
            if len(given) > 1
        ]
        yield from finding("contradicting answers", split, wrong, len(answers))


def token_lengths(rows: dict[str, list[Row]], processor: MirasolProcessor) -> tuple[int, list[Finding]]:
    """Return the tokens of the longest text, and the questions that do not fit into the context with their answer."""
    context, findings = processor.tokenizer.model_max_length, list[Finding]()
    lengths: dict[tuple[str, str], int] = {}
    for split, of_split in rows.items():
        too_long = []
        asked = [(row, question) for row in of_split for question in row.questions]
        for row, question in asked:
            pair = question.text, question.answer
            if pair not in lengths:
                text = processor.prompt_template.replace("{question}", question.text)
                ids = processor.tokenizer([text, question.answer], add_special_tokens=False, verbose=False)
                lengths[pair] = sum(map(len, ids["input_ids"])) + 2  # with the first and the last token
            if lengths[pair] > context:
                too_long.append(f"{place_of(row)} {lengths[pair]} tokens")
        findings += finding(f"over {context} tokens", split, too_long, len(asked))
    return max(lengths.values(), default=0), findings


def asked_questions(rows: dict[str, list[Row]], most: int = 20) -> list[AskedQuestion]:
    """Return the most frequent questions, with the baseline: the most common answer of train, where there is train."""
    counts = {
        split: Counter((q.text, normalise(q.answer)) for row in of_split for q in row.questions)
        for split, of_split in rows.items()
    }
    answers: dict[str, dict[str, Counter]] = {split: defaultdict(Counter) for split in rows}
    for split, of_split in counts.items():
        for (text, answer), count in of_split.items():
            answers[split][text][answer] = count
    asked = []
    for split, by_text in answers.items():
        common = sorted(by_text.items(), key=lambda item: (-item[1].total(), item[0]))[:most]
        for text, given in common:
            known = answers.get("train", by_text).get(text) or given
            constant = min(known, key=lambda answer: (-known[answer], answer))
            asked.append(AskedQuestion(
                text=text, split=split, count=given.total(), num_answers=len(given),
                answers=dict(given.most_common(10)), baseline=given[constant] / given.total(),
            ))  # fmt: skip
    return asked


def warnings_of(rows: dict[str, list[Row]]) -> list[str]:
    """Return what a model of so few clips, or such answers, cannot be expected to learn."""
    told = []
    for split, of_split in rows.items():
        few = FEW_HELD_OUT if split in ("val", "test") else FEW_TRAIN
        if len(of_split) < few:
            half = f"{100 / max(len(of_split), 1):.1f}"
            told.append(
                f"{split} has {len(of_split)} clips, fewer than {few}: "
                + (f"one clip is {half} points of its score" if few == FEW_HELD_OUT else "expect a model that fails "
                   "on clips of another day; record more, or start from a checkpoint")
            )  # fmt: skip
    train = rows.get("train", rows.get("all", []))
    count = Counter(normalise(q.answer) for row in train for q in row.questions)
    rare = [answer for answer, times in count.items() if times < FEW_OF_ANSWER]
    if rare:
        told.append(
            f"{len(rare)} of {len(count)} answers occur fewer than {FEW_OF_ANSWER} times in train, such as {rare[0]!r}"
        )
    for split in ("val", "test"):
        new = {normalise(q.answer) for row in rows.get(split, []) for q in row.questions} - count.keys()
        if new and "train" in rows:
            told.append(f"{len(new)} answers of {split} never occur in train, such as {sorted(new)[0]!r}")
    return told
