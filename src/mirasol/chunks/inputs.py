"""A placed clip -> `pixel_values_videos` and `input_features` of its chunks, zeros where not real."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mirasol.chunks.placement import Placement
from mirasol.chunks.sound import log_mel_chunks
from mirasol.features.feature_extraction_mirasol import MirasolFeatureExtractor, check_waveform
from mirasol.features.image_processing_mirasol import MirasolVideoProcessor, check_frames
from mirasol.media import WHOLE, Clip, blocks


def pixel_values(
    clip: Clip, placement: Placement, image_processor: MirasolVideoProcessor, do_resize: bool = True
) -> Float[Tensor, "chunk frame 3 size size"]:
    """Return the frames of every chunk. Without `do_resize` they already are squares of the model's size."""
    size, mask, num_frames = (
        image_processor.image_size,
        placement.video_chunk_mask,
        placement.plan.num_frames_per_chunk,
    )
    values = torch.zeros(len(mask), num_frames, 3, size, size)
    if not mask.any():
        return values
    used, index = np.unique(placement.frame_index[mask.numpy()], return_inverse=True)
    assert clip.frames is not None, "a real chunk has frames"
    frames = check_frames(clip.frames)
    if not do_resize and frames.shape[1:3] != (size, size):
        raise ValueError(
            f"With do_resize=False frames must be {size} x {size} pixels, but these are "
            f"{frames.shape[1]} x {frames.shape[2]}: resize them, or leave do_resize on."
        )
    pixels = image_processor.crop_and_resize(
        frames, crop=clip.crop if do_resize else WHOLE, selected=None if len(used) == len(frames) else used
    ).contiguous()  # whole frames are copied faster when each is one piece of memory
    shown = torch.from_numpy(index.reshape(-1, num_frames))
    for chunk, frames_of_chunk in zip(mask.nonzero().flatten().tolist(), shown, strict=True):
        values[chunk] = image_processor.to_pixel_values(pixels[frames_of_chunk])
    return values


def input_features(
    clip: Clip,
    placement: Placement,
    extractor: MirasolFeatureExtractor,
    num_mel_frames: int,
    spec_augment: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "chunk mel_frame mel"]:
    """Return the log-mel of every chunk, changed by `spec_augment` as one piece before it is masked."""
    mask = placement.audio_chunk_mask
    if not mask.any():
        return torch.zeros(len(mask), num_mel_frames, extractor.num_mel_bins)
    if clip.sampling_rate != extractor.sampling_rate:
        raise ValueError(
            f"Sound must come at {extractor.sampling_rate} Hz, but this clip's sampling_rate is "
            f"{clip.sampling_rate} Hz: resample it to {extractor.sampling_rate} Hz first."
        )
    assert clip.waveform is not None, "a real chunk has sound"
    begin = 0
    for block in blocks(clip.waveform):
        check_waveform(block, begin)
        begin += len(block)
    features = log_mel_chunks(placement.plan, clip.waveform, clip.audio_start, num_mel_frames, extractor)
    if spec_augment is not None:
        features = spec_augment(features)
    return features.masked_fill(~mask[:, None, None], 0.0)
