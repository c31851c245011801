"""Decoded sound -> one mono 16 kHz waveform, every piece placed by its own timestamp."""

import av
import numpy as np
from jaxtyping import Float32

from mirasol.media.resample import SAMPLING_RATE, Resampler

# Containers that round timestamps (Matroska: 1 ms) jitter around the sample count; a real gap is longer than two mel
# columns of 10 ms.
JITTER_SECONDS = 0.02
# A longer jump is a broken clock (a wrapped or restarted MPEG counter), not silence worth 40 MB of zeros.
LONGEST_GAP_SECONDS = 600.0


def mono(frame: av.AudioFrame) -> Float32[np.ndarray, " sample"]:
    """The mean of the frame's native channels in [-1, 1].

    Never FFmpeg's own down-mix: its float path gives 0.707 (L + R), its integer path 0.5 (L + R).
    """
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float32) / np.float32(2.0 ** (8 * samples.itemsize - 1))
    return samples.mean(axis=0, dtype=np.float32)


class SoundTrack:
    """Collects decoded pieces in any native rate and joins them into one 16 kHz waveform by time.

    Each piece is resampled as it comes, so that the native sound is never held as a whole.
    """

    def __init__(self) -> None:
        self.segments: list[tuple[float, int, list[np.ndarray]]] = []  # start seconds, native rate, pieces at 16 kHz
        self.end: float | None = None  # seconds where the next gapless piece would start
        self.warnings: list[str] = []
        self._resampler: Resampler | None = None  # of the last segment, while it can go on

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
            samples = samples[round((self.end - start) * rate) :]
            start = self.end
        if not len(samples):
            return
        if self._resampler is None or start != self.end or self.segments[-1][1] != rate:
            self.finish()
            self._resampler = Resampler(rate)
            self.segments.append((start, rate, []))
        self.segments[-1][2].append(self._resampler.push(samples))
        self.end = start + len(samples) / rate

    def finish(self) -> None:
        """Ends the last segment: its resampler gives what it held back for want of later sound."""
        if self._resampler is not None:
            self.segments[-1][2].append(self._resampler.push(np.zeros(0, np.float32), last=True))
            self._resampler = None

    @property
    def start(self) -> float | None:
        """Seconds of the first sample, None without sound."""
        return self.segments[0][0] if self.segments else None

    def waveform(self) -> Float32[np.ndarray, " sample"]:
        """All segments at 16 kHz, zeros between them."""
        self.finish()
        parts: list[np.ndarray] = []
        length = 0
        for start, _, pieces in self.segments:
            gap = round((start - self.segments[0][0]) * SAMPLING_RATE) - length
            if gap > 0:
                parts.append(np.zeros(gap, np.float32))
                length += gap
            parts += pieces
            length += sum(map(len, pieces))
        return np.ascontiguousarray(np.concatenate(parts), dtype=np.float32)
