"""Batches of decoded clips -> predictions: every clip encoded once, all its questions answered from its latents."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from mirasol.answer.generation import GeneratedAnswer, generate_answers, of_clips, rounds, split_inputs
from mirasol.answer.ranking import Ranking, option_rows, rank_options
from mirasol.chunks import MirasolCollator
from mirasol.chunks.text import TokenRows, pad_text
from mirasol.evaluate.conditions import Condition, swap_partners
from mirasol.evaluate.loader import LoadedClip, Read, Shown, ShownClips, load_ahead
from mirasol.evaluate.summary import Prediction
from mirasol.tasks import Question, Row, get_task

NUM_BEST = 5


@dataclass
class AnsweredClip:
    """A clip's predictions under each condition; `error` says why there are none."""

    id: str
    predictions: dict[str, list[Prediction]] = field(default_factory=dict)
    error: str | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """What is asked: the rows in batches of fixed clips, so that no answer depends on who computes which batch.

    `conditions` are shown from one decode of each clip; the first is measured, the others wherever there is sound.
    `rank` chooses among each question's options by likelihood instead of generating text.
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
        """The rows of one batch."""
        return range(batch * self.batch_size, min((batch + 1) * self.batch_size, len(self.rows)))

    def lenders(self) -> list[list[Row]] | None:
        """For each row those whose sound it may get, if any condition swaps sound."""
        if all(condition.name != "swapped" for condition in self.conditions):
            return None
        kinds = get_task(self.task).headline_kinds or None
        return [[self.rows[j] for j in chosen] for chosen in swap_partners(self.rows, kinds)]


def answer_batches(
    model, processor, job: Job, batches: Sequence[int], workers: int | None = None, read: Read | None = None
) -> Iterator[tuple[int, list[AnsweredClip]]]:
    """Yields each batch's number and its answered clips, in the order asked, while the next ones are decoded."""
    clips = ShownClips(job.rows, processor, job.conditions, job.lenders(), read)
    loaded = load_ahead(clips, [index for batch in batches for index in job.indices(batch)], workers)
    for batch in batches:
        indices = job.indices(batch)
        rows = [job.rows[index] for index in indices]
        yield batch, _answer_batch(model, processor, job, rows, list(islice(loaded, len(indices))))


def comparable(row: Row, lender: Row | None) -> list[tuple[Question, str | None]]:
    """The row's questions, each with the answer in the clip that lends its sound, None where that is not known.

    A question with the same answer in both is left out: it cannot tell which of the two was followed.
    """
    theirs = {} if lender is None else {question.text: question.answer for question in lender.questions}
    pairs = [(question, theirs.get(question.text)) for question in row.questions]
    return [(question, answer) for question, answer in pairs if answer != question.answer]


def _answer_batch(model, processor, job: Job, rows, loaded: Sequence[LoadedClip]) -> list[AnsweredClip]:
    answered = [AnsweredClip(row.id, {}, item.error, item.warnings) for row, item in zip(rows, loaded, strict=True)]
    normalise = get_task(job.task).normalise
    for condition in job.conditions:
        asked: list[tuple[AnsweredClip, Shown, list[tuple[Question, str | None]], TokenRows]] = []
        for row, item, clip in zip(rows, loaded, answered, strict=True):
            if (shown := item.shown.get(condition.name)) is None:
                continue
            pairs = comparable(row, shown.lender)
            try:
                tokens = _tokenize(processor, [question for question, _ in pairs], job.rank)
            except ValueError as error:  # a question longer than the context
                clip.error = clip.error or str(error)
                continue
            asked.append((clip, shown, pairs, tokens))
        if not asked:
            continue
        batch = MirasolCollator(processor.pad_token_id)([shown.media for _, shown, _, _ in asked])
        media, _ = split_inputs(batch, model.device)
        with torch.no_grad():
            encoder_outputs = model.get_encoder()(**media)
        questions = [[question for question, _ in pairs] for _, _, pairs, _ in asked]
        texts = [tokens for _, _, _, tokens in asked]
        given: list[list[GeneratedAnswer]] | list[list[Ranking]]
        if job.rank:
            given = rank_options(model, encoder_outputs, questions, texts, processor.pad_token_id)
        else:
            given = generate_for(model, processor, encoder_outputs, texts)
        for place, (clip, shown, pairs, _) in enumerate(asked):
            clip.predictions[condition.name] = [
                _prediction(clip.id, question, other, shown, answer, normalise)
                for (question, other), answer in zip(pairs, given[place], strict=True)
            ]
    return answered


def _tokenize(processor, questions: Sequence[Question], rank: bool) -> TokenRows:
    if rank:
        return option_rows(processor, questions)
    return processor.tokenize_questions([question.text for question in questions])


def generate_for(model, processor, encoder_outputs, tokens: Sequence[TokenRows]) -> list[list[GeneratedAnswer]]:
    """One greedy answer per question of each clip; clips may have different numbers of questions."""
    prompts = [rows["decoder_input_ids"] for rows in tokens]
    answers: list[list[GeneratedAnswer]] = [[] for _ in prompts]
    for clips, places in rounds([len(rows) for rows in prompts]):
        picked = [prompts[clip][min(place, len(prompts[clip]) - 1)] for clip in clips for place in places]
        text = pad_text({"decoder_input_ids": picked}, processor.pad_token_id)
        text = {name: value.to(model.device) for name, value in text.items()}
        given = iter(generate_answers(model, processor, of_clips(encoder_outputs, clips), text))
        for clip in clips:
            answers[clip] += list(islice(given, len(places)))[: len(prompts[clip]) - places.start]
    return answers


def _prediction(clip: str, question: Question, other: str | None, shown: Shown, given, normalise) -> Prediction:
    common: dict[str, Any] = {
        "clip": clip,
        "question_id": question.id,
        "kind": question.kind,
        "question": question.text,
        "answer": question.answer,
        "seconds": question.seconds,
        "sound_answer": other,
        "seconds_covered": shown.seconds_covered,
        "sound_used": shown.sound_used,
    }
    if isinstance(given, GeneratedAnswer):
        right = normalise(given.text) == normalise(question.answer)
        return Prediction(
            **common, generated=given.text, right=right, confidence=round(given.confidence, 6),
            log_likelihood=round(given.log_likelihood, 4),
        )  # fmt: skip
    best = given.best(NUM_BEST)
    place = given.options.index(best[0])
    return Prediction(
        **common, generated=best[0], right=normalise(best[0]) == normalise(question.answer),
        confidence=round(math.exp(given.per_token[place]), 6), log_likelihood=round(given.log_probabilities[place], 4),
        ranked=best, ranked_per_token=given.best(NUM_BEST, per_token=True),
        option_log_likelihoods=[round(value, 4) for value in given.log_probabilities],
    )  # fmt: skip
