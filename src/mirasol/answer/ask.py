"""`mirasol ask`: questions about one clip, and the seconds to which the answers are attributed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mirasol.answer.answerer import Answerer
from mirasol.answer.attribution import Evidence, top_evidence
from mirasol.answer.generation import GeneratedAnswer
from mirasol.answer.ranking import require_finite
from mirasol.answer.reading import WHOLE_FILE, Reading
from mirasol.results import Document

CONFIDENCE = "(how sure the model is, not how often it is right)"


class Answer(Document):
    """Answer to a question about a clip, with its confidence and the media it used.

    `confidence` is exp of the mean log-probability of the answer's tokens, the end token included, under the
    checkpoint's temperature if `mirasol calibrate` stored one. It says how sure the model is, not how often it is
    right. `abstained` is True if it is below `abstain_below`. `attributed_to` lists the chunks with the most weight.
    """

    clip: str
    question: str
    answer: str
    confidence: float
    seconds: float
    seconds_covered: float
    num_frames: int
    sound: str
    attributed_to: list[Evidence] = []
    attribution_method: str = "attention"
    abstained: bool = False
    warnings: list[str] = []

    def __str__(self) -> str:
        evidence = ", ".join(f"{e.start:.2f}-{e.end:.2f} s ({100 * e.weight:.0f} %)" for e in self.attributed_to)
        answer = self.answer or "(an empty answer)"
        lines = [
            f"(not sure enough to answer; the likeliest is: {answer})" if self.abstained else answer,
            f"  confidence  {100 * self.confidence:.1f} % {CONFIDENCE}",
            f"  covered     {self.seconds_covered:.2f} of {self.seconds:.2f} s, {self.num_frames} frames",
            f"  sound       {self.sound}",
            f"  attribution {evidence} [by cross-attention to each chunk]",
            *(f"  warning     {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)


class Answers(Document):
    """Answers to one or several questions about a clip; a single answer is shown without the list."""

    answers: list[Answer]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values for JSON."""
        return self.answers[0].as_dict() if len(self.answers) == 1 else super().as_dict()

    def __str__(self) -> str:
        if len(self.answers) == 1:
            return str(self.answers[0])
        return "\n".join(f"{answer.question}\n{answer}" for answer in self.answers)


def ask(clip: str | Path | bytes, question: str, checkpoint: str | Path | None = None, **options: Any) -> Answer:
    """Answer one question about a clip; arguments as for `ask_all`."""
    return ask_all(clip, [question], checkpoint, **options).answers[0]


def ask_all(
    clip: str | Path | bytes,
    questions: Sequence[str],
    checkpoint: str | Path | None = None,
    *,
    answerer: Answerer | None = None,
    reading: Reading = WHOLE_FILE,
    abstain_below: float | None = None,
    **options: Any,
) -> Answers:
    """Answer questions about a clip by greedy decoding; the clip is watched once.

    Args:
        clip: A file, or its bytes.
        questions: Questions to ask.
        checkpoint: Folder of the checkpoint to load; by default the shipped one.
        answerer: A loaded checkpoint, instead of `checkpoint`.
        reading: The part of the clip to watch; by default all of it.
        abstain_below: Confidence from 0 to 1 below which an answer is marked as withheld.
        **options: Fields of `Reading` (`use_audio`, `use_video`, `crop`, `audio_stream`, `start`, `end`), instead of
            `reading`, and arguments of `Answerer.load` (`device`, `dtype`, `decoder`, `sampling`,
            `max_chunks`, `max_new_tokens`).
    """
    if len(questions) > 1 and not any(" " in question for question in questions):
        raise ValueError(
            f"Expected questions of several words, found {', '.join(map(repr, questions))}: put each in quotes."
        )
    for question in questions:
        if not question.strip():
            raise ValueError("Expected a question, found empty text. Ask one, such as 'which color is named?'.")
    chosen = {name: options.pop(name) for name in Reading.__dataclass_fields__ if name in options}
    reading = replace(reading, **chosen)
    if answerer is not None and (checkpoint is not None or options):
        raise ValueError(
            "Expected a loaded answerer or how to load one, found an answerer and "
            f"{', '.join(['checkpoint'] * (checkpoint is not None) + sorted(options))}: load it with these."
        )
    if answerer is None and not isinstance(clip, bytes) and not Path(clip).is_file():
        raise ValueError(f"Expected a video or sound file at {clip}, found no such file: correct the path.")
    answerer = answerer or Answerer.load(checkpoint, **options)
    prompts = answerer.prompts(questions)  # raises for a question that is too long, before anything is decoded
    chunks, report = reading.chunks(answerer.processor, clip)
    watched = answerer.watch(chunks)
    (given,) = answerer.answer(watched, [prompts])
    name = f"{len(clip)} bytes" if isinstance(clip, bytes) else str(clip)
    require_finite(given)
    (weights,) = answerer.attribute(watched, [prompts], [given])
    outputs = watched.encoder_outputs
    times, mask = outputs.chunk_times[0].clamp(max=report.duration_seconds), outputs.chunk_mask[0]
    return Answers(
        answers=[
            Answer(
                clip=name,
                question=question,
                answer=one.text,
                confidence=round(one.confidence, 6),
                seconds=round(report.duration_seconds, 3),
                seconds_covered=round(report.seconds_covered, 3),
                num_frames=report.num_frames_used,
                sound=report.sound,
                attributed_to=top_evidence(shares, times, mask),
                abstained=abstain_below is not None and one.confidence < abstain_below,
                warnings=[
                    *answerer.warnings(question),
                    *report.warnings,
                    *([cut_warning(one)] if one.is_cut else []),
                ],
            )
            for question, one, shares in zip(questions, given, weights, strict=True)
        ]
    )


def cut_warning(answer: GeneratedAnswer) -> str:
    """Return the warning for an answer that reached the token limit."""
    return (
        f"The answer was cut at {len(answer.token_ids)} tokens, before an end token: raise --max-new-tokens, unless "
        "the context is full."
    )
