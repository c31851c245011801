"""Tasks of the ablation: sequences of real clips, and questions whose answers are single words.

An item is a row of segments of equal length; each shows one clip's picture and plays one clip's sound, of the same
clip or of two. Training items are drawn at random from the train clips, evaluation items once and for all from val.

words: one GRID sentence under white noise of -10 to 0 dB (evaluated at -5); the six words.
films: ten sentences, 20.48 s; "nth": a word of sentence k, "after": the digit said with a letter, "next": the colour
    of the sentence after that with a letter.
order: four sounds of ESC-10 over four aerial objects, 1.28 s each; "heard", "seen": which of two came first,
    "together": what is seen while a sound is heard, and the reverse.
agree: one sentence, half with the voice of another; "agree": yes or no, "heard", "seen": colour, digit of voice, lips.

`python benchmarks/ablation/questions.py CLIPS.npz` prints what constant answers would get right.
"""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from packed import Clips, load

SLOTS = ("command", "color", "preposition", "letter", "digit", "adverb")
NUMBERS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
CAPTION = "describe"
SPECIAL = ("<pad>", "<s>", "</s>")


@dataclass(frozen=True)
class Task:
    """Segments of an item, their seconds, and how many items are drawn for evaluation."""

    segments: int
    seconds: float
    num_eval: int
    noise_db: tuple[float, float] | None = None
    eval_noise_db: float | None = None
    picture: str = "grid"
    sound: str = "grid"


TASKS = {
    "words": Task(1, 2.56, 180, noise_db=(-10.0, 0.0), eval_noise_db=-5.0),
    "films": Task(10, 2.048, 60),
    "order": Task(4, 1.28, 120, picture="drone", sound="esc10"),
    "agree": Task(1, 2.56, 360),
}


@dataclass
class Item:
    """One item: clips of each segment, and (kind, question, answer) of each question. `unit` is what is resampled."""

    unit: int
    seen: list[int]
    heard: list[int]
    questions: list[tuple[str, str, str]] = field(default_factory=list)


def draw(
    name: str,
    sets: dict[str, Clips],
    rng: np.random.Generator,
    is_val: bool,
    index: int,
    limit: int = 0,
    segments: int | None = None,
) -> Item:
    """Return one random item.

    Args:
        name: Of the task.
        sets, rng, is_val: Clips, randomness, and whether val clips are drawn or those of training.
        index: Number of the item.
        limit: Leaves only the first so many training clips; 0 is all.
        segments: Fewer than the task's, for a curriculum.
    """
    return DRAW[name](sets, rng, is_val, index, limit, segments or TASKS[name].segments)


def vocabulary(sets: dict[str, Clips]) -> list[str]:
    """Return every word of the questions and answers, after the special tokens."""
    words = {word for clips in sets.values() for label in clips.labels.flatten() for word in label.split()}
    words |= {
        "which",
        "what",
        "is",
        "named",
        "in",
        "sentence",
        "after",
        "with",
        "seen",
        "heard",
        "while",
        "or",
        "first",
    }
    words |= {"?", "do", "voice", "and", "lips", "agree", "yes", "no", CAPTION, *SLOTS, *NUMBERS}
    words |= {label for clips in sets.values() for label in clips.labels[:, 0]}  # classes of two words are one token
    return [*SPECIAL, *sorted(words)]


def _pool(clips: Clips, is_val: bool, limit: int = 0) -> np.ndarray:
    pool = np.flatnonzero(clips.is_val == is_val)
    return pool[:limit] if limit and not is_val else pool


def _words(sets, rng, is_val, index, limit, segments):
    pool = _pool(sets["grid"], is_val, limit)
    clip = int(pool[index % len(pool)] if is_val else rng.choice(pool))
    labels = sets["grid"].labels[clip]
    return Item(clip, [clip], [clip], [(s, f"which {s} is named ?", w) for s, w in zip(SLOTS, labels, strict=True)])


def _films(sets, rng, is_val, index, limit, segments):
    grid = sets["grid"]
    pool, chosen, letters = _pool(grid, is_val, limit), [], set()
    for clip in rng.permutation(pool):
        if grid.labels[clip, 3] not in letters:  # each letter once, so that it names its sentence
            letters.add(grid.labels[clip, 3])
            chosen.append(int(clip))
        if len(chosen) == segments:
            break
    item, said = Item(index, chosen, chosen), grid.labels[chosen]
    for _ in range(12):
        slot, k = int(rng.choice((1, 2, 3, 4))), int(rng.integers(len(chosen)))
        item.questions.append(("nth", f"which {SLOTS[slot]} in {NUMBERS[k]} sentence ?", said[k, slot]))
    for k in rng.integers(len(chosen), size=6):
        item.questions.append(("after", f"which digit after letter {said[k, 3]} ?", said[k, 4]))
    for k in rng.integers(len(chosen) - 1, size=6):
        question = f"which color in sentence after sentence with letter {said[k, 3]} ?"
        item.questions.append(("next", question, said[k + 1, 1]))
    return item


def _different(clips: Clips, rng, is_val, count: int) -> list[int]:
    """Return clips of so many different classes, in random order."""
    pool = _pool(clips, is_val)
    classes = rng.permutation(np.unique(clips.labels[pool, 0]))[:count]
    return [int(rng.choice(pool[clips.labels[pool, 0] == name])) for name in classes]


def _order(sets, rng, is_val, index, limit, segments):
    item = Item(index, *(_different(sets[name], rng, is_val, segments) for name in ("drone", "esc10")))
    names = {"seen": sets["drone"].labels[item.seen, 0], "heard": sets["esc10"].labels[item.heard, 0]}
    for kind, labels in names.items():
        for _ in range(3):
            pair = rng.permutation(segments)[:2]
            a, b = labels[pair]
            item.questions.append((kind, f"which is {kind} first|{a}|or|{b}|?", labels[pair.min()]))
    for k in rng.permutation(segments)[:2]:
        item.questions.append(("together", f"what is seen while|{names['heard'][k]}|heard ?", names["seen"][k]))
        item.questions.append(("together", f"what is heard while|{names['seen'][k]}|seen ?", names["heard"][k]))
    return item


def _agree(sets, rng, is_val, index, limit, segments):
    grid = sets["grid"]
    pool = _pool(grid, is_val, limit)
    voice = int(pool[index % len(pool)] if is_val else rng.choice(pool))
    same = bool(index // len(pool) % 2 if is_val else rng.random() < 0.5)
    lips = voice if same else int(rng.choice(pool[pool != voice]))
    questions = [("agree", "do voice and lips agree ?", "yes" if same else "no")]
    for slot in (1, 4):
        for kind, clip in (("heard", voice), ("seen", lips)):
            questions.append((kind, f"which {SLOTS[slot]} is {kind} ?", grid.labels[clip, slot]))
    return Item(voice, [lips], [voice], questions)


DRAW = {"words": _words, "films": _films, "order": _order, "agree": _agree}


def tokens(text: str, ids: dict[str, int]) -> list[int]:
    """Return a token a word; classes of several words stand between bars and are one."""
    parts = text.split("|") if "|" in text else [text]
    return [i for part in parts for i in ([ids[part]] if part in ids else [ids[word] for word in part.split()])]


def constants(name: str, sets: dict[str, Clips]) -> dict[str, float]:
    """Return, by kind, the share of the evaluation's questions that their most common answer gets right."""
    answers: dict[str, Counter] = {}
    for item in evaluation_items(name, sets):
        for kind, _, answer in item.questions:
            answers.setdefault(kind, Counter())[str(answer)] += 1
    return {kind: counter.most_common(1)[0][1] / counter.total() for kind, counter in answers.items()}


def evaluation_items(name: str, sets: dict[str, Clips]) -> list[Item]:
    """Return the items of val that every run is evaluated on."""
    rng = np.random.default_rng(12345)
    return [draw(name, sets, rng, True, i) for i in range(TASKS[name].num_eval)]


if __name__ == "__main__":
    sets = load(Path(sys.argv[1]))
    for name in TASKS:
        shares = constants(name, sets)
        shown = ", ".join(f"{kind} {100 * share:.1f}" for kind, share in shares.items())
        print(f"{name}: most common answer {100 * sum(shares.values()) / len(shares):.1f} % ({shown})")
