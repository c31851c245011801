"""GRID audio-visual sentences: six words per clip with their times ("bin blue at f two now").

Split: column `split` of labels.csv (fixed; test sentences do not occur in training). Prompt: the questions below.
Answer: the spoken words, "nothing" between words, or seconds with one decimal. Metric: exact match by kind; for "when"
the median absolute error and the share within 0.1 s, beside those of the best constant answer in train.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mirasol.tasks.annotations import check_split, read_table
from mirasol.tasks.base import Question, Row, Task
from mirasol.tasks.metrics.exact import mean

WORD_KINDS = ("command", "color", "preposition", "letter", "digit", "adverb")
SPLITS = ("train", "val", "test")
COLUMNS = ("id", "file", "split", *WORD_KINDS, "word_times_s")
NOTHING = "nothing"
DURATION = 2.96  # seconds that every clip has: 5 of 900 clips are one frame shorter than 3.0 s
EDGE = 0.02  # seconds between a question and a word's edge, half a frame, which is the precision of the labels
WITHIN = 0.1


@dataclass(frozen=True)
class GridRow(Row):
    """One sentence with six words, whose (start, end) seconds are in `word_times`, in the order of WORD_KINDS."""

    words: tuple[str, ...] = ()
    split: str = ""


class Grid(Task):
    """GRID sentences: questions about the six words and their times."""

    name = "grid"
    headline = "words"
    headline_kinds = WORD_KINDS
    headline_group = "words"
    time_kinds = tuple(f"when_{kind}" for kind in WORD_KINDS)

    def load(self, root: str | Path, split: str = "test") -> list[GridRow]:  # type: ignore[override]  # its own rows
        """Return the rows of a split, in the order of `root`/labels.csv, with their evaluation questions.

        `root` is the shipped `data/grid_s1`, or a copy of GRID with the same clips and labels.
        """
        root = Path(root)
        check_split(split, SPLITS)
        labels = root / "labels.csv"
        if not labels.is_file():
            raise ValueError(
                f"Expected the GRID labels at {labels}, found no such file. Set --root to a folder with labels.csv "
                "and clips/, such as data/grid_s1 of a checkout."
            )
        rows = []
        for _, line in read_table(labels, COLUMNS):
            if line["split"] == split:
                words = tuple(line[kind] for kind in WORD_KINDS)
                start_end = (span.split("-") for span in line["word_times_s"].split(";"))
                word_times = tuple((float(start), float(end)) for start, end in start_end)
                row = GridRow(line["id"], root / line["file"], word_times=word_times, words=words, split=split)
                rows.append(replace(row, questions=tuple(evaluation_questions(row))))
        return rows

    def sample_questions(  # type: ignore[override]  # of its own rows
        self, row: GridRow, rng: np.random.Generator, word_times: Sequence[tuple[float, float]], duration: float
    ) -> list[Question]:
        """Return the 14 questions of one training step: 6 words, sentence, 4 said-at (balanced over words), 3 x when.

        `word_times` are the seconds after augmentation, inside a clip of `duration` seconds.
        """
        chosen = rng.permutation(7)[:4]
        when = when_questions(row, word_times)
        return [
            *word_questions(row, word_times),
            sentence_question(row, word_times),
            *said_at_questions(row, word_times, rng, chosen, duration, decimals=2 if rng.random() < 0.25 else 1),
            *(when[i] for i in rng.permutation(6)[:3]),
        ]

    def score(self, questions: Sequence[Question], predictions: Sequence[str], train_rows: Iterable[Row] = ()) -> dict:
        """Return `words` (mean exact match of the six kinds of words), exact match by kind, and `when_*` errors.

        With `train_rows`, every `when_*` also has the errors of the best constant answer in train.
        """
        by_kind: dict[str, list[tuple[Question, str]]] = {}
        for question, prediction in zip(questions, predictions, strict=True):
            by_kind.setdefault(question.kind, []).append((question, prediction))
        train_rows = list(train_rows)
        constants = best_constants(train_rows) if train_rows else {}
        metrics: dict = {"num_questions": len(questions)}
        for kind, pairs in by_kind.items():
            if kind not in self.time_kinds:
                metrics[kind] = mean([self.is_right(*pair) for pair in pairs])
                continue
            errors = np.array([self.error_seconds(*pair) for pair in pairs])
            entry = {"median_error_seconds": float(np.median(errors)), "within_0.1_seconds": _within(errors)}
            if constants:
                begins = np.array([question.seconds[0] for question, _ in pairs if question.seconds])
                for_median, for_within = constants[kind.removeprefix("when_")]
                entry["constant_median_error_seconds"] = float(np.median(np.abs(begins - for_median)))
                entry["constant_within_0.1_seconds"] = _within(np.abs(begins - for_within))
            metrics[kind] = entry
        found = [metrics[kind] for kind in WORD_KINDS if kind in metrics]
        if found:
            metrics["words"] = mean(found)
        return metrics


def evaluation_questions(row: GridRow) -> list[Question]:
    """Return the 17 questions asked in evaluation: 6 words, sentence, said-at (3 words, 1 gap), 6 x when."""
    rng = np.random.default_rng([0, zlib.crc32(row.id.encode())])
    chosen = [*rng.permutation(6)[:3], 6]
    return [
        *word_questions(row, row.word_times),
        sentence_question(row, row.word_times),
        *said_at_questions(row, row.word_times, rng, chosen, DURATION),
        *when_questions(row, row.word_times),
    ]


def word_questions(row: GridRow, word_times) -> list[Question]:
    """Return the six questions such as "which color is named?"."""
    return [
        Question(f"{row.id}/{kind}", f"which {kind} is named?", word, kind, seconds)
        for kind, word, seconds in zip(WORD_KINDS, row.words, word_times, strict=True)
    ]


def sentence_question(row: GridRow, word_times) -> Question:
    """Return "what is said?"."""
    seconds = (word_times[0][0], word_times[-1][1])
    return Question(f"{row.id}/sentence", "what is said?", " ".join(row.words), "sentence", seconds)


def when_questions(row: GridRow, word_times) -> list[Question]:
    """Return the six questions such as "when does the letter begin?"."""
    return [
        Question(f"{row.id}/when_{kind}", f"when does the {kind} begin?", f"{seconds[0]:.1f}", f"when_{kind}", seconds)
        for kind, seconds in zip(WORD_KINDS, word_times, strict=True)
    ]


def said_at_questions(row, word_times, rng: np.random.Generator, chosen, duration: float, decimals: int = 1):
    """Return one "what is said at 1.4 seconds?" per entry of `chosen` (0-5: that word; 6: no word).

    A word that contains no time with these decimals (EDGE away from its ends) is replaced by a random other one.
    """
    spans = [*zip(row.words, [[span] for span in word_times], strict=True)]
    edges = [0.0, *(edge for span in word_times for edge in span), duration]
    spans.append((NOTHING, [*zip(edges[::2], edges[1::2], strict=True)]))
    step = 10**decimals
    choices = [
        [
            (tick / step, word, (start, end))
            for start, end in intervals
            for tick in range(int(np.ceil((start + EDGE) * step)), int(np.floor((end - EDGE) * step)) + 1)
        ]
        for word, intervals in spans
    ]
    possible = [index for index, ticks in enumerate(choices) if ticks]
    questions: list[Question] = []
    for index in chosen:
        ticks = choices[index] or choices[possible[rng.integers(len(possible))]]
        time, word, seconds = ticks[rng.integers(len(ticks))]
        text = f"{time:.{decimals}f}"
        name = f"{row.id}/said_at_{len(questions)}/{text}"
        questions.append(Question(name, f"what is said at {text} seconds?", word, "said_at", seconds))
    return questions


def best_constants(rows: Iterable[Row]) -> dict[str, tuple[float, float]]:
    """Return, for each kind of word, the constant with the least median error and the one most often within 0.1 s."""
    begins = np.array([[start for start, _ in row.word_times] for row in rows])  # row kind
    grid = np.arange(0, 3.01, 0.1)[:, None, None]
    errors = np.abs(begins[None] - grid)
    median, within = np.median(errors, axis=1), (errors <= WITHIN + 1e-6).mean(axis=1)
    return {
        kind: (float(grid[median[:, i].argmin(), 0, 0]), float(grid[within[:, i].argmax(), 0, 0]))
        for i, kind in enumerate(WORD_KINDS)
    }


def _within(errors: np.ndarray) -> float:
    return float((errors <= WITHIN + 1e-6).mean())
