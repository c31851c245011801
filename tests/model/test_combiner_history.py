"""History: what is computed as a band is one block mask over the whole sequence of slots."""

import pytest
import torch
from einops import rearrange

from mirasol.model.modeling_mirasol_combiner import history_mask, previous_chunks, slot_mask
from mirasol.model.modeling_mirasol_layers import rotary
from tests.model.test_combiner_kinds import HISTORY, features, model_of
from tests.model.test_masks import drawn
from tests.model.tiny import BATCH, LATENTS, MANY_CHUNKS, tiny_model

DRAWN = {
    (True, True, True): """
        1 1 . . . .
        1 1 . . . .
        . 1 1 1 . .
        . 1 1 1 . .
        . . . 1 1 1
        . . . 1 1 1
        """,
    (True, False, True): """
        1 1 . . . .
        1 1 . . . .
        . 1 1 1 . .
        . 1 1 1 . .
        . . . . 1 1
        . . . . 1 1
        """,
}


def whole_mask(chunk_mask, own, num_history_chunks, num_latents):
    """The block mask over all slots of a clip, rule by rule; `own` says which slots are keys of their own chunk."""
    chunks, slots = own.shape
    mask = torch.zeros(chunks, slots, chunks, slots, dtype=torch.bool)
    for query in range(chunks):
        for key in range(chunks):
            for slot in range(slots):
                if key == query:
                    mask[query, :, key, slot] = own[query, slot]
                elif 0 < query - key <= num_history_chunks and slot >= slots - num_latents:
                    mask[query, :, key, slot] = chunk_mask[key]
    return rearrange(mask, "query q key k -> (query q) (key k)")


@pytest.mark.parametrize("real", DRAWN)
def test_history_mask_is_the_band_of_the_drawing(real):
    chunk_mask = torch.tensor(real)
    expected = whole_mask(chunk_mask, torch.ones(3, 2, dtype=torch.bool), 1, 1)
    assert expected.tolist() == drawn(DRAWN[real])

    band = history_mask(torch.cat([torch.tensor([False]), chunk_mask])[None], 1, 1)

    assert band.shape == (3, 1, 1, 1)
    for chunk in (1, 2):
        assert (band[chunk].flatten() == expected[2 * chunk, 2 * chunk - 1]).all()  # the kept slot of the chunk before
    assert not band[0].any()


def test_previous_chunks_come_oldest_first():
    values = torch.arange(7)[None, :, None, None].expand(2, -1, 3, 5).float()

    found = previous_chunks(values, 2)

    assert found.shape == (2 * 5, 2 * 3, 5)
    assert found[:5, ::3, 0].tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5]]


def test_history_equals_one_block_mask_over_the_whole_sequence():
    """Every layer over all slots of all chunks at once, rotary by the number of the chunk."""
    combiner = model_of("history").model.encoder.combiner
    video, audio, video_mask, audio_mask = features(MANY_CHUNKS)
    with torch.no_grad():
        found, _ = combiner(video, audio, video_mask, audio_mask)

        slots = combiner.project(video, audio, video_mask, audio_mask, combiner.missing_embedding)
        sequence = rearrange(slots + combiner.slot_embedding, "batch chunk slot dim -> batch (chunk slot) dim")
        own = slot_mask(video_mask.flatten(), audio_mask.flatten(), combiner.sizes)[:, 0, 0]
        own = rearrange(own, "(batch chunk) slot -> batch chunk slot", batch=BATCH)
        real = video_mask | audio_mask
        mask = torch.stack([whole_mask(real[row], own[row], HISTORY, LATENTS) for row in range(BATCH)])[:, None]
        position = torch.arange(MANY_CHUNKS).repeat_interleave(slots.shape[2])
        rotation = rotary(position[None], 10, combiner.config.rope_theta, sequence.dtype)
        for layer in combiner.layers:
            sequence = layer(sequence, mask, rotation)
        expected = rearrange(combiner.norm(sequence), "b (chunk slot) dim -> b chunk slot dim", chunk=MANY_CHUNKS)

    # rotary by distance and by number differ in rounding, and so do sums over 14 and 500 keys
    torch.testing.assert_close(found, expected[:, :, -LATENTS:], atol=5e-5, rtol=1e-4)


def test_history_adds_no_parameter_and_a_first_chunk_is_as_without():
    """So a checkpoint without history can be trained on with it."""
    without, with_history = tiny_model().model.encoder.combiner, model_of("history").model.encoder.combiner
    assert {k: v.shape for k, v in without.state_dict().items()} == {
        k: v.shape for k, v in with_history.state_dict().items()
    }
    with_history.load_state_dict(without.state_dict())
    inputs = features(2)
    with torch.no_grad():
        expected, found = without(*inputs)[0], with_history(*inputs)[0]

    torch.testing.assert_close(found[:, 0], expected[:, 0], atol=2e-5, rtol=1e-4)
    assert (found[:, 1] - expected[:, 1]).abs().max() > 1e-2


def test_the_distance_of_a_chunk_matters():
    """The same chunk one or two chunks back is not the same."""
    combiner = model_of("history").model.encoder.combiner
    video, audio, *_ = features(3)
    real = torch.ones(BATCH, 3, dtype=torch.bool)
    gap, near = real.clone(), real.clone()
    gap[:, 1], near[:, 0] = False, False
    video[:, 1], audio[:, 1] = video[:, 0], audio[:, 0]
    with torch.no_grad():
        far, close = (combiner(video, audio, mask, mask)[0][:, 2] for mask in (gap, near))

    assert (far - close).abs().max() > 1e-2
