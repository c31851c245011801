"""`mirasol ask`: one question about one clip, and the seconds to which the answer is attributed."""

import math
from collections.abc import Sequence
from pathlib import Path

from mirasol.answer.answerer import Answerer
from mirasol.answer.attribution import DEFAULT_METHOD, METHODS, Evidence, top_evidence
from mirasol.media import Crop
from mirasol.results import Document


class Answer(Document):
    """Answer to a question about a clip, with its confidence and the media it used.

    `confidence` is exp of the mean log-probability of the answer's tokens (the closing one included): 1 is certain. It
    says how sure the model is, not how often it is right. `rests_on` holds the heaviest chunks with their share.
    """

    clip: str
    question: str
    answer: str
    confidence: float
    seconds: float
    seconds_covered: float
    num_frames: int
    sound: str
    rests_on: list[Evidence] = []
    rests_on_method: str = DEFAULT_METHOD
    warnings: list[str] = []

    def __str__(self) -> str:
        evidence = ", ".join(f"{e.start:.2f}-{e.end:.2f} s ({100 * e.weight:.0f} %)" for e in self.rests_on)
        lines = [
            self.answer or "(an empty answer)",
            f"  confidence  {100 * self.confidence:.1f} %",
            f"  covered     {self.seconds_covered:.2f} of {self.seconds:.2f} s, {self.num_frames} frames",
            f"  sound       {self.sound}",
            f"  rests on    {evidence} [by {METHODS[self.rests_on_method]}]",
            *(f"  warning     {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)


def ask(
    clip: str | Path | bytes,
    question: str,
    checkpoint: str | Path | None = None,
    *,
    answerer: Answerer | None = None,
    use_audio: bool = True,
    use_video: bool = True,
    rests_on_method: str = DEFAULT_METHOD,
    crop: Sequence[float] | None = None,
    audio_stream: int | str | None = None,
    decoder: str | None = None,
    max_new_tokens: int | None = None,
) -> Answer:
    """Return the greedy answer of a checkpoint, loaded here unless an `answerer` is given.

    Args:
        clip: A file, or its bytes.
        question: What is asked.
        checkpoint: Its folder; by default the shipped one.
        answerer: Answers instead of `checkpoint`.
        use_audio: False masks the sound.
        use_video: False masks the picture.
        rests_on_method: How the answer is attributed to seconds, one of `METHODS`.
        crop: Square of the picture to look at instead of the checkpoint's own: its side as a part of the frame's
            shorter side and, if not the middle, x and y of its centre as parts of the frame.
        audio_stream: Number, counted from 0, or language of the sound track, where there are several.
        decoder: Of the file, see `Answerer.load`.
        max_new_tokens: Limit of the answer; by default what the context leaves.
    """
    if not question.strip():
        raise ValueError("Expected a question, found empty text. Ask one, such as 'which color is named?'.")
    answerer = answerer or Answerer.load(checkpoint, max_new_tokens=max_new_tokens, decoder=decoder)
    tracks = {"use_video": use_video, "use_audio": use_audio}
    prompts = answerer.prompts([question])  # refuses a question that is too long before anything is decoded
    decoded = answerer.processor.read_clip(clip, warn=False, crop=square(crop), audio_stream=audio_stream, **tracks)
    chunks, report = answerer.processor.chunk_and_describe(decoded, **tracks)
    watched = answerer.watch(chunks)
    ((given,),) = answerer.answer(watched, [prompts])
    name = clip if isinstance(clip, str) else f"{len(clip)} bytes" if isinstance(clip, bytes) else str(clip)
    if not math.isfinite(given.log_likelihood):
        raise ValueError(
            f"Expected a probability of the answer about {name}, found {given.log_likelihood}: weights or media hold "
            "values that are not finite. Check the sound's samples and the checkpoint."
        )
    (weights,) = answerer.attribute(watched, [prompts], [[given]], rests_on_method)
    outputs, warnings = watched.encoder_outputs, list(report.warnings)
    if given.is_cut:
        warnings.append(f"The answer was cut at {len(given.token_ids)} tokens, before the model had closed it.")
    return Answer(
        clip=name,
        question=question,
        answer=given.text,
        confidence=round(given.confidence, 6),
        seconds=round(report.duration_seconds, 3),
        seconds_covered=round(report.seconds_covered, 3),
        num_frames=report.num_frames_used,
        sound="used" if report.used_sound else "found, not used" if report.found_sound else "not found",
        rests_on=top_evidence(
            weights[0], outputs.chunk_times[0].clamp(max=report.duration_seconds), outputs.chunk_mask[0]
        ),
        rests_on_method=rests_on_method,
        warnings=warnings,
    )


def square(crop: Sequence[float] | None) -> Crop | None:
    """Return the crop with its centre, in the middle where only a side is given."""
    if crop is None:
        return None
    if len(crop) not in (1, 3):
        raise ValueError(
            f"Expected a crop as its side, or as its side and the x and y of its centre, found {len(crop)} numbers: "
            "give one or three, parts of the frame from 0 to 1, such as 1 for the largest square."
        )
    side, x, y = (crop[0], 0.5, 0.5) if len(crop) == 1 else crop
    return side, x, y
