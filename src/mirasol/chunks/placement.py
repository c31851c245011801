"""Placement of one clip on the time grid: frames of each chunk, masks of real chunks, and a report for the user."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mirasol.chunks.sound import chunks_with_sound
from mirasol.chunks.time_grid import SECONDS_PER_MEL_FRAME, TOLERANCE_SECONDS, ChunkPlan
from mirasol.media import Clip, is_silent
from mirasol.media.notes import SILENT

MAX_MEL_FRAMES_INTO_ONE = 4
UNUSED = "has sound, but it is not used"


@dataclass(frozen=True)
class Placement:
    """Placement of a clip's frames and sound in the chunks of a plan. Masks: True = real."""

    plan: ChunkPlan
    frame_index: Int[np.ndarray, "chunk frame"]
    video_chunk_mask: Bool[Tensor, " chunk"]
    audio_chunk_mask: Bool[Tensor, " chunk"]


def place_clip(clip: Clip, plan: ChunkPlan, use_video: bool = True, use_audio: bool = True) -> Placement:
    """The clip's frames and sound in the plan's chunks, without trailing chunks that hold nothing."""
    if not (clip.duration > 0 and math.isfinite(clip.audio_start)):
        raise ValueError(
            f"A clip needs the seconds where it ends and where its sound begins, but it has duration={clip.duration} "
            f"and audio_start={clip.audio_start}: set both."
        )
    num_chunks = len(plan.starts)
    frame_index = np.zeros((num_chunks, plan.num_frames_per_chunk), dtype=np.int64)
    video_mask = audio_mask = torch.zeros(num_chunks, dtype=torch.bool)
    if use_video and clip.frames is not None and clip.frame_times is not None:
        if len(clip.frames) != len(clip.frame_times):
            raise ValueError(
                f"Every frame needs its time, but the clip has {len(clip.frames)} frames and {len(clip.frame_times)} "
                "times: give frame_times one second for each frame."
            )
        times = np.asarray(clip.frame_times)
        if not (np.isfinite(times).all() and (times >= -TOLERANCE_SECONDS).all() and (np.diff(times) >= 0).all()):
            raise ValueError(
                f"frame_times must be increasing seconds from 0 on, but they begin {times[:5].tolist()} and go from "
                f"{times.min()} to {times.max()}: sort the frames by the second each is shown."
            )
        frame_index, holds_frame = plan.place_frames(clip.frame_times)
        video_mask = torch.from_numpy(holds_frame)
    if use_audio and clip.waveform is not None:
        audio_mask = chunks_with_sound(plan, len(clip.waveform), clip.audio_start, clip.sampling_rate, clip.audio_gaps)
    real = (video_mask | audio_mask).nonzero()
    if len(real) == 0:
        raise ValueError(
            f"A clip needs at least one frame or 10 ms of sound that is used, but this one ({clip.duration:g} s) has "
            f"{0 if clip.frames is None else len(clip.frames)} frames with use_video={use_video} and "
            f"{0 if clip.waveform is None else len(clip.waveform)} samples with use_audio={use_audio}: "
            "use the other track too, or leave the clip out."
        )
    count = int(real[-1]) + 1
    plan = replace(plan, starts=plan.starts[:count])
    return Placement(plan, frame_index[:count], video_mask[:count], audio_mask[:count])


@dataclass(frozen=True)
class ClipReport:
    """Report of the part of one clip that the processor used."""

    duration_seconds: float
    seconds_covered: float  # of the clip, by the spans of the chunks
    num_chunks: int
    seconds_per_chunk: float
    num_frames: int  # decoded
    num_frames_used: int
    found_sound: bool
    used_sound: bool
    is_silent: bool  # sound was read, but no sample is above -70 dB
    warnings: list[str] = field(default_factory=list)

    @property
    def sound(self) -> str:
        """Use of the sound in words."""
        if self.used_sound:
            return "silent" if self.is_silent else "used"
        return "found, not used" if self.found_sound else "not found"

    def __str__(self) -> str:
        lines = [
            f"{self.seconds_covered:.2f} of {self.duration_seconds:.2f} s covered by {self.num_chunks} chunks of "
            f"{self.seconds_per_chunk:g} s; {self.num_frames_used} frames used; sound {self.sound}"
        ]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])


def report(clip: Clip, placement: Placement, num_mel_frames_per_chunk: int) -> ClipReport:
    """Report the part of the clip that this placement uses, with a warning for each thing it leaves out."""
    plan = placement.plan
    found_sound = clip.waveform is not None or bool(clip.info and clip.info.has_audio)
    used_sound = bool(placement.audio_chunk_mask.any())
    messages = list(clip.warnings)
    source = clip.info.source if clip.info else "The clip"
    silent = clip.waveform is not None and is_silent(clip.waveform)
    if found_sound and not used_sound:
        messages.append(f"{source} {UNUSED}: pass use_audio=True and sound of at least 10 ms to use it.")
    if used_sound and silent:
        messages.append(f"{source} {SILENT}")
    mel_frames = plan.seconds_per_chunk / SECONDS_PER_MEL_FRAME / num_mel_frames_per_chunk
    if used_sound and mel_frames > MAX_MEL_FRAMES_INTO_ONE:
        messages.append(
            f"Sampling 'uniform' averages {mel_frames:.1f} mel frames of 10 ms into one, and more than "
            f"{MAX_MEL_FRAMES_INTO_ONE} blur speech: where sound matters ask about shorter segments, or pass "
            "sampling='snippets' or a larger max_chunks."
        )
    used_index = placement.frame_index[placement.video_chunk_mask.numpy()]
    times = plan.times.clip(0.0, clip.duration)
    return ClipReport(
        duration_seconds=clip.duration,
        seconds_covered=float((times[:, 1] - times[:, 0]).sum()),
        num_chunks=len(plan.starts),
        seconds_per_chunk=plan.seconds_per_chunk,
        num_frames=0 if clip.frames is None else len(clip.frames),
        num_frames_used=len(np.unique(used_index)),
        found_sound=found_sound,
        used_sound=used_sound,
        is_silent=silent,
        warnings=messages,
    )
