"""Seconds -> chunks: the spans of a clip that become chunks, and the times of their frames."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mirasol.media.frames import SAME_TIME_SECONDS

SECONDS_PER_MEL_FRAME = 0.01
# Containers round timestamps to 1 ms; a frame this near to a boundary lies on it. The microsecond more keeps a frame
# stamped just 1 ms beside a boundary from lying on either side of it, as floats are rounded.
TOLERANCE_SECONDS = 0.001 + SAME_TIME_SECONDS
MIN_SOUND_SECONDS = 0.01  # a chunk with less sound than one mel frame has none
MAX_CHUNKS = 1_000_000  # at native rate, 4 to 7 days: what claims to be longer is an error
SAMPLING_POLICIES = ("uniform", "snippets", "dense")


@dataclass(frozen=True)
class ChunkPlan:
    """The spans chosen from one clip, all equally long: `starts[k]` to `starts[k] + seconds_per_chunk`."""

    starts: Float[np.ndarray, " chunk"]
    seconds_per_chunk: float
    num_frames_per_chunk: int

    @property
    def times(self) -> Float[np.ndarray, "chunk 2"]:
        """Start and end of each chunk, in seconds."""
        return np.stack([self.starts, self.starts + self.seconds_per_chunk], axis=1)

    @property
    def shown_times(self) -> Float[np.ndarray, "chunk frame"]:
        """Time of each frame in seconds: a chunk is divided equally, and a frame shows the start of its part."""
        return self.starts[:, None] + np.arange(self.num_frames_per_chunk) * (
            self.seconds_per_chunk / self.num_frames_per_chunk
        )

    @property
    def wanted_times(self) -> Float[np.ndarray, " moment"]:
        """Timestamps to decode: one per frame, and the end of each chunk, which tells whether it holds any frame.

        A reader accepts a frame up to `SAME_TIME_SECONDS` after a timestamp, as `place_frames` does.
        """
        ends = np.concatenate([self.shown_times.ravel() + TOLERANCE_SECONDS, self.times[:, 1] - TOLERANCE_SECONDS])
        return np.unique((ends - SAME_TIME_SECONDS).clip(min=0.0))

    def place_frames(
        self, frame_times: Float[np.ndarray, " time"]
    ) -> tuple[Int[np.ndarray, "chunk frame"], Bool[np.ndarray, " chunk"]]:
        """Return the frame index of each frame position, and the mask of chunks that hold at least one frame.

        It shows the latest one at or before its moment, as a player would: a missing frame repeats the last one, and
        frames before the clip's first show the first. Example, 3 a chunk of 0.1 s, the clip's at 0.15, 0.2, 0.4 s:

            moment        0.0 0.1 0.2 | 0.3 0.4 0.5 | 0.6 0.7 0.8
            clip's frame    0   0   1 |   1   2   2 |   2   2   2
            real                  yes |         yes |          no
        """
        index = np.searchsorted(frame_times, self.shown_times + TOLERANCE_SECONDS, side="right") - 1
        frames_before = np.searchsorted(frame_times, self.times - TOLERANCE_SECONDS, side="left")
        return index.clip(min=0), frames_before[:, 1] > frames_before[:, 0]


@dataclass(frozen=True)
class TimeGrid:
    """The unit of time that processor and model agree on.

    Args:
        frames_per_second: Frames a second.
        num_frames_per_chunk: Frames a chunk; with the rate they give `seconds_per_chunk`.
        num_mel_frames_per_chunk: Mel frames of 10 ms in a chunk; they must cover the same seconds.
        max_chunks: Budget of the policies that bound a long clip.
    """

    frames_per_second: float = 12.5
    num_frames_per_chunk: int = 8
    num_mel_frames_per_chunk: int = 64
    max_chunks: int = 16

    def __post_init__(self):
        for name in ("frames_per_second", "num_frames_per_chunk", "num_mel_frames_per_chunk", "max_chunks"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, but it is {getattr(self, name)}: pass a positive number.")
        mel_seconds = self.num_mel_frames_per_chunk * SECONDS_PER_MEL_FRAME
        if not math.isclose(mel_seconds, self.seconds_per_chunk, rel_tol=1e-9):
            raise ValueError(
                f"Frames and sound of a chunk must cover the same seconds, but {self.num_frames_per_chunk} frames at "
                f"{self.frames_per_second} a second last {self.seconds_per_chunk:g} s and "
                f"{self.num_mel_frames_per_chunk} mel frames last {mel_seconds:g} s: "
                f"set num_mel_frames_per_chunk to {100 * self.seconds_per_chunk:g}."
            )

    @property
    def seconds_per_chunk(self) -> float:
        """Seconds of one chunk at native rate."""
        return self.num_frames_per_chunk / self.frames_per_second

    def plan(
        self, duration: float, sampling: str = "uniform", max_chunks: int | None = None, offset_seconds: float = 0.0
    ) -> ChunkPlan:
        """The chunks of a clip that lasts `duration` seconds. Up to `max_chunks`, every policy gives the same plan.

        Args:
            duration: Seconds from t = 0 to the end of the last used track.
            sampling: Policy for a longer clip. `uniform`: chunks are stretched to cover all of it. `snippets`:
                native chunks, one in the middle of each of `max_chunks` equal parts. `dense`: as many native chunks as
                there are.
            max_chunks: Budget instead of the grid's own.
            offset_seconds: The grid starts this long before t = 0 (a random chunk phase in training).
        """
        if sampling not in SAMPLING_POLICIES:
            raise ValueError(
                f"sampling must be one of {', '.join(SAMPLING_POLICIES)}, but it is {sampling!r}: use 'uniform' to "
                "see all of a long clip coarsely, 'snippets' for parts of it at full rate, 'dense' for everything."
            )
        if not 0 <= offset_seconds < self.seconds_per_chunk:
            raise ValueError(
                f"The grid's offset must lie in [0, {self.seconds_per_chunk:g}) s, one chunk, but it is "
                f"{offset_seconds:g} s: take it modulo the length of a chunk."
            )
        budget = self.max_chunks if max_chunks is None else max_chunks
        if budget < 1:
            raise ValueError(f"max_chunks must be at least 1, but it is {budget}: a clip needs one chunk.")
        seconds = self.seconds_per_chunk
        if not 0 <= duration <= MAX_CHUNKS * seconds:
            raise ValueError(
                f"A clip must last from 0 to {MAX_CHUNKS * seconds:g} s, {MAX_CHUNKS:,} chunks, but the duration of "
                f"this one is {duration} s: correct its times or its frame_rate, or cut it."
            )
        span = duration + offset_seconds
        num_native = max(1, math.ceil(span / seconds - 1e-6))  # 3.2 / 0.32 must give 10, not 11
        if sampling == "dense" or num_native <= budget:
            starts = np.arange(num_native) * seconds
        elif sampling == "snippets":
            starts = (np.arange(budget) + 0.5) * (span / budget) - seconds / 2
        else:
            seconds = span / budget
            starts = np.arange(budget) * seconds
        return ChunkPlan(starts - offset_seconds, seconds, self.num_frames_per_chunk)
