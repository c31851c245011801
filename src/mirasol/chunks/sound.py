"""Sound -> log-mel columns of each chunk, placed by seconds."""

import math

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


def chunks_with_sound(
    plan: ChunkPlan, num_samples: int, audio_start: float, sampling_rate: int
) -> Bool[Tensor, " chunk"]:
    """Which chunks are real for sound: those that hold at least 10 ms of it."""
    first = _first_samples(plan, audio_start, sampling_rate)
    last = first + round(plan.seconds_per_chunk * sampling_rate)
    return last.clamp(max=num_samples) - first.clamp(min=0) >= MIN_SOUND_SECONDS * sampling_rate


def log_mel_chunks(
    plan: ChunkPlan,
    waveform: Float[Tensor, " sample"],
    audio_start: float,
    num_mel_frames_per_chunk: int,
    extractor: MirasolFeatureExtractor,
) -> Float[Tensor, "chunk mel_frame mel"]:
    """The log-mel of each chunk; where there is no sound, its floor.

    Chunks longer than `num_mel_frames_per_chunk` columns (policy `uniform`) average the *power* of the columns they
    cover before the log, because a mean of logs would hide short loud sounds.
    """
    columns = max(num_mel_frames_per_chunk, math.ceil(plan.seconds_per_chunk / SECONDS_PER_MEL_FRAME - 1e-6))
    length = LOOKBACK_SAMPLES + columns * HOP_SAMPLES
    samples = waveform.new_zeros(len(plan.starts), length)
    for row, first in zip(samples, _first_samples(plan, audio_start, extractor.sampling_rate).tolist(), strict=True):
        begin = first - LOOKBACK_SAMPLES
        piece = waveform[max(0, begin) : max(0, begin + length)]
        row[max(0, -begin) : max(0, -begin) + len(piece)] = piece
    if columns == num_mel_frames_per_chunk:
        power = mel_power(samples, extractor.num_mel_bins)
    else:
        weights = averaging_weights(plan.seconds_per_chunk / SECONDS_PER_MEL_FRAME, num_mel_frames_per_chunk, columns)
        # One chunk at a time: an hour in 16 chunks is 22,500 columns each.
        power = torch.cat([_average(mel_power(row, extractor.num_mel_bins), weights) for row in samples.split(1)])
    return extractor.log_mel(power)


def averaging_weights(covered: float, num_mel_frames: int, columns: int) -> Float[Tensor, "mel_frame column"]:
    """Weights that average `covered` columns of 10 ms into `num_mel_frames`; a column on an edge is shared by overlap.

    Example, 5 columns into 2:  0.4 0.4 0.2  0   0
                                 0   0  0.2 0.4 0.4
    """
    width = covered / num_mel_frames
    edges = torch.arange(num_mel_frames + 1, dtype=torch.float64) * width
    column = torch.arange(columns, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], column + 1) - torch.maximum(edges[:-1, None], column)
    return (overlap.clamp_min(0) / width).float()


def _average(
    power: Float[Tensor, "chunk column mel"], weights: Float[Tensor, "mel_frame column"]
) -> Float[Tensor, "chunk mel_frame mel"]:
    return einsum(power, weights, "chunk column mel, mel_frame column -> chunk mel_frame mel")


def _first_samples(plan: ChunkPlan, audio_start: float, sampling_rate: int) -> Tensor:
    """Where each chunk starts in the waveform, in samples, maybe negative; the grid is rounded to samples once."""
    origin = round((float(plan.starts[0]) - audio_start) * sampling_rate)
    since_first = torch.from_numpy(plan.starts - plan.starts[0]) * sampling_rate
    return origin + since_first.round().long()
