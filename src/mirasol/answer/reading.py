"""`Reading`: the part of a file to watch, shared by all commands that ask about files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from mirasol.chunks.placement import UNUSED, ClipReport
from mirasol.media import Crop


@dataclass(frozen=True)
class Reading:
    """The seconds, tracks and square of a file to watch.

    Args:
        start: Start in seconds of the file.
        end: End in seconds of the file; None: the file's end.
        use_video: False leaves the picture out.
        use_audio: False leaves the sound out.
        crop: Square crop instead of the checkpoint's: its side as a fraction of the frame's shorter side and, if not
            centred, x and y of its centre as fractions of the frame.
        audio_stream: Number (from 0) or language of the sound track, if there are several.
    """

    start: float = 0.0
    end: float | None = None
    use_video: bool = True
    use_audio: bool = True
    crop: Sequence[float] | None = None
    audio_stream: int | str | None = None

    def __post_init__(self) -> None:
        if not (self.use_video or self.use_audio):
            raise ValueError(
                "Expected picture or sound to watch, found both left out (--no-video, --no-audio): keep one."
            )
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise ValueError(
                f"Expected a start from 0 s on and a later end, found {self.start} s to {self.end} s: correct them."
            )
        square(self.crop)

    def chunks(self, processor, source: str | Path | bytes) -> tuple[Mapping[str, Tensor], ClipReport]:
        """Return the chunk inputs of a file and a report of the media used."""
        tracks = {"use_video": self.use_video, "use_audio": self.use_audio}
        clip = processor.read_clip(
            source, warn=False, crop=square(self.crop), audio_stream=self.audio_stream, start=self.start, end=self.end,
            **tracks,
        )  # fmt: skip
        inputs, report = processor.chunk_and_describe(clip, **tracks)
        if not self.use_audio:  # the sound is unused on purpose
            report = replace(report, warnings=[warning for warning in report.warnings if UNUSED not in warning])
        return inputs, report


def square(crop: Sequence[float] | None) -> Crop | None:
    """Return the crop with its centre, by default the middle of the frame."""
    if crop is None:
        return None
    if len(crop) not in (1, 3):
        raise ValueError(
            f"Expected a crop as its side, or as its side and the x and y of its centre, found {len(crop)} numbers: "
            "give one or three, fractions of the frame from 0 to 1, such as 1 for the largest square."
        )
    side, x, y = (crop[0], 0.5, 0.5) if len(crop) == 1 else crop
    return side, x, y


WHOLE_FILE = Reading()
