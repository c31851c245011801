"""Questions that a checkpoint was trained on, stored beside its weights; answers to other questions are guesses."""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from mirasol.results import Result

FILE = "questions.json"
MAX_QUESTIONS, MAX_ANSWERS, MAX_WORDS = 200, 8, 5000
FAR = 1 / 3  # a larger share of different words makes a question unlike a known one


class KnownQuestion(Result):
    """A training question (numbers as #), its count, and its most frequent answers."""

    text: str
    count: int
    answers: list[str]


class KnownQuestions(Result):
    """The most frequent training questions, the number of different questions, and their vocabulary."""

    questions: list[KnownQuestion]
    num_different: int
    words: list[str]

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> KnownQuestions:
        """Return the summary of (question, answer) pairs."""
        counts: Counter[str] = Counter()
        answers: dict[str, Counter[str]] = defaultdict(Counter)
        words: Counter[str] = Counter()
        for question, answer in pairs:
            text = re.sub(r"\d+(?:\.\d+)?", "#", question)
            counts[text] += 1
            answers[text][answer] += 1
            words.update(words_of(text))
        return cls(
            questions=[
                KnownQuestion(text=text, count=count, answers=[a for a, _ in answers[text].most_common(MAX_ANSWERS)])
                for text, count in counts.most_common(MAX_QUESTIONS)
            ],
            num_different=len(counts),
            words=[word for word, _ in words.most_common(MAX_WORDS)],
        )

    @classmethod
    def load(cls, folder: Path) -> KnownQuestions | None:
        """Return the known questions stored in a checkpoint's folder, else None."""
        file = folder / FILE
        return cls.model_validate_json(file.read_bytes()) if file.is_file() else None

    def warning(self, question: str) -> str | None:
        """Return a warning if the question is unlike every training question, else None.

        A question is unlike them if it has a word that none of them has, or if more than a third of its words differ
        from the nearest question. Case, punctuation and the values of numbers are ignored. If the list was cut at 200
        questions, only the vocabulary is compared.
        """
        words = words_of(question)
        unknown = [word for word in words if word not in self.words]
        distances = [_distance(words, words_of(known.text)) for known in self.questions]
        distance = min(distances, default=1.0)
        near = [known.text for known, far in zip(self.questions, distances, strict=True) if far == distance]
        is_listed = self.num_different <= len(self.questions)
        if not unknown and (distance <= FAR or not is_listed):
            return None
        nearest = max(near, key=lambda text: difflib.SequenceMatcher(None, question, text).ratio(), default="none")
        reason = f"{unknown[0]!r} is in none of its questions" if unknown else "none of its questions is worded so"
        return (
            f"The checkpoint was not trained on {question!r} ({reason}; the nearest is {nearest!r}): the answer is a "
            "guess, whatever its confidence. `mirasol info` lists the questions that it knows."
        )


def words_of(text: str) -> list[str]:
    """Return the words in lower case, numbers as #, without punctuation."""
    return re.findall(r"#|\w+", re.sub(r"\d+(?:\.\d+)?", "#", text.lower()))


def _distance(first: list[str], second: list[str]) -> float:
    """Return the edit distance in words, as a share of the longer text."""
    row = list(range(len(second) + 1))
    for place, word in enumerate(first, start=1):
        before, row[0] = row[0], place
        for column, other in enumerate(second, start=1):
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, before + (word != other))
    return row[-1] / max(len(first), len(second), 1)
