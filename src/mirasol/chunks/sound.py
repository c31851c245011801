"""Sound -> mel frames of each chunk, placed by seconds."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from mirasol.chunks.time_grid import MIN_SOUND_SECONDS, SECONDS_PER_MEL_FRAME, ChunkPlan
from mirasol.features.feature_extraction_mirasol import (
    HOP_SAMPLES,
    LOOKBACK_SAMPLES,
    MirasolFeatureExtractor,
    mel_power,
)
from mirasol.media import release

COLUMNS_AT_ONCE = 2_048


def chunks_with_sound(
    plan: ChunkPlan,
    num_samples: int,
    audio_start: float,
    sampling_rate: int,
    audio_gaps: Sequence[tuple[float, float]] = (),
) -> Bool[Tensor, " chunk"]:
    """Return the mask of chunks that hold at least 10 ms of sound, gaps (seconds) not counted."""
    first = _first_samples(plan, audio_start, sampling_rate)
    last = first + round(plan.seconds_per_chunk * sampling_rate)
    held = last.clamp(max=num_samples) - first.clamp(min=0)
    for gap in audio_gaps:
        begin, end = (round((time - audio_start) * sampling_rate) for time in gap)
        held -= (last.clamp(max=min(end, num_samples)) - first.clamp(min=max(begin, 0))).clamp(min=0)
    return held >= MIN_SOUND_SECONDS * sampling_rate


def log_mel_chunks(
    plan: ChunkPlan,
    waveform: Float[Tensor | np.ndarray, " sample"],
    audio_start: float,
    num_mel_frames_per_chunk: int,
    extractor: MirasolFeatureExtractor,
) -> Float[Tensor, "chunk mel_frame mel"]:
    """Return the log-mel of each chunk, with the floor where there is no sound.

    Chunks longer than `num_mel_frames_per_chunk` mel frames (policy `uniform`) average the *power* of those they
    cover before the log, because a mean of logs would hide short loud sounds.

    No chunk reads a sample at or after its end. That holds from this 16 kHz waveform on: resampling from a native rate
    looks up to 12 ms ahead (24 ms at 8 kHz).
    """
    firsts = _first_samples(plan, audio_start, extractor.sampling_rate).tolist()
    covered = plan.seconds_per_chunk / SECONDS_PER_MEL_FRAME
    # Whole mel frames only: one that begins in the chunk and ends after it belongs to the next.
    columns = math.floor(covered + 1e-6)
    if columns <= num_mel_frames_per_chunk:
        samples = _samples(waveform, firsts, num_mel_frames_per_chunk)
        return extractor.log_mel(mel_power(samples, extractor.num_mel_bins))
    weights = averaging_weights(covered, num_mel_frames_per_chunk, columns)
    mean_power = torch.zeros(len(firsts), num_mel_frames_per_chunk, extractor.num_mel_bins)
    for chunk, first in enumerate(firsts):  # a part at a time: an hour in 16 chunks is 22,500 columns each
        for column in range(0, columns, COLUMNS_AT_ONCE):
            share = weights[:, column : column + COLUMNS_AT_ONCE]
            samples = _samples(waveform, [first + column * HOP_SAMPLES], share.shape[1])
            (power,) = mel_power(samples, extractor.num_mel_bins)
            mean_power[chunk] += einsum(power, share, "column mel, mel_frame column -> mel_frame mel")
        if isinstance(waveform, np.ndarray):
            release(waveform)
    return extractor.log_mel(mean_power)


def _samples(waveform, firsts: Sequence[int], columns: int) -> Float[Tensor, "row sample"]:
    """Return the samples that the mel frames from each of these samples on read, zeros where there is no sound."""
    samples = torch.zeros(len(firsts), LOOKBACK_SAMPLES + columns * HOP_SAMPLES)
    for row, first in zip(samples, firsts, strict=True):
        begin = first - LOOKBACK_SAMPLES
        piece = torch.as_tensor(waveform[max(0, begin) : max(0, begin + len(row))])
        row[max(0, -begin) : max(0, -begin) + len(piece)] = piece
    return samples


def averaging_weights(covered: float, num_mel_frames: int, columns: int) -> Float[Tensor, "mel_frame column"]:
    """Weights that average `covered` columns of 10 ms into `num_mel_frames`; edges share a column by overlap.

    Only `columns` of them, the whole ones, are heard. Example, 5 columns into 2, and 4.5 of which 4 are whole:

        0.4 0.4 0.2  0   0          0.44 0.44 0.11  0
         0   0  0.2 0.4 0.4          0    0   0.43 0.57
    """
    width = covered / num_mel_frames
    edges = torch.arange(num_mel_frames + 1, dtype=torch.float64) * width
    column = torch.arange(columns, dtype=torch.float64)
    overlap = (torch.minimum(edges[1:, None], column + 1) - torch.maximum(edges[:-1, None], column)).clamp_min(0)
    return (overlap / overlap.sum(dim=1, keepdim=True)).float()


def _first_samples(plan: ChunkPlan, audio_start: float, sampling_rate: int) -> Tensor:
    """Return each chunk's first sample in the waveform, maybe negative; the grid is rounded to samples once."""
    origin = round((float(plan.starts[0]) - audio_start) * sampling_rate)
    since_first = torch.from_numpy(plan.starts - plan.starts[0]) * sampling_rate
    return origin + since_first.round().long()
