"""Batches of decoded clips -> predictions: each clip is encoded once and all its questions are answered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from mirasol.answer.answerer import Answerer, Prompts
from mirasol.answer.generation import GeneratedAnswer
from mirasol.answer.ranking import Ranking, refusal
from mirasol.data.ahead import load_ahead
from mirasol.evaluate.conditions import Condition, swap_partners
from mirasol.evaluate.loader import LoadedClip, Read, Shown, ShownClips
from mirasol.evaluate.results import Prediction
from mirasol.tasks import Question, Row, Task, get_task
from mirasol.tasks.metrics.judged import GRADED

NUM_BEST = 5


@dataclass
class AnsweredClip:
    """Predictions for a clip under each condition; `error` is the reason if there are none."""

    id: str
    predictions: dict[str, list[Prediction]] = field(default_factory=dict)
    error: str | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """Rows to answer, in fixed batches, so that no answer depends on which process computes a batch.

    Each clip is decoded once for all `conditions`. The first is measured; the others are measured on clips that have
    sound. `rank` ranks each question's options by likelihood instead of generating text.
    """

    rows: Sequence[Row]
    task: str
    conditions: tuple[Condition, ...]
    batch_size: int
    rank: bool = False

    @property
    def num_batches(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def indices(self, batch: int) -> range:
        """Return the row numbers of a batch."""
        return range(batch * self.batch_size, min((batch + 1) * self.batch_size, len(self.rows)))

    def lenders(self) -> list[list[Row]] | None:
        """Return, for each row, the rows that may lend it their sound; None if no condition swaps sound."""
        if all(condition.name != "swapped" for condition in self.conditions):
            return None
        kinds = get_task(self.task).headline_kinds or None
        return [[self.rows[j] for j in chosen] for chosen in swap_partners(self.rows, kinds)]


def answer_batches(
    answerer: Answerer, job: Job, batches: Sequence[int], workers: int | None = None, read: Read | None = None
) -> Iterator[tuple[int, list[AnsweredClip]]]:
    """Yield the number and the answered clips of each batch, in order, while the next batches are decoded."""
    clips = ShownClips(job.rows, answerer.processor, job.conditions, job.lenders(), read)
    workers = workers if read is None else 0  # a given `read` may not work in another process
    loaded = load_ahead(clips, [index for batch in batches for index in job.indices(batch)], workers)
    for batch in batches:
        indices = job.indices(batch)
        rows = [job.rows[index] for index in indices]
        yield batch, _answer_batch(answerer, job, rows, list(islice(loaded, len(indices))))


def comparable(row: Row, lender: Row | None, task: Task) -> list[tuple[Question, Question | None]]:
    """Pair each question with the same question about the lender of the sound, or with None if there is none.

    Questions with the same answer for both clips are left out: they cannot tell which clip the model followed.
    """
    theirs = {} if lender is None else {question.text: question for question in lender.questions}
    pairs = [(question, theirs.get(question.text)) for question in row.questions]
    return [(mine, other) for mine, other in pairs if other is None or not share_an_answer(task, mine, other)]


def share_an_answer(task: Task, first: Question, second: Question) -> bool:
    """Return whether an accepted answer to one question is right for the other."""
    return any(task.is_right(second, answer) for answer in (first.answer, *first.references)) or any(
        task.is_right(first, answer) for answer in (second.answer, *second.references)
    )


def _answer_batch(answerer: Answerer, job: Job, rows, loaded: Sequence[LoadedClip]) -> list[AnsweredClip]:
    answered = [AnsweredClip(row.id, {}, item.error, item.warnings) for row, item in zip(rows, loaded, strict=True)]
    task = get_task(job.task)
    for condition in job.conditions:
        asked: list[tuple[Row, AnsweredClip, Shown, list[tuple[Question, Question | None]], Prompts]] = []
        for row, item, clip in zip(rows, loaded, answered, strict=True):
            if (shown := item.shown.get(condition.key)) is None:
                continue
            pairs = comparable(row, shown.lender, task)
            try:
                prompts = _prompts(answerer, [question for question, _ in pairs], job.rank)
            except ValueError as error:  # a question longer than the context
                clip.error = clip.error or str(error)
                continue
            asked.append((row, clip, shown, pairs, prompts))
        if not asked:
            continue
        watched = answerer.watch(*(shown.media for _, _, shown, _, _ in asked))
        rows_of_text = [prompts for *_, prompts in asked]
        given: list[list[GeneratedAnswer]] | list[list[Ranking]]
        given = answerer.rank(watched, rows_of_text) if job.rank else answerer.answer(watched, rows_of_text)
        for place, (row, clip, shown, pairs, _) in enumerate(asked):
            if why := refusal(given[place]):
                clip.error = clip.error or (why if condition == job.conditions[0] else None)
                continue
            clip.predictions[condition.key] = [
                _prediction(row, question, other, shown, answer, task)
                for (question, other), answer in zip(pairs, given[place], strict=True)
            ]
    return answered


def _prompts(answerer: Answerer, questions: Sequence[Question], rank: bool) -> Prompts:
    options = [question.options for question in questions] if rank else None
    return answerer.prompts([question.text for question in questions], options)


def _prediction(row: Row, question: Question, other: Question | None, shown: Shown, given, task: Task) -> Prediction:
    text = given.text if isinstance(given, GeneratedAnswer) else given.best(1)[0]
    common: dict[str, Any] = {
        "clip": row.id,
        "file": str(row.media),
        "question_id": question.id,
        "kind": question.kind,
        "question": question.text,
        "answer": question.answer,
        "seconds": question.seconds,
        "generated": text,
        "right": task.is_right(question, text),
        "credit": round(task.credit(question, text), 6) if question.metric in GRADED else None,
        "sound_answer": other and other.answer,
        "sound_right": other and task.is_right(other, text),
        "seconds_covered": shown.seconds_covered,
        "sound_used": shown.sound_used,
        "is_silent": shown.is_silent,
    }
    if isinstance(given, GeneratedAnswer):
        return Prediction(
            **common, confidence=round(given.confidence, 6),
            log_likelihood=round(given.log_likelihood, 4), is_cut=given.is_cut,
        )  # fmt: skip
    place = given.options.index(text)
    return Prediction(
        **common, confidence=round(given.confidence, 6),
        log_likelihood=round(given.log_probabilities[place], 4),
        ranked=given.best(NUM_BEST), ranked_per_token=given.best(NUM_BEST, per_token=True),
        option_log_likelihoods=[round(value, 4) for value in given.log_probabilities],
    )  # fmt: skip
