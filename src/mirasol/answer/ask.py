"""`mirasol ask`: one question about one clip, with what the answer rests on."""

import warnings as python_warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange

from mirasol.answer.attribution import Evidence, attention_weights, leave_one_out_weights, top_evidence
from mirasol.answer.generation import generate_answers, load_checkpoint, split_inputs, with_answers
from mirasol.media import Crop

RESTS_ON = "attention"  # its top chunk is on the asked word more often than that of leaving chunks out: `mirasol demo`


@dataclass(frozen=True)
class Answer:
    """What was answered and from what.

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
    rests_on: list[Evidence] = field(default_factory=list)
    rests_on_method: str = RESTS_ON
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The same, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        evidence = ", ".join(f"{e.start:.2f}-{e.end:.2f} s ({100 * e.weight:.0f} %)" for e in self.rests_on)
        method = {"attention": "cross-attention", "leave_one_out": "leaving each chunk out"}[self.rests_on_method]
        lines = [
            self.answer or "(an empty answer)",
            f"  confidence  {100 * self.confidence:.1f} %",
            f"  covered     {self.seconds_covered:.2f} of {self.seconds:.2f} s, {self.num_frames} frames",
            f"  sound       {self.sound}",
            f"  rests on    {evidence} [by {method}]",
            *(f"  warning     {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)


def ask(
    clip: str | Path | bytes,
    question: str,
    checkpoint: str | Path | None = None,
    use_audio: bool = True,
    use_video: bool = True,
    rests_on_method: str = RESTS_ON,
    crop: Sequence[float] | None = None,
) -> Answer:
    """The greedy answer of the shipped checkpoint, or of the one in the folder `checkpoint`.

    `crop` is the square of the picture to look at instead of the checkpoint's own: its side as a part of the frame's
    shorter side and, if not the middle, x and y of its centre as parts of the frame.
    """
    if not question.strip():
        raise ValueError("Expected a question, found empty text. Ask one, such as 'which color is named?'.")
    model, processor = load_checkpoint(checkpoint)
    return ask_model(model, processor, clip, question, use_audio, use_video, rests_on_method, crop)


def ask_model(
    model, processor, clip: str | Path | bytes, question: str, use_audio: bool = True, use_video: bool = True,
    rests_on_method: str = RESTS_ON, crop: Sequence[float] | None = None,
) -> Answer:  # fmt: skip
    """The same with a loaded model."""
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")  # they are in the report, and printed with the answer
        decoded = processor.read_clip(clip, use_video=use_video, use_audio=use_audio)
        decoded = replace(decoded, crop=square(crop))
        report = processor.describe(decoded, use_video=use_video, use_audio=use_audio)
        options = {"use_video": use_video, "use_audio": use_audio}
        media, text = split_inputs(processor(text=[question], videos=[decoded], **options), model.device)
        with torch.no_grad():
            encoder_outputs = model.get_encoder()(**media)
        (given,) = generate_answers(model, processor, encoder_outputs, text)
        text = with_answers(text, [given])
    if rests_on_method == "attention":
        weights = attention_weights(model, encoder_outputs, text)
    else:
        weights = leave_one_out_weights(model, media, text)
    real = rearrange(media["video_chunk_mask"] | media["audio_chunk_mask"], "1 chunk -> chunk")
    return Answer(
        clip=clip if isinstance(clip, str) else f"{len(clip)} bytes" if isinstance(clip, bytes) else str(clip),
        question=question,
        answer=given.text,
        confidence=round(given.confidence, 6),
        seconds=round(report.duration_seconds, 3),
        seconds_covered=round(report.seconds_covered, 3),
        num_frames=report.num_frames_used,
        sound="used" if report.used_sound else "found, not used" if report.found_sound else "not found",
        rests_on=top_evidence(weights[0], encoder_outputs.chunk_times[0].clamp(max=report.duration_seconds), real),
        rests_on_method=rests_on_method,
        warnings=list(report.warnings),
    )


def square(crop: Sequence[float] | None) -> Crop | None:
    """The crop with its centre, in the middle where only a side is given."""
    if crop is None:
        return None
    if len(crop) not in (1, 3):
        raise ValueError(
            f"Expected a crop as its side, or as its side and the x and y of its centre, found {len(crop)} numbers: "
            "give one or three, parts of the frame from 0 to 1, such as 1 for the largest square."
        )
    side, x, y = (crop[0], 0.5, 0.5) if len(crop) == 1 else crop
    return side, x, y
