"""Combiner outputs are masked at random in training, one vector at a time, and never otherwise."""

import torch

from tests.model.tiny import LATENTS, MANY_CHUNKS, media, tiny_model

RATE = 0.3


def encoder_of(rate: float):
    return tiny_model(temporal_config={"combined_mask_probability": rate}).get_encoder()


def read_by_the_first_layer(encoder, clips):
    """What the temporal model's first layer reads, without the slot's embedding: [batch chunk latent dim]."""
    temporal, seen = encoder.temporal_model, []
    temporal.layers[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    output = encoder(**clips)
    return seen[0].unflatten(1, (-1, LATENTS)) - temporal.slot_embedding, output


def test_nothing_is_masked_outside_training():
    with torch.no_grad():
        always, never = (encoder_of(rate)(**media()) for rate in (1.0, 0.0))
    assert torch.equal(always.last_hidden_state, never.last_hidden_state)


def test_training_masks_single_vectors_at_the_stated_rate():
    encoder = encoder_of(RATE).train()
    read, output = read_by_the_first_layer(encoder, media(chunks=MANY_CHUNKS))

    difference = (read - encoder.temporal_model.mask_embedding).abs().amax(dim=-1)
    masked = difference < 1e-5
    kept = (read - output.combined_features).abs().amax(dim=-1) < 1e-5
    assert torch.equal(masked, ~kept)
    assert abs(masked.float().mean().item() - RATE) < 0.07  # 506 vectors: three standard deviations
    assert (masked.any(dim=-1) & kept.any(dim=-1)).sum() > MANY_CHUNKS  # not whole chunks


def test_masking_is_drawn_anew_at_every_step():
    encoder = encoder_of(RATE).train()
    first, second = (encoder(**media()).last_hidden_state for _ in range(2))
    assert not torch.equal(first, second)


def test_targets_of_the_next_chunk_are_not_masked():
    encoder = encoder_of(1.0)
    with torch.no_grad():
        watched, trained = encoder(**media()), encoder.train()(**media())
    assert torch.equal(watched.combined_features, trained.combined_features)
    # All inputs masked, all chunks of a clip differ by their place alone, and clips not at all.
    assert torch.equal(trained.last_hidden_state[0], trained.last_hidden_state[1])
