"""The transformer Combiner: slots [video, audio] in fixed number, of which the last m outputs are kept."""

import pytest
import torch

from tests.model.tiny import LATENTS, tiny_model

VIDEO_TOKENS, AUDIO_TOKENS, CHUNKS = 16, 6, 4


@pytest.fixture(scope="module")
def combiner():
    return tiny_model().model.encoder.combiner


def features():
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(1, CHUNKS, VIDEO_TOKENS, 12, generator=generator)
    return video, torch.randn(1, CHUNKS, AUDIO_TOKENS, 8, generator=generator)


@pytest.mark.parametrize(("has_video", "has_audio"), [(True, True), (True, False), (False, True)])
def test_combined_features_are_the_last_outputs_of_all_slots(combiner, has_video, has_audio):
    """Every layer in full over what is there; a missing modality asks, through its placeholder, and is not asked."""
    video, audio = features()
    masks = torch.full((1, CHUNKS), has_video), torch.full((1, CHUNKS), has_audio)
    with torch.no_grad():
        found, cache = combiner(video, audio, *masks)

        slots = [combiner.video_projection(video), combiner.audio_projection(audio)]
        for index, present in enumerate((has_video, has_audio)):
            if not present:
                slots[index] = combiner.missing_embedding[index].expand_as(slots[index])
        hidden_states = torch.cat(slots, dim=2)[0] + combiner.slot_embedding
        keys = torch.tensor([has_video] * VIDEO_TOKENS + [has_audio] * AUDIO_TOKENS)
        for layer in combiner.layers:
            hidden_states = layer(hidden_states, keys[None, None, None].expand(CHUNKS, 1, 1, -1))
        expected = combiner.norm(hidden_states)[:, -LATENTS:]

    assert cache == {}
    assert found.shape == (1, CHUNKS, LATENTS, 20)
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)  # other shapes sum in another order


def test_chunks_are_combined_each_for_itself(combiner):
    video, audio = features()
    masks = torch.tensor([[True, False, True, False]]), torch.tensor([[True, True, False, False]])
    with torch.no_grad():
        found, _ = combiner(video, audio, *masks)
        changed, _ = combiner(video.index_fill(1, torch.tensor([2]), 3.0), audio, *masks)

    assert torch.equal(found[:, [0, 1, 3]], changed[:, [0, 1, 3]])
    assert not torch.equal(found[:, 2], changed[:, 2])
    assert found.isfinite().all()


@pytest.mark.parametrize("kind", ["perceiver", "learned_tokens"])
@pytest.mark.parametrize(("has_video", "has_audio"), [(True, True), (True, False), (False, True)])
def test_learned_vectors_read_what_is_there_as_if_nothing_else_existed(kind, has_video, has_audio):
    """By hand, without masks: only slots of real modalities are tokens; learned tokens change them, queries do not."""
    combiner = tiny_model(combiner_config={"combiner_type": kind}).model.encoder.combiner
    video, audio = features()
    with torch.no_grad():
        found, _ = combiner(video, audio, torch.full((1, CHUNKS), has_video), torch.full((1, CHUNKS), has_audio))

        slots = [combiner.video_projection(video)[0], combiner.audio_projection(audio)[0]]
        embeddings = combiner.slot_embedding.split([VIDEO_TOKENS, AUDIO_TOKENS])
        real = [slot + code for slot, code, has in zip(slots, embeddings, (has_video, has_audio), strict=True) if has]
        tokens = torch.cat([*real, combiner.queries.expand(CHUNKS, -1, -1)], dim=1)
        given = tokens[:, :-LATENTS]
        for layer in combiner.layers:
            tokens = layer(tokens)
            if kind == "perceiver":
                tokens = torch.cat([given, tokens[:, -LATENTS:]], dim=1)
        expected = combiner.norm(tokens[:, -LATENTS:])

    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)  # other shapes sum in another order
