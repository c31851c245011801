"""Frames and sound as they arrive -> closed chunks on the time grid, by event time."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from mirasol.chunks.stream_buffers import FrameBuffer, SoundBuffer
from mirasol.chunks.time_grid import TOLERANCE_SECONDS, ChunkPlan
from mirasol.features.feature_extraction_mirasol import check_waveform
from mirasol.features.image_processing_mirasol import check_frames
from mirasol.media import Crop

LONGEST_GAP_SECONDS = 600.0  # of a live source; a longer jump is a broken clock
MAX_CHANNELS = 32


@dataclass(frozen=True)
class ClosedChunk:
    """One chunk that later media cannot change: the model's inputs for it, without batch axis."""

    index: int
    inputs: dict[str, Tensor]

    @property
    def seconds(self) -> tuple[float, float]:
        """Start and end in session time."""
        start, end = self.inputs["chunk_times"][0].tolist()
        return start, end

    @property
    def has_video(self) -> bool:
        return bool(self.inputs["video_chunk_mask"][0])

    @property
    def has_audio(self) -> bool:
        return bool(self.inputs["audio_chunk_mask"][0])


class ChunkStream:
    """Cuts a live source into chunks, equal to those of `processor(sampling="dense")` on the whole recording.

    A modality's watermark is the session time up to which all of it has arrived: the last frame's timestamp, the end
    of the sound that is resampled. A chunk closes when every declared modality has passed its end, or when the fastest
    is `allowed_lateness` seconds past it. Media that arrive for a closed chunk are dropped and counted:

        chunk       |------ 0 ------|------ 1 ------|------ 2 ------|
        frames      x   x   x   x   x   x   x   x   x   x            watermark 1.2
        sound       ~~~~~~~~~~~~~~~~~~~~~~~~                         watermark 0.8: chunk 0 is closed, 1 waits for it

    Args:
        processor: Gives grid, crop and log-mel.
        use_video, use_audio: The declared modalities; `push` refuses the other one.
        allowed_lateness: Seconds; `math.inf` waits for ever.
        start_time: t = 0 of the session on the source's clock; None: the first media pushed.
        crop: Square crop that replaces the processor's.
    """

    def __init__(
        self,
        processor: Any,
        *,
        use_video: bool = True,
        use_audio: bool = True,
        allowed_lateness: float = 2.0,
        start_time: float | None = None,
        crop: Crop | None = None,
    ):
        if not (use_video or use_audio):
            raise ValueError("Expected use_video or use_audio, found both False: nothing could be pushed.")
        if not allowed_lateness >= 0:
            raise ValueError(f"allowed_lateness is in seconds, 0 or more, but it is {allowed_lateness}.")
        self.processor, self.grid = processor, processor.grid
        allowed_lateness = float(allowed_lateness)
        use_video, use_audio = bool(use_video), bool(use_audio)
        self.use_video, self.use_audio, self.allowed_lateness = use_video, use_audio, allowed_lateness
        self.start_time = None if start_time is None else self._second(start_time, "t = 0")
        self.num_closed = 0
        self._open = self._plan(0)
        self.dropped: Counter[str] = Counter()  # late_ and repeated_frames, late_ and repeated_audio_seconds
        self.video = FrameBuffer(processor, crop)
        self.audio = SoundBuffer(processor)

    @property
    def next_start(self) -> float:
        """Start of the chunk that is open, in session time."""
        return float(self._open.starts[0])

    def push(
        self,
        frames: Any = None,
        frame_times: Any = None,
        waveform: Any = None,
        start_time: float | None = None,
        sampling_rate: int | None = None,
    ) -> list[ClosedChunk]:
        """Take frames, sound or both, and return the chunks that they close.

        A frame stamped at or before the one before it is left out and counted, as in a file.

        Args:
            frames: uint8 RGB [frame, height, width, 3], or a list of pictures that may differ in size.
            frame_times: The second each is shown, on the source's clock.
            waveform: [sample] or [channel, sample]: floats in [-1, 1] or int16.
            start_time: Second of the first sample; None: it continues the piece before, or starts at t = 0.
            sampling_rate: Hz; may be left out after the first piece.

        Raises:
            ValueError: The input is invalid. The stream is unchanged and can continue.
        """
        if (frames is None and frame_times is not None) or (waveform is None and start_time is not None):
            raise ValueError("Found frame_times without frames, or start_time without waveform: pass what they stamp.")
        pictures, times = self._check_frames(frames, frame_times)
        samples, rate = self._check_sound(waveform, start_time, sampling_rate)
        origin = self.start_time
        if origin is None:
            firsts = [*times[:1], *([] if samples is None or start_time is None else [float(start_time)])]
            origin = min(firsts, default=0.0)
        times = [time - origin for time in times]
        begin = None if start_time is None else float(start_time) - origin
        self._check_gaps(times, begin if samples is not None else None)
        self.start_time = origin if times or samples is not None else self.start_time
        closed_until = self.next_start
        for picture, time in zip(pictures, times, strict=True):
            if self.video.last_time is not None and time <= self.video.last_time:
                self.dropped["repeated_frames"] += 1
            elif time < closed_until - TOLERANCE_SECONDS:
                self.dropped["late_frames"] += 1
            else:
                self.video.add(time, picture)
        if samples is not None:
            lost = self.audio.add(begin, rate, samples, closed_until)
            self.dropped.update({name: seconds for name, seconds in lost.items() if seconds})
        return self._close_ready()

    def flush(self) -> list[ClosedChunk]:
        """Close all chunks that hold media, as at the end of a file. Later media for them are late."""
        self.audio.finish()
        last = self.num_closed - 1
        chunk = self.num_closed
        reached = max(self.video.last_time or 0.0, self.audio.watermark) + TOLERANCE_SECONDS
        while (plan := self._plan(chunk)).starts[0] <= reached:
            if self.video.holds_frame(plan) or self.audio.holds_sound(plan):
                last = chunk
            chunk += 1
        return [self._close() for _ in range(self.num_closed, last + 1)]

    def state(self) -> dict[str, Any]:
        """Numbers and arrays from which `load_state` continues with the same bits."""
        names = ("start_time", "num_closed", "use_video", "use_audio", "allowed_lateness")
        parts = {"dropped": dict(self.dropped), "video": self.video.state(), "audio": self.audio.state()}
        return {name: getattr(self, name) for name in names} | parts

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the stream that returned this `state()`."""
        for name in ("start_time", "num_closed", "use_video", "use_audio", "allowed_lateness"):
            setattr(self, name, state[name])
        self._open = self._plan(self.num_closed)
        self.dropped = Counter(state["dropped"])
        self.video.load_state(state["video"])
        self.audio.load_state(state["audio"])

    # ---- closing

    def _plan(self, index: int) -> ChunkPlan:
        """The plan of one chunk, with the numbers that `TimeGrid.plan` gives it."""
        seconds = self.grid.seconds_per_chunk
        return ChunkPlan(np.array([index]) * seconds, seconds, self.grid.num_frames_per_chunk)

    def _watermarks(self) -> dict[str, float]:
        marks = {"video": -math.inf if self.video.last_time is None else self.video.last_time}
        marks["audio"] = self.audio.watermark
        return {name: marks[name] for name in marks if getattr(self, f"use_{name}")}

    def _close_ready(self) -> list[ClosedChunk]:
        closed: list[ClosedChunk] = []
        while True:
            plan = self._open
            waits_for_video = self.use_video and not self.video.reaches_end(plan)
            waits_for_audio = self.use_audio and not self.audio.reaches_end(plan)
            if waits_for_video or waits_for_audio:
                if max(self._watermarks().values()) < plan.times[0, 1] + self.allowed_lateness:
                    return closed
                if waits_for_audio:
                    self.audio.finish()  # what has arrived counts; the rest of this chunk is late
            closed.append(self._close())

    def _close(self) -> ClosedChunk:
        plan = self._open
        pixel_values, has_video = self.video.close(plan)
        input_features, has_audio = self.audio.close(plan)
        inputs = {
            "pixel_values_videos": pixel_values,
            "input_features": input_features,
            "video_chunk_mask": torch.tensor([has_video]),
            "audio_chunk_mask": torch.tensor([has_audio]),
            "chunk_times": torch.from_numpy(plan.times),  # float64: a stream may last for days
        }
        self.num_closed += 1
        self._open = self._plan(self.num_closed)
        return ClosedChunk(self.num_closed - 1, inputs)

    # ---- what may come in

    @staticmethod
    def _second(value: Any, name: str) -> float:
        if not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"start_time is the second of {name}, but it is {value!r}: pass a finite number.")
        return float(value)

    def _check_frames(self, frames: Any, frame_times: Any) -> tuple[list[UInt8[np.ndarray, "h w 3"]], list[float]]:
        if frames is None:
            return [], []
        if not self.use_video:
            raise ValueError("This stream has use_video=False, but frames were pushed: leave them out.")
        try:
            pictures = [check_frames(_array(frame)[None])[0] for frame in frames]
            times = np.asarray([] if frame_times is None else frame_times, np.float64).reshape(-1)
        except TypeError as error:
            raise ValueError(
                f"Frames are a sequence of RGB pictures and frame_times one of seconds, but they are {type(frames)} "
                f"and {type(frame_times)}: pass lists or arrays, also for one frame."
            ) from error
        if len(times) != len(pictures) or not np.isfinite(times).all():
            raise ValueError(
                f"Every frame needs its second, but there are {len(pictures)} frames and {len(times)} frame_times, "
                f"beginning {times[:5].tolist()}: pass one finite number for each frame."
            )
        return pictures, times.tolist()

    def _check_sound(
        self, waveform: Any, start_time: float | None, sampling_rate: int | None
    ) -> tuple[Float32[np.ndarray, " sample"] | None, int]:
        if waveform is None:
            return None, 0
        if not self.use_audio:
            raise ValueError("This stream has use_audio=False, but sound was pushed: leave it out.")
        rate = self.audio.rate if sampling_rate is None else sampling_rate
        if not isinstance(rate, Real) or not 1_000 <= rate <= 384_000:
            raise ValueError(f"Sound needs its sampling_rate in Hz, but it is {rate!r}: pass for example 48000.")
        if start_time is not None:
            self._second(start_time, "the first sample")
        samples = _array(waveform)
        if samples.size == 0:
            return None, 0
        if samples.dtype == np.int16:
            samples = samples.astype(np.float32) / 32_768
        if samples.ndim == 2 and len(samples) <= MAX_CHANNELS:
            samples = samples.mean(axis=0, dtype=np.float32)
        return check_waveform(samples).numpy(), int(rate)

    def _check_gaps(self, times: Sequence[float], begin: float | None) -> None:
        reached = max(self.next_start, self.video.last_time or 0.0, self.audio.end or 0.0)
        for time in [*([] if begin is None else [begin]), *times]:
            if time - reached > LONGEST_GAP_SECONDS:
                raise ValueError(
                    f"Media at {time:.2f} s of the session come {time - reached:.2f} s after all before, more than "
                    f"the {LONGEST_GAP_SECONDS:.0f} s that a pause may last: the source's clock is broken, or the "
                    "stream's start_time is missing. Correct the times, or start a new stream."
                )
            reached = max(reached, time)


def _array(value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    return np.asarray(value)
