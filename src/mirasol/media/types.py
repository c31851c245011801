"""Types of reading media: `Clip`, `MediaInfo`, and the one error and one warning."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Float64, UInt8


class Stored(Protocol):
    """A file that is not on its own on disk, such as a member of a tar: its bytes are read when they are needed."""

    def read_bytes(self) -> bytes:
        """Return the bytes; their attribute `name`, if they have one, stands in messages."""


Source = str | Path | bytes | Stored
Crop = tuple[float, float, float]  # square: side as a fraction of the shorter side; x, y of its centre as fractions
WHOLE: Crop = (1.0, 0.5, 0.5)  # the largest square
SAMPLING_RATE = 16_000  # Hz of every waveform that is read, and of the log-mel


class MediaError(ValueError):
    """Nothing usable can be read; the message says what was expected, found, and what to do."""


class MediaWarning(UserWarning):
    """The media could be read in part only; the text is also in `Clip.warnings`."""


@dataclass(frozen=True)
class MediaInfo:
    """Contents of a file, known before frames are selected. Times count from the first moment of the clip."""

    source: str
    container: str
    duration_seconds: float
    has_video: bool
    has_audio: bool
    frame_rate: float | None = None
    width: int | None = None  # as shown: with square pixels, after rotation
    height: int | None = None
    pixel_aspect: float = 1.0  # width of a stored pixel by its height; applied to show it
    rotation: int = 0  # degrees, clockwise, that were applied to show the picture upright
    num_frames: int | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    audio_sampling_rate: int | None = None
    audio_channels: int | None = None
    video_start: float | None = None  # seconds of the first frame
    video_end: float | None = None  # seconds where the last frame stops being shown
    audio_start: float | None = None
    audio_end: float | None = None
    warnings: list[str] = field(default_factory=list, compare=False)  # parts that are unreadable or implausible


@dataclass
class Clip:
    """Frames and sound of one file on one time axis in seconds.

    t = 0 is the file's own: the earliest first timestamp of its picture and sound, whichever are used.
    A track that is absent, unused or empty is None, never an array of zeros: silence is sound, absence is not.
    """

    frames: UInt8[np.ndarray, "frame height width channel"] | None  # RGB, upright, square pixels, native size
    frame_times: Float64[np.ndarray, " frame"] | None  # presentation seconds, increasing
    waveform: Float32[np.ndarray, " sample"] | None  # mean of the native channels
    sampling_rate: int = SAMPLING_RATE
    audio_start: float = 0.0  # seconds of waveform[0]
    duration: float = 0.0  # seconds where the last used track ends
    warnings: list[str] = field(default_factory=list)
    info: MediaInfo | None = None
    crop: Crop | None = None  # crop of the frames; None: the image processor's own
    video_end: float | None = None  # seconds where the last frame stops being shown; None: `duration`
    audio_gaps: list[tuple[float, float]] = field(default_factory=list)  # seconds without sound; zeros in `waveform`

    @property
    def audio_end(self) -> float:
        """Seconds where the sound stops; equals `audio_start` when there is none."""
        return self.audio_start + (0 if self.waveform is None else len(self.waveform) / self.sampling_rate)
