"""Films of GRID sentences joined end to end, with questions whose answers lie anywhere in minutes of video.

Split: "train_10" are films of 10 sentences of GRID's train split, "test_1-10" of 1 to 10 sentences; "train", "val" and
"test" without a number have films of up to 10. A film never mixes splits. Films come from successive shuffles of the
split's sentences, a function of (seed, split, lengths), so that every sentence is used equally often. No file is
written: a film is a row with `parts`, whose clips, each cut or padded to `DURATION` seconds, are joined on reading.
Prompt: the questions below. Answer: a word, "yes" or "no", a number. Metric: exact match per kind.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mirasol.tasks.annotations import check_split
from mirasol.tasks.base import Absent, Question, Row, Task
from mirasol.tasks.grid import DURATION, EDGE, SPLITS, WORD_KINDS, Grid, GridRow

NUM_FILMS = {"train": 720, "val": 60, "test": 90}
DEFAULT_LENGTHS = "1-10"
MAX_SENTENCES = 1_000
COLORS = ("blue", "green", "red", "white")
LETTERS = tuple("abcdefghijklmnopqrstuvxyz")  # GRID has no w
COLOR, LETTER = WORD_KINDS.index("color"), WORD_KINDS.index("letter")
NUM_SAID_AT, NUM_COLOR_AT, NUM_COUNTS = 4, 4, 2  # questions of each kind per film


@dataclass(frozen=True)
class FilmRow(Row):
    """One film: `parts` are its sentences, `sentences` their words, `word_times` in seconds of the film."""

    sentences: tuple[tuple[str, ...], ...] = ()


class GridFilms(Task):
    """GRID films: words at a time, the first and last color, presence of a letter, count of a color."""

    name = "grid_films"

    def load(self, root: str | Path, split: str = "test") -> list[FilmRow]:  # type: ignore[override]  # its own rows
        """Return the films of a split such as `test`, `test_40` or `train_1-10`; `root` is that of task grid."""
        name, low, high = parse_split(split)
        return films(Grid().load(root, name), NUM_FILMS[name], (low, high), split)

    def sample_questions(  # type: ignore[override]  # of its own rows
        self, row: FilmRow, rng: np.random.Generator, word_times: Sequence[tuple[float, float]] = (), duration=0.0
    ) -> list[Question]:
        """Return new random questions for one training step, with the times after augmentation."""
        return film_questions(row, word_times or row.word_times, rng, decimals=2 if rng.random() < 0.25 else 1)


def parse_split(split: str) -> tuple[str, int, int]:
    """Return GRID's split and the least and largest number of sentences: "test_1-10" is ("test", 1, 10)."""
    name, _, lengths = split.partition("_")
    check_split(name, SPLITS, f"Films are asked for as {', '.join(SPLITS)}, or with their sentences, as test_40.")
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", lengths or DEFAULT_LENGTHS)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high <= MAX_SENTENCES:
        raise Absent(
            f"Expected films of 1 to {MAX_SENTENCES} sentences, such as {name}_40 or {name}_1-10, found {split!r}."
        )
    return name, low, high


def films(
    sentences: Sequence[GridRow], count: int, lengths: tuple[int, int], split: str, seed: int = 0
) -> list[FilmRow]:
    """Return `count` films of `lengths[0]` to `lengths[1]` sentences; (seed, split) alone decides the draw."""
    key = [seed, zlib.crc32(split.encode())]
    sizes = np.random.default_rng(key).integers(lengths[0], lengths[1] + 1, size=count)
    rounds = -(-int(sizes.sum()) // len(sentences))
    order = np.concatenate([np.random.default_rng([*key, r]).permutation(len(sentences)) for r in range(rounds)])
    rows = []
    for index, (size, end) in enumerate(zip(sizes, np.cumsum(sizes), strict=True)):
        parts = [sentences[place] for place in order[end - size : end]]
        times = [
            (round(start + number * DURATION, 3), round(stop + number * DURATION, 3))
            for number, part in enumerate(parts)
            for start, stop in part.word_times
        ]
        row = FilmRow(
            f"{split}/{index:04d}", parts[0].media, word_times=tuple(times),
            parts=tuple(replace(part, questions=()) for part in parts), part_seconds=DURATION,
            sentences=tuple(part.words for part in parts),
        )  # fmt: skip
        rng = np.random.default_rng([*key, index, 1])
        rows.append(replace(row, questions=tuple(film_questions(row, row.word_times, rng))))
    return rows


def film_questions(
    row: FilmRow, word_times: Sequence[tuple[float, float]], rng: np.random.Generator, decimals: int = 1
) -> list[Question]:
    """Return random questions about a film whose words have these times.

    `said_at` asks for a word, `color_at` for the color in the sentence that is spoken at a time. Of `has_letter` one
    question has the answer yes and one no, unless the film has all letters.
    """
    spans = [word_times[first : first + len(WORD_KINDS)] for first in range(0, len(word_times), len(WORD_KINDS))]
    colors = [words[COLOR] for words in row.sentences]
    letters = sorted({words[LETTER] for words in row.sentences})
    absent = sorted(set(LETTERS) - set(letters))
    questions: list[Question] = []

    def ask(kind: str, text: str, answer: str, seconds: tuple[float, float] | None = None) -> None:
        questions.append(Question(f"{row.id}/{kind}_{len(questions)}", text, answer, kind, seconds))

    for place in rng.integers(len(spans), size=NUM_SAID_AT):
        time, word, seconds = said_at(row.sentences[place], spans[place], rng, decimals)
        ask("said_at", f"what is said at {time} seconds?", word, seconds)
    for place in rng.integers(len(spans), size=NUM_COLOR_AT):
        moment = rng.uniform(spans[place][0][0], spans[place][-1][1])
        text = f"which color is named around {moment:.{decimals}f} seconds?"
        ask("color_at", text, colors[place], spans[place][COLOR])
    for kind, place in (("first_color", 0), ("last_color", -1)):
        text = f"which color is named {kind.removesuffix('_color')}?"
        ask(kind, text, colors[place], spans[place][COLOR])
    if absent:
        for answer, among in (("yes", letters), ("no", absent)):
            ask("has_letter", f"is the letter {among[rng.integers(len(among))]} named?", answer)
    for place in rng.permutation(len(COLORS))[:NUM_COUNTS]:
        ask("count_color", f"how often is {COLORS[place]} named?", str(colors.count(COLORS[place])))
    return questions


def said_at(
    words: Sequence[str], spans: Sequence[tuple[float, float]], rng: np.random.Generator, decimals: int
) -> tuple[str, str, tuple[float, float]]:
    """Return a time inside one of the words as text, the word, and its seconds."""
    step = 10**decimals
    order = rng.permutation(len(words))
    for place in order:
        start, end = spans[place]
        first, last = int(np.ceil((start + EDGE) * step)), int(np.floor((end - EDGE) * step))
        if first <= last:
            return f"{rng.integers(first, last + 1) / step:.{decimals}f}", words[place], (start, end)
    start, end = spans[order[0]]
    return f"{(start + end) / 2:.3f}", words[order[0]], (start, end)
