"""A clip gives what it gives alone, whatever stands beside it, behind it or in its masked inputs."""

import pytest
import torch

from mirasol.model.modeling_mirasol_encoder import run_real_chunks
from tests.model.tiny import BATCH, CHUNKS, LATENTS, media, questions, select, tiny_model, with_indices

# reason for tolerances in this file: other batch and sequence sizes sum in another order
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
LOSSES = ["loss", "text_loss", "latent_loss", "video_loss", "audio_loss"]


def mixed_clips():
    """Five clips: full, shorter, silent, audio only, and sound that begins late over a picture that ends early."""
    clips = media(batch=5, seed=1)
    video = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 0, 0]])
    audio = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 1, 1]])
    lengths = [5, 3, 4, 2, 5]
    return dict(clips, video_chunk_mask=video.bool(), audio_chunk_mask=audio.bool()), lengths


def with_garbage(clips, scale=100.0):
    """The clips with other values in every masked chunk."""
    changed = dict(clips)
    for values, mask in (("pixel_values_videos", "video_chunk_mask"), ("input_features", "audio_chunk_mask")):
        changed[values] = clips[values].clone()
        changed[values][~clips[mask]] = scale * torch.randn_like(changed[values][~clips[mask]])
    return changed


def test_masked_inputs_change_nothing_bit_for_bit():
    model = tiny_model()
    clips, _ = mixed_clips()
    text = questions(rows=5)

    with torch.no_grad():
        clean, dirty = model(**clips, **text), model(**with_garbage(clips), **text)

    for name in ["logits", *LOSSES]:
        assert torch.equal(clean[name], dirty[name]), name
    for name in ["last_hidden_state", "combined_features", "predicted_features", "surprise"]:
        assert torch.equal(clean.encoder_outputs[name], dirty.encoder_outputs[name]), name


@pytest.mark.parametrize("masks", ["video_chunk_mask", "audio_chunk_mask"])
def test_masks_do_hide_their_modality(masks):
    model = tiny_model()
    clips = media()

    with torch.no_grad():
        both = model.get_encoder()(**clips).last_hidden_state
        one = model.get_encoder()(**dict(clips, **{masks: torch.zeros_like(clips[masks])})).last_hidden_state

    assert (both != one).any(dim=-1).all()


def test_packed_chunks_equal_dense_chunks_in_value_and_gradient():
    model = tiny_model()
    clips, _ = mixed_clips()
    text = questions(rows=5)

    dense, packed = model(**clips, **text), model(**with_indices(clips), **text)

    torch.testing.assert_close(packed.logits, dense.logits, **CLOSE)
    for name in LOSSES:
        torch.testing.assert_close(packed[name], dense[name], **CLOSE)
    parameters = dict(model.named_parameters())
    dense_gradients = torch.autograd.grad(dense.loss, parameters.values(), allow_unused=True)
    packed_gradients = torch.autograd.grad(packed.loss, parameters.values(), allow_unused=True)
    for name, expected, found in zip(parameters, dense_gradients, packed_gradients, strict=True):
        assert (found is None) == (expected is None), name
        if found is not None:
            torch.testing.assert_close(
                found, expected, atol=1e-3, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_packing_computes_only_the_real_chunks():
    model = tiny_model()
    clips = with_indices(mixed_clips()[0])
    rows = []
    model.model.encoder.video_encoder.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    model.model.encoder.audio_encoder.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))

    model.get_encoder()(**clips)

    assert rows == [15, 14]


@pytest.mark.parametrize("packed", [False, True])
def test_each_clip_of_a_mixed_batch_equals_the_clip_alone(packed):
    model = tiny_model()
    clips, lengths = mixed_clips()
    text = questions(rows=5)["decoder_input_ids"]
    prepare = with_indices if packed else dict

    with torch.no_grad():
        together = model(**prepare(clips), decoder_input_ids=text)
        for row, length in enumerate(lengths):
            alone = model(**prepare(select(clips, row, length)), decoder_input_ids=text[row : row + 1])

            torch.testing.assert_close(together.logits[row : row + 1], alone.logits, **CLOSE)
            for name in ["combined_features", "predicted_features", "surprise"]:
                found = together.encoder_outputs[name][row : row + 1, :length]
                torch.testing.assert_close(found, alone.encoder_outputs[name], **CLOSE)
            latents = together.encoder_outputs.last_hidden_state[row : row + 1, : length * LATENTS]
            torch.testing.assert_close(latents, alone.encoder_outputs.last_hidden_state, **CLOSE)


@pytest.mark.parametrize("packed", [False, True])
def test_chunks_missing_at_the_start_equal_a_clip_that_starts_later(packed):
    """Chunks know their distance, not their number, so what comes after a gap is what it is without the gap."""
    model = tiny_model()
    clips, text = media(seed=2), questions()["decoder_input_ids"]
    clips["video_chunk_mask"][:, :2] = clips["audio_chunk_mask"][:, :2] = False
    later = {key: value[:, 2:] for key, value in clips.items()}
    prepare = with_indices if packed else dict

    with torch.no_grad():
        found = model(**prepare(clips), decoder_input_ids=text)
        expected = model(**prepare(later), decoder_input_ids=text)

    torch.testing.assert_close(found.logits, expected.logits, **CLOSE)
    for name in ["combined_features", "predicted_features", "surprise"]:
        torch.testing.assert_close(found.encoder_outputs[name][:, 2:], expected.encoder_outputs[name], **CLOSE)


def test_losses_ignore_padded_chunks():
    model = tiny_model()
    clips = media(seed=3)
    text = questions()
    padded = {key: torch.cat([value, value], dim=1) for key, value in clips.items()}
    for mask in ("video_chunk_mask", "audio_chunk_mask"):
        padded[mask][:, CHUNKS:] = False

    with torch.no_grad():
        short, long = model(**clips, **text), model(**padded, **text)

    for name in LOSSES:
        torch.testing.assert_close(long[name], short[name], **CLOSE)


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_a_batch_without_a_modality_still_runs_its_tower(modality):
    """Or sharded training deadlocks on the rank that has no sound."""
    model = tiny_model()
    clips = media()
    clips[f"{modality}_chunk_mask"] = torch.zeros(BATCH, CHUNKS, dtype=torch.bool)
    text = questions()

    dense, packed = model(**clips, **text), model(**with_indices(clips), **text)
    packed.loss.backward()

    torch.testing.assert_close(packed.loss, dense.loss, **CLOSE)
    for name, parameter in getattr(model.model.encoder, f"{modality}_encoder").named_parameters():
        assert parameter.grad is not None, name
        assert torch.equal(parameter.grad, torch.zeros_like(parameter.grad)), name


def test_a_clip_without_any_real_chunk_leaves_the_batch_finite():
    model = tiny_model()
    clips, text = media(), questions()
    clips["video_chunk_mask"][1] = clips["audio_chunk_mask"][1] = False

    output = model(**clips, **text)
    output.loss.backward()

    assert output.logits.isfinite().all()
    assert (output.encoder_outputs.surprise[1] == 0).all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_dummy_of_a_missing_modality_leaves_no_trace():
    """Its tower runs and gets a gradient of zero; all rows are zero, whatever the dummy holds."""
    tower = tiny_model().get_encoder().audio_encoder
    values = torch.full((2, 3, 7, 5), float("inf"))

    rows = run_real_chunks(tower, values, torch.zeros(0, dtype=torch.long))
    assert torch.equal(rows, torch.zeros(2, 3, 6, 8))

    run_real_chunks(tower, torch.randn(2, 3, 7, 5), torch.zeros(0, dtype=torch.long)).sum().backward()
    assert all((p.grad == 0).all() for p in tower.parameters())


def test_real_chunks_go_back_to_their_rows():
    tower = tiny_model().get_encoder().audio_encoder
    values, index = torch.randn(2, 3, 7, 5), torch.tensor([1, 3, 5])
    with torch.no_grad():
        rows, every = run_real_chunks(tower, values, index), run_real_chunks(tower, values, None)

    torch.testing.assert_close(rows.flatten(0, 1)[index], every.flatten(0, 1)[index], **CLOSE)
    assert (rows.flatten(0, 1)[[0, 2, 4]] == 0).all()


@pytest.mark.parametrize("packed", [False, True])
def test_a_blank_clip_changes_no_loss_and_no_gradient(packed):
    """A clip without a real chunk and without an answer fills up a batch; it may be all that a rank has."""
    prepare = with_indices if packed else dict
    model = tiny_model()
    clips, text = media(batch=4, seed=5), questions(rows=4)
    for mask in ("video_chunk_mask", "audio_chunk_mask"):
        clips[mask][2:] = False
    text["labels"][2:] = -100
    alone = {key: value[:2] for key, value in clips.items()}
    expected = model(**prepare(alone), **{key: value[:2] for key, value in text.items()})
    expected.loss.backward()

    def gradients() -> list[torch.Tensor]:
        found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        return found

    without = gradients()
    found = model(**prepare(clips), **text)
    found.loss.backward()
    for name in LOSSES:
        torch.testing.assert_close(found[name], expected[name], **CLOSE)
    for gradient, expected_gradient in zip(gradients(), without, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, **CLOSE)

    only = {key: value[2:] for key, value in clips.items()}
    empty = model(**prepare(only), **{key: value[2:] for key, value in text.items()})
    empty.loss.backward()
    assert empty.loss == 0
    assert not any(gradient.any() for gradient in gradients())
