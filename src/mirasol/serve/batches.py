"""Batching of questions about many clips and sessions into one call of the decoder, with streamed text."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from mirasol.answer.answerer import Answerer, Prompts, Watched, join_watched
from mirasol.answer.attribution import Evidence, top_evidence
from mirasol.answer.ranking import require_finite
from mirasol.results import Result
from mirasol.serve.limits import Limits

OnText = Callable[[str], None]
MAX_OPTIONS = 64


class Reply(Result):
    """Answer to a question; `seen` is the part of the clip or session that it is about, in seconds."""

    text: str
    confidence: float
    seen: tuple[float, float]
    attributed_to: list[Evidence] = []
    is_cut: bool = False
    log_probabilities: list[float] | None = None  # of the options, if there are any
    warnings: list[str] = []
    num_prompt_tokens: int
    num_tokens: int


@dataclass(frozen=True)
class View:
    """Subject of a question: latents of one clip or session, and the seconds of its real chunks."""

    watched: Watched
    seen: tuple[float, float]
    duration: float = math.inf  # of the clip, at which its last chunk is cut


@dataclass
class Question:
    """A waiting question. `view` returns its latents when it is answered."""

    prompts: Prompts
    view: Callable[[], View]
    answerer: Answerer
    is_live: bool = False
    max_new_tokens: int | None = None
    attribute: bool = False
    on_text: OnText | None = None
    warnings: Sequence[str] = ()
    is_ready: Callable[[], bool] = lambda: True
    sent: str = ""  # text of the answer that `on_text` has received
    future: Future[Reply] = field(default_factory=Future)

    @property
    def kind(self) -> tuple:
        """Properties that all questions of one batch share."""
        return self.is_live, self.max_new_tokens, bool(self.prompts.options)


def check_question(question: str, options: Sequence[str] | None, limits: Limits) -> None:
    """Raise ValueError for a question that is empty, too long or not Unicode, or for too many options."""
    if not question.strip():
        raise ValueError("Expected a question, found empty text. Ask one, such as 'which color is named?'.")
    if options is not None and len(options) > MAX_OPTIONS:
        raise ValueError(f"Expected at most {MAX_OPTIONS} options, found {len(options)}. Send fewer.")
    length = sum(len(question) + len(option) for option in ([""] if options is None else options))
    if length > limits.question_characters:
        each = "" if options is None else ", counted once with each of its options,"
        raise ValueError(
            f"Expected a question{each} of at most {limits.question_characters} characters, found {length}. Shorten "
            "it."
        )
    for text in (question, *(options or ())):
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError(
                f"Expected Unicode text, found half of a surrogate pair in {text[:80]!r}. Send whole characters."
            )


def answer_together(questions: Sequence[Question]) -> list[Reply]:
    """Return the replies to questions of one kind. Each equals the reply to the question alone."""
    first = questions[0]
    views = [question.view() for question in questions]
    watched = join_watched([view.watched for view in views])
    prompts = [question.prompts for question in questions]
    if first.prompts.options:
        return _rank(first.answerer, watched, questions, views)
    served = first.answerer
    limit = first.max_new_tokens or served.max_new_tokens
    answerer = Answerer(served.model, served.processor, limit, served.temperature)
    streamer = None
    if any(question.on_text for question in questions):
        streamer = TextSpreader(answerer.processor, questions)
    given = [answers[0] for answers in answerer.answer(watched, prompts, streamer=streamer)]
    require_finite(given)
    shares = _shares(first.answerer, questions, views, given)
    replies = []
    for number, (question, view, answer) in enumerate(zip(questions, views, given, strict=True)):
        replies.append(
            Reply(
                text=answer.text, confidence=answer.confidence, seen=view.seen, is_cut=answer.is_cut,
                attributed_to=_evidence(view, shares.get(number)), num_tokens=len(answer.token_ids),
                num_prompt_tokens=len(question.prompts.rows["decoder_input_ids"][0]), warnings=[*question.warnings],
            )
        )  # fmt: skip
    for question, reply in zip(questions, replies, strict=True):
        send_text(question, reply.text)
    return replies


def _shares(answerer: Answerer, questions: Sequence[Question], views, given) -> dict[int, Tensor]:
    """Return the attribution weights by number of the question, for questions that ask for them."""
    wanted = [number for number, question in enumerate(questions) if question.attribute]
    if not wanted:
        return {}
    found = answerer.attribute_together(
        join_watched([views[n].watched for n in wanted]), [questions[n].prompts for n in wanted],
        [given[n] for n in wanted],
    )  # fmt: skip
    return dict(zip(wanted, found, strict=True))


def _evidence(view: View, share: Tensor | None) -> list[Evidence]:
    if share is None:
        return []
    outputs = view.watched.encoder_outputs
    times = outputs.chunk_times[0].clamp(max=view.duration)
    return top_evidence(share[: len(times)], times, outputs.chunk_mask[0])


def _rank(answerer: Answerer, watched: Watched, questions: Sequence[Question], views: Sequence[View]) -> list[Reply]:
    replies = []
    rankings = [found[0] for found in answerer.rank(watched, [question.prompts for question in questions])]
    require_finite(rankings)
    for view, asked, ranking in zip(views, questions, rankings, strict=True):
        best = max(range(len(ranking.options)), key=ranking.log_probabilities.__getitem__)
        lengths = [len(row) for row in asked.prompts.rows["decoder_input_ids"]]
        replies.append(
            Reply(
                text=ranking.options[best], confidence=ranking.confidence, seen=view.seen,
                log_probabilities=list(ranking.log_probabilities), num_tokens=ranking.num_tokens[best],
                num_prompt_tokens=lengths[best] - ranking.num_tokens[best] + 1, warnings=[*asked.warnings],
            )
        )  # fmt: skip
    return replies


class TextSpreader(BaseStreamer):
    """Streamer of `generate` that passes each question's text to its listener."""

    def __init__(self, processor: Any, questions: Sequence[Question]):
        self.processor, self.questions = processor, questions
        self.ids: list[list[int]] | None = None

    def put(self, value: Tensor) -> None:
        """Receive the next token of each row; the first call has the prompts."""
        if self.ids is None:
            self.ids = [[] for _ in self.questions]
            return
        for question, ids, token in zip(self.questions, self.ids, value.flatten().tolist(), strict=True):
            if question.on_text is not None:  # special tokens, which follow an end, have no text
                ids.append(token)
                send_text(question, str(self.processor.decode_answer(ids)))

    def end(self) -> None:
        """Do nothing, because `answer_together` sends the rest of the text."""


def send_text(question: Question, text: str) -> None:
    """Send new text to the listener, unless the text ends inside a character."""
    if question.on_text is None or text == question.sent or not text.startswith(question.sent):
        return
    if not text.endswith("\N{REPLACEMENT CHARACTER}"):
        question.on_text(text[len(question.sent) :])
        question.sent = text
