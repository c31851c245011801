"""Buffers of a live source for the chunk that is still open: a few small frames and a few seconds of 16 kHz sound."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from mirasol.chunks.time_grid import MIN_SOUND_SECONDS, TOLERANCE_SECONDS, ChunkPlan
from mirasol.features.feature_extraction_mirasol import HOP_SAMPLES, LOOKBACK_SAMPLES, SAMPLING_RATE, mel_power
from mirasol.media import Crop
from mirasol.media.resample import Resampler
from mirasol.media.sound import JITTER_SECONDS


class FrameBuffer:
    """Frames that the open chunk may show, cropped and resized; the latest frame is resized only once it is shown."""

    def __init__(self, processor: Any, crop: Crop | None):
        self.processor, self.crop, self.seconds = processor, crop, processor.grid.seconds_per_chunk
        self.times: list[float] = []
        self.pictures: list[Tensor | np.ndarray] = []  # tensors: uint8 [3, size, size]
        self.last_time: float | None = None

    def add(self, time: float, picture: UInt8[np.ndarray, "height width 3"]) -> None:
        """Take the next frame, and drop the one before it if no chunk shows it."""
        if len(self.times) > 1 and not self._is_shown(self.times[-1], time):
            self.times.pop()
            self.pictures.pop()
        elif self.times:
            self._pixels(len(self.times) - 1)
        self.times.append(time)
        self.pictures.append(picture)
        self.last_time = time

    def reaches_end(self, plan: ChunkPlan) -> bool:
        """True if all frames of the chunk have arrived."""
        return self.last_time is not None and self.last_time >= plan.times[0, 1] - TOLERANCE_SECONDS

    def holds_frame(self, plan: ChunkPlan) -> bool:
        """True if a frame is stamped inside the chunk."""
        return bool(plan.place_frames(np.array(self.times))[1][0])

    def close(self, plan: ChunkPlan) -> tuple[Float[Tensor, "1 frame 3 size size"], bool]:
        """The chunk's `pixel_values_videos` and whether it holds a frame; zeros if not. Past media are dropped."""
        size = self.processor.image_processor.image_size
        times = np.array(self.times)
        index, holds_frame = plan.place_frames(times)
        if holds_frame[0]:
            shown = torch.stack([self._pixels(int(place)) for place in index[0]])[None]
            values = self.processor.image_processor.to_pixel_values(shown)
        else:
            values = torch.zeros(1, plan.num_frames_per_chunk, 3, size, size)
        past = max(int(np.searchsorted(times, plan.times[0, 1] + TOLERANCE_SECONDS, side="right")) - 1, 0)
        del self.times[:past], self.pictures[:past]
        return values, bool(holds_frame[0])

    def state(self) -> dict[str, Any]:
        """Return the state that `load_state` takes."""
        pictures = [np.asarray(picture) for picture in self.pictures]
        is_small = [isinstance(picture, Tensor) for picture in self.pictures]
        return {"times": list(self.times), "last_time": self.last_time, "pictures": pictures, "is_small": is_small}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a `state()`."""
        self.times, self.last_time = list(state["times"]), state["last_time"]
        pairs = zip(state["pictures"], state["is_small"], strict=True)
        self.pictures = [torch.from_numpy(picture) if is_small else picture for picture, is_small in pairs]

    def _is_shown(self, time: float, next_time: float) -> bool:
        """True if a chunk asks for the frame on show between two frames."""
        if next_time - time > self.seconds:
            return True
        starts = np.arange(int(time // self.seconds) - 1, int(time // self.seconds) + 3) * self.seconds
        plan = ChunkPlan(starts, self.seconds, self.processor.num_frames_per_chunk)
        shown, holds_frame = plan.place_frames(np.array([-math.inf, time, next_time]))
        holds_next = plan.place_frames(np.array([next_time]))[1]
        return bool((shown == 1).any() or (holds_frame & ~holds_next).any())

    def _pixels(self, place: int) -> UInt8[Tensor, "3 size size"]:
        picture = self.pictures[place]
        if isinstance(picture, np.ndarray):
            small = self.processor.image_processor.crop_and_resize(picture[None], crop=self.crop)[0]
            self.pictures[place] = picture = small.contiguous()
        return picture


class SoundBuffer:
    """16 kHz sound that the open chunk may need, as gapless segments with their first sample's number."""

    def __init__(self, processor: Any):
        self.processor = processor
        self.rate: int | None = None
        self.end: float | None = None  # session seconds where the next gapless piece starts
        self.origin = 0.0  # session seconds of sample 0
        self.num_samples = 0  # up to the end of the last segment
        self.segments: list[tuple[int, np.ndarray]] = []  # number of the first sample, samples
        self._resampler: Resampler | None = None

    @property
    def watermark(self) -> float:
        """Session seconds up to which sound is resampled; -inf before the first of it."""
        return self.origin + self.num_samples / SAMPLING_RATE if self.num_samples else -math.inf

    def add(
        self, begin: float | None, rate: int, samples: Float32[np.ndarray, " sample"], closed_until: float
    ) -> dict[str, float]:
        """Take the next piece, placed as `SoundTrack` places it. Return the seconds of it that are dropped."""
        if begin is None or (self.end is not None and abs(begin - self.end) <= JITTER_SECONDS):
            begin = self.end or 0.0
        repeated = 0
        if self.end is not None and begin < self.end:  # the same seconds twice: the first ones stay
            repeated = min(round((self.end - begin) * rate), len(samples))
            samples, begin = samples[repeated:], self.end
        late = min(max(math.ceil((closed_until - begin) * rate - 1e-6), 0), len(samples))
        samples, begin = samples[late:], begin + late / rate
        if len(samples):
            if self._resampler is None or begin != self.end or rate != self.rate:
                self._start_segment(begin, rate)
            assert self._resampler is not None
            self._append(self._resampler.push(samples))
            self.end = begin + len(samples) / rate
        return {"repeated_audio_seconds": repeated / rate, "late_audio_seconds": late / rate}

    def finish(self) -> None:
        """End the segment, and flush its resampler."""
        if self._resampler is not None:
            self._append(self._resampler.push(np.zeros(0, np.float32), last=True))
            self._resampler = None

    def reaches_end(self, plan: ChunkPlan) -> bool:
        """Return True if all sound of the chunk has arrived."""
        return self.rate is not None and self.num_samples >= self._samples_of(plan)[1]

    def holds_sound(self, plan: ChunkPlan) -> bool:
        """True if the chunk has at least 10 ms of sound."""
        first, last = self._samples_of(plan)
        real = sum(max(min(begin + len(piece), last) - max(begin, first), 0) for begin, piece in self.segments)
        return real >= MIN_SOUND_SECONDS * SAMPLING_RATE

    def close(self, plan: ChunkPlan) -> tuple[Float[Tensor, "1 mel_frame mel"], bool]:
        """The chunk's `input_features` and whether it holds sound; zeros if not. Past media are dropped."""
        extractor, (first, last) = self.processor.feature_extractor, self._samples_of(plan)
        has_sound = self.holds_sound(plan)
        if has_sound:
            start = first - LOOKBACK_SAMPLES
            row = np.zeros(last - start, np.float32)
            for begin, piece in self.segments:
                known = piece[max(start - begin, 0) : max(last - begin, 0)]
                place = max(begin - start, 0)
                row[place : place + len(known)] = known
            features = extractor.log_mel(mel_power(torch.from_numpy(row)[None], extractor.num_mel_bins))
        else:
            features = torch.zeros(1, self.processor.num_mel_frames_per_chunk, extractor.num_mel_bins)
        kept = last - LOOKBACK_SAMPLES
        self.segments = [
            (max(begin, kept), piece[max(kept - begin, 0) :].copy())
            for begin, piece in self.segments
            if begin + len(piece) > kept
        ]
        return features, has_sound

    def state(self) -> dict[str, Any]:
        """Return the state that `load_state` takes."""
        names = ("rate", "end", "origin", "num_samples", "segments")
        resampler = None if self._resampler is None else self._resampler.state()
        return {name: getattr(self, name) for name in names} | {"resampler": resampler}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a `state()`."""
        for name in ("rate", "end", "origin", "num_samples"):
            setattr(self, name, state[name])
        self.segments = [(first, piece) for first, piece in state["segments"]]
        resampler = state["resampler"]
        self._resampler = None if resampler is None else Resampler.from_state(resampler)

    def _samples_of(self, plan: ChunkPlan) -> tuple[int, int]:
        """Numbers of the chunk's first and last sample (excluded); the grid is rounded to samples once."""
        first = round(-self.origin * SAMPLING_RATE) + round(float(plan.starts[0]) * SAMPLING_RATE)
        return first, first + self.processor.num_mel_frames_per_chunk * HOP_SAMPLES

    def _start_segment(self, begin: float, rate: int) -> None:
        self.finish()
        if self.rate is None:
            self.origin = begin
        self.rate, self._resampler = rate, Resampler(rate)
        self.num_samples = max(round((begin - self.origin) * SAMPLING_RATE), self.num_samples)
        self.segments.append((self.num_samples, np.zeros(0, np.float32)))

    def _append(self, samples: Float32[np.ndarray, " sample"]) -> None:
        first, piece = self.segments.pop() if self.segments else (self.num_samples, samples[:0])
        if first + len(piece) != self.num_samples:  # all of the segment so far is past
            self.segments.append((first, piece))
            first, piece = self.num_samples, samples[:0]
        self.segments.append((first, np.concatenate([piece, samples])))
        self.num_samples += len(samples)
