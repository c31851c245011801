"""Every parameter learns, from the losses that should teach it."""

import torch

from tests.model.tiny import media, questions, tiny_model

GATE = 0.1  # at 0, as with a pretrained language model, no gradient would reach what lies behind the gate


def trained(clips, seed=0, **weights):
    """A model after one backward pass in training mode, its gates open by a crack."""
    torch.manual_seed(seed)
    model = tiny_model(temporal_config={"combined_mask_probability": 0.3}, **weights).train()
    for layer in model.model.decoder.layers:
        torch.nn.init.constant_(layer.cross_attention_gate, GATE)
    model(**clips, **questions()).loss.backward()
    return model


def untouched(module):
    """Names of the parameters that got no gradient, or only zeros."""
    return [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def half_missing(modality):
    clips = media()
    clips[f"{modality}_chunk_mask"][:, ::2] = False
    return clips


def test_gradient_reaches_every_parameter():
    clips = media()
    clips["video_chunk_mask"][0, ::2] = False
    clips["audio_chunk_mask"][1, ::2] = False

    model = trained(clips)

    assert untouched(model) == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_text_loss_alone_reaches_both_encoders():
    model = trained(media(), latent_weight=0.0, video_weight=0.0, audio_weight=0.0)
    encoder = model.model.encoder

    for part in (encoder.video_encoder, encoder.audio_encoder, encoder.temporal_model, model.model.decoder):
        assert untouched(part) == []
    assert untouched(encoder.combiner) == ["missing_embedding"]
    assert untouched(encoder.next_chunk) == [name for name, _ in encoder.next_chunk.named_parameters()]


def test_placeholder_of_a_modality_learns_where_it_is_missing():
    for index, modality in enumerate(("video", "audio")):
        gradient = trained(half_missing(modality)).model.encoder.combiner.missing_embedding.grad
        assert gradient[index].abs().sum() > 0, modality
        assert gradient[1 - index].abs().sum() == 0, modality


def test_latent_target_gives_no_gradient():
    """With the prediction held fixed nothing is left of the cosine loss: its target is detached."""
    model = tiny_model(temporal_config={"variance_weight": 0.0, "covariance_weight": 0.0})
    output = model(**media(), **questions())
    combined = output.encoder_outputs.combined_features

    gradient = torch.autograd.grad(output.latent_loss, combined, retain_graph=True)[0]

    assert gradient[:, -1].abs().sum() == 0  # the last chunk is nothing but a target
    assert (gradient[:, :-1].abs().amax(dim=(0, 2, 3)) > 0).all()
