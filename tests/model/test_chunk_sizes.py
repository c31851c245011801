"""Chunks of 4 to 64 frames, 4 to 128 of them: every combination builds, and learns."""

import pytest
import torch

from tests.model.tiny import IMAGE_SIZE, MEL, questions, tiny_model


def model_of(num_frames: int):
    """A tiny model whose chunks hold so many frames, and two log-mel columns a frame."""
    tubes = (((4, 5, 5), (4, 5, 5), (0, 0, 0)), ((1, 4, 4), (num_frames, 6, 6), (0, 0, 0)))
    return tiny_model(
        video_config={"num_frames": num_frames, "tubes": tubes},
        audio_config={"num_mel_frames": 2 * num_frames, "patches": (((4, 5), (4, 5), (0, 0)),)},
        combiner_config={"num_latents": 5},
        temporal_config={"predicted_video_size": (2, 5, 2), "predicted_audio_size": (num_frames, 1)},
    )


def clip(num_frames: int, num_chunks: int):
    start = 0.1 * num_frames * torch.arange(num_chunks)
    mask = torch.ones(1, num_chunks, dtype=torch.bool)
    return {
        "pixel_values_videos": torch.randn(1, num_chunks, num_frames, 3, IMAGE_SIZE, IMAGE_SIZE),
        "input_features": torch.randn(1, num_chunks, 2 * num_frames, MEL),
        "video_chunk_mask": mask,
        "audio_chunk_mask": mask,
        "chunk_times": torch.stack([start, start + 0.1 * num_frames], dim=-1)[None],
    }


@pytest.mark.parametrize("num_chunks", [4, 16, 128])
@pytest.mark.parametrize("num_frames", [4, 8, 16, 32, 64])
def test_chunks_of_any_size_and_number_learn(num_frames, num_chunks):
    model = model_of(num_frames).train()

    output = model(**clip(num_frames, num_chunks), **questions(rows=1))
    output.loss.backward()

    assert output.encoder_outputs.last_hidden_state.shape[1] == 5 * num_chunks
    untouched = {name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0}
    assert untouched <= {"model.encoder.combiner.missing_embedding"}  # nothing is missing here
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_parameters_do_not_grow_with_chunks_and_only_codes_of_slots_and_windows_with_their_frames():
    sizes = {
        num_frames: {name: p.numel() for name, p in model_of(num_frames).named_parameters()} for num_frames in (4, 64)
    }
    grown = {name for name in sizes[4] if sizes[64][name] != sizes[4][name]}
    assert grown == {
        "model.encoder.combiner.slot_embedding",
        "model.encoder.next_chunk.audio.weight",  # this test asks it for more columns
        "model.encoder.next_chunk.audio.bias",
    }
