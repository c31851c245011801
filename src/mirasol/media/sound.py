"""Decoded sound -> one mono 16 kHz waveform, every piece placed by its own timestamp."""

from typing import Any

import av
import numpy as np
from av.audio.frame import format_dtypes
from jaxtyping import Float32

from mirasol.media.clock import LONGEST_GAP_SECONDS
from mirasol.media.resample import SAMPLING_RATE, Resampler
from mirasol.media.spool import Spool
from mirasol.media.types import MediaError

# Containers that round timestamps (Matroska: 1 ms) jitter around the sample count; a real gap is longer than two mel
# frames of 10 ms.
JITTER_SECONDS = 0.02
LOUDEST = 100.0  # full scale is 1; floats in the range of int16, and what a broken encoder writes, lie above


def mono(frame: av.AudioFrame) -> Float32[np.ndarray, " sample"]:
    """The mean of the frame's native channels in [-1, 1].

    Never FFmpeg's own down-mix: its float path gives 0.707 (L + R), its integer path 0.5 (L + R).
    """
    # Not `frame.to_ndarray()`: from 8 channels on it takes what lies behind them in memory for planes, and crashes.
    channels = frame.layout.nb_channels
    planes, each = (channels, 1) if frame.format.is_planar else (1, channels)
    dtype, count = np.dtype(format_dtypes[frame.format.name]), frame.samples * each
    buffers: Any = frame.planes[:planes]
    samples = np.stack([np.frombuffer(buffer, dtype, count) for buffer in buffers])
    samples = samples.reshape(planes, -1, each).swapaxes(1, 2).reshape(channels, -1)
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float32) / np.float32(2.0 ** (8 * samples.itemsize - 1))
    return samples.mean(axis=0, dtype=np.float32)


def is_plausible(samples: Float32[np.ndarray, " sample"]) -> bool:
    """False if a sample is NaN or far beyond full scale."""
    return bool(np.abs(samples).max(initial=0.0) <= LOUDEST)  # NaN compares false


class SoundTrack:
    """Collects decoded pieces in any native rate and joins them into one 16 kHz waveform by time.

    Sound is resampled as it comes, so that the native sound is never held as a whole.
    """

    def __init__(self) -> None:
        self.segments: list[tuple[float, int]] = []  # start seconds and native rate of each gapless stretch
        self.end: float | None = None  # seconds where the next gapless piece would start
        self.gaps: list[tuple[float, float]] = []  # seconds without sound between two pieces
        self.repeated = 0.0  # seconds left out, because they are stamped as seconds that are there already
        self.warnings: list[str] = []
        self._resampled = Spool()
        self._resampler: Resampler | None = None  # of the last segment, while it can go on
        self._pieces: list[np.ndarray] = []  # decoded, not yet resampled: a second at once is much faster

    def add(self, start: float | None, rate: int, samples: Float32[np.ndarray, " sample"]) -> None:
        """Places `samples` at `start` seconds (None: right after the last piece)."""
        if start is None or (self.end is not None and abs(start - self.end) <= JITTER_SECONDS):
            start = 0.0 if self.end is None else self.end
        if self.end is not None and start - self.end > LONGEST_GAP_SECONDS:
            self.warnings.append(
                f"The sound's timestamps jump from {self.end:.1f} s to {start:.1f} s, more than a gap of "
                f"{LONGEST_GAP_SECONDS:.0f} s: the sound after the jump is placed without a gap."
            )
            start = self.end
        if self.end is not None and start < self.end:  # the same seconds twice: the first ones stay
            self.repeated += min(self.end - start, len(samples) / rate)
            samples = samples[round((self.end - start) * rate) :]
            start = self.end
        if not len(samples):
            return
        if not is_plausible(samples):
            first = int(np.argmin(np.abs(samples) <= LOUDEST))
            raise MediaError(
                f"Expected samples of sound between -1 and 1, found {samples[first]:g} at "
                f"{start + first / rate:.3f} s. Export the sound again; divide floats in int16 range by 32768."
            )
        if self.end is not None and start > self.end:
            self.gaps.append((self.end, start))
        if self._resampler is None or start != self.end or self.segments[-1][1] != rate:
            self._finish()
            self.segments.append((start, rate))
            gap = round((start - self.segments[0][0]) * SAMPLING_RATE) - self._resampled.length
            self._resampled.append(np.zeros(max(gap, 0), np.float32))
            self._resampler = Resampler(rate)
        self._pieces.append(samples)
        self.end = start + len(samples) / rate
        if sum(map(len, self._pieces)) >= rate:
            self._resample()

    def _resample(self, last: bool = False) -> None:
        assert self._resampler is not None, "a segment is open"
        pieces, self._pieces = self._pieces, []
        self._resampled.append(self._resampler.push(np.concatenate([*pieces, np.zeros(0, np.float32)]), last))

    def _finish(self) -> None:
        """End the last segment, and flush its resampler."""
        if self._resampler is not None:
            self._resample(last=True)
            self._resampler = None

    @property
    def start(self) -> float | None:
        """Seconds of the first sample, None without sound."""
        return self.segments[0][0] if self.segments else None

    def waveform(self) -> Float32[np.ndarray, " sample"]:
        """All segments at 16 kHz, zeros between them; memory-mapped where it is long."""
        self._finish()
        return self._resampled.array()
