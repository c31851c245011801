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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mirasol.chunks import MirasolProcessor
from mirasol.data.convert import load_rows
from mirasol.data.verify import STATES, ClipState, check_clip
from mirasol.files import write_whole
from mirasol.media import MediaWarning
from mirasol.results import Result
from mirasol.tasks import Absent, Row
from mirasol.tasks.base import normalise
from mirasol.tasks.tars import Damaged, Member

SPLITS = ("train", "val", "test")
FEW_TRAIN, FEW_HELD_OUT, FEW_OF_ANSWER = 50, 30, 5  # clips; below these a warning says what to expect
SHOWN = 3
HARMLESS = ("silent", "without sound", "without picture", "damaged", "longer than ")  # a training may mean them so


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
        lines.append("questions, with the score of always giving the most common answer (the baseline to beat):")
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
    states = _open_all([row for of_split in rows.values() for row in of_split], output, workers, progress)
    by_split = {name: [(row, *states[_key(row)]) for row in of_split] for name, of_split in rows.items()}
    findings = [*_clip_findings(by_split, processor), *_leaks(by_split), *_contradictions(by_split)]
    longest, context = None, None
    if processor is not None:
        context = processor.tokenizer.model_max_length
        longest, too_long = _token_lengths(rows, processor)
        findings += too_long
    return Checked(
        source=str(source), clips={name: len(of_split) for name, of_split in rows.items()},
        questions={name: sum(len(row.questions) for row in of_split) for name, of_split in rows.items()},
        findings=findings, asked=_asked(rows), longest_tokens=longest, context=context, warnings=_warnings(rows),
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


def _open_all(rows: Sequence[Row], output, workers, progress) -> dict[str, tuple[ClipState, str]]:
    """Return the state and the digest of every clip, by its key; what `output` has of unchanged files is taken."""
    known: dict[str, tuple[ClipState, str]] = {}
    path = None if output is None else Path(output)
    if path is not None and path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
                found = line["state"]
                fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in found.items()}
                known[line["key"]] = ClipState(**fields), line["digest"]
            except (json.JSONDecodeError, KeyError, TypeError):
                continue  # cut short by a kill
    todo = list({_key(row): row for row in rows if _key(row) not in known}.values())
    if path is not None:  # also cuts off a line that a kill left unfinished
        lines = [{"key": key, "digest": digest, "state": asdict(state)} for key, (state, digest) in known.items()]
        write_whole(path, "".join(f"{json.dumps(line)}\n" for line in lines))
    with warnings.catch_warnings(), ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        warnings.simplefilter("ignore", MediaWarning)
        bar = tqdm(total=len(rows), desc="checking", unit="clip", disable=not progress, initial=len(rows) - len(todo))
        with bar, open(path or os.devnull, "a", encoding="utf-8") as journal:
            for row, state, digest in pool.map(_open, todo):
                known[_key(row)] = state, digest
                journal.write(json.dumps({"key": _key(row), "digest": digest, "state": asdict(state)}) + "\n")
                journal.flush()
                bar.update()
    return known


def _open(row: Row) -> tuple[Row, ClipState, str]:
    """Return a row with its state and the digest of its content."""
    if isinstance(row.media, Member) and row.media.size:
        digest = f"crc {row.media.crc32:08x} {row.media.size}"
    else:
        try:
            with row.media.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, Damaged):
            digest = ""
    return row, check_clip(row), digest


def _key(row: Row) -> str:
    """Return what tells whether a clip was checked before: its file as it is now, and its part of it."""
    facts: Any = None
    if isinstance(row.media, Member):
        facts = [row.media.size, row.media.crc32]
    elif row.media.is_file():
        facts = [row.media.stat().st_size, row.media.stat().st_mtime_ns]
    return json.dumps([str(row.media), row.segment, facts])


def _clip_findings(by_split, processor) -> Iterator[Finding]:
    """Give the faults of clips, those of each split apart."""
    budget = None if processor is None else processor.grid.max_chunks * processor.grid.seconds_per_chunk
    for split, clips in by_split.items():
        faults: dict[str, list[str]] = {name: [] for name in STATES if name != "present"}
        for row, state, _ in clips:
            for name in faults:
                if STATES[name](state):
                    why = f" ({state.notes[0]})" if name in ("undecodable", "damaged") and state.notes else ""
                    faults[name].append(f"{_place(row)} {row.media.name}{why}"[:200])
        if budget is not None:
            long = [(row, state) for row, state, _ in clips if (state.seconds or 0) > budget + 0.1]
            faults[f"longer than {budget:g} s"] = [f"{_place(row)} {state.seconds:g} s" for row, state in long]
        faults["empty"] = [_place(row) for row, state, _ in clips if state.seconds == 0 or _is_empty(row)]
        faults["duplicated"] = [
            f"{_place(same[0])} = {_place(same[1])}" for same in _same_content(clips) for _ in same[1:]
        ]
        for name, found in faults.items():
            if found:
                yield Finding(fault=name, split=split, count=len(found), of=len(clips), first=found[:SHOWN])


def _is_empty(row: Row) -> bool:
    return isinstance(row.media, Path) and row.media.is_file() and row.media.stat().st_size == 0


def _same_content(clips) -> list[list[Row]]:
    """Return the groups of rows about different files, or different places, that hold the same bytes."""
    groups: dict[Any, dict[str, Row]] = defaultdict(dict)
    for row, _, digest in clips:
        if digest:
            groups[digest, row.segment, row.crop].setdefault(str(row.media), row)
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def _leaks(by_split) -> Iterator[Finding]:
    """Give the clips of a held-out split whose content is in train, too."""
    trained = {digest: row for row, _, digest in by_split.get("train", ()) if digest}
    for split, clips in by_split.items():
        if split == "train":
            continue
        leaked = [(row, trained[digest]) for row, _, digest in clips if digest in trained]
        if leaked:
            first = [f"{_place(row)} = {_place(other)}" for row, other in leaked[:SHOWN]]
            yield Finding(fault="also in train", split=split, count=len(leaked), of=len(clips), first=first)


def _contradictions(by_split) -> Iterator[Finding]:
    """Give the questions that get different answers about the same content."""
    for split, clips in by_split.items():
        answers: dict[Any, dict[str, str]] = defaultdict(dict)
        for row, _, digest in clips:
            for place, asked in zip(row.places or [row.id] * len(row.questions), row.questions, strict=True):
                key = digest or str(row.media), row.segment, row.crop, normalise(asked.text), asked.seconds
                answers[key].setdefault(normalise(asked.answer), place)
        wrong = [
            " and ".join(f"{answer!r} ({place})" for answer, place in list(given.items())[:2])
            for given in answers.values()
            if len(given) > 1
        ]
        if wrong:
            yield Finding(
                fault="contradicting answers", split=split, count=len(wrong), of=len(answers), first=wrong[:SHOWN]
            )


def _token_lengths(rows: dict[str, list[Row]], processor: MirasolProcessor) -> tuple[int, list[Finding]]:
    """Return the tokens of the longest text, and the questions that do not fit into the context with their answer."""
    context, longest, findings = processor.tokenizer.model_max_length, 0, []
    lengths: dict[tuple[str, str], int] = {}
    for split, of_split in rows.items():
        too_long, total = [], 0
        for row in of_split:
            for asked in row.questions:
                total += 1
                pair = asked.text, asked.answer
                if pair not in lengths:
                    text = processor.prompt_template.replace("{question}", asked.text)
                    ids = processor.tokenizer([text, asked.answer], add_special_tokens=False, verbose=False)
                    lengths[pair] = sum(map(len, ids["input_ids"])) + 2  # with the first and the last token
                longest = max(longest, lengths[pair])
                if lengths[pair] > context:
                    too_long.append(f"{_place(row)} {lengths[pair]} tokens")
        if too_long:
            found = Finding(
                fault=f"over {context} tokens", split=split, count=len(too_long), of=total, first=too_long[:SHOWN]
            )
            findings.append(found)
    return longest, findings


def _asked(rows: dict[str, list[Row]], most: int = 20) -> list[AskedQuestion]:
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


def _warnings(rows: dict[str, list[Row]]) -> list[str]:
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


def _place(row: Row) -> str:
    """Return where a row comes from: file and line, or its id."""
    return row.places[0] if row.places else row.id
